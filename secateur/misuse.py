"""Command lines that make no sense: said before anything is sent."""

import argparse
import sys

from secateur.amounts import SEARCHED_BUDGETS
from secateur.asked import QUANTIZE_OPTIONS, chosen, is_pruning, is_storing, said_of_steps
from secateur.grids import ALL
from secateur.options import BUDGETS
from secateur.quantization import Activations

MISUSED = 2
"""The exit code of a wrong command line."""

_NAMES = {
    "recover": "--round-finetune",
    "search": "--minimize, --trials, --search-seconds",
}
"""Options that are not named as what they say in a spec."""

_NEEDED = {
    **dict.fromkeys(QUANTIZE_OPTIONS, ("quantize",)),
    "factorize": ("rank",),
    "cast_inputs": ("cast",),
    "keep_float": ("quantize", "cast"),
}
"""Options that refine what another says, and which that may be."""

_NEED_INPUTS = (
    *("reconstruct", "distill", "distill_quantized"),
    *("bias_correction", "smooth", "float_layers"),
)
"""Options that read training inputs, and no labels."""


def check_compare(options: argparse.Namespace) -> None:
    """Stop at a comparison that cannot be."""
    _check_pairs(options)
    _check_train(options)
    if ALL in options.criteria and options.criteria != [ALL]:
        _stop(f"--criteria {ALL} is all of them: leave out the others")


def check_compress(options: argparse.Namespace) -> None:
    """Stop at steps that cannot be, or if there are none."""
    if options.recipe is not None:
        if said := said_of_steps(options):
            _stop(f"--recipe says every step: leave out {_named(said)}, or edit the recipe")
        return
    _check_pairs(options)
    _check_train(options)
    pruning = chosen(options)
    if options.rank is not None:
        pruning.pop("exclude", None)  # Nothing of these layers is taken apart, either.
    if options.plan is not None and pruning:
        _stop(f"--plan says what goes: leave out {_named(list(pruning))}, or edit the plan")
    if pruning or not is_storing(options):
        others = () if is_storing(options) else ("--rank", "--quantize", "--cast", "--recipe JSON")
        check_amount(options, "--plan", *others)


def check_amount(options: argparse.Namespace, *others: str) -> None:
    """A pattern N:M says how much by itself, so that no budget is required of all."""
    if not is_pruning(options):
        names = ", ".join((*(f"--{name}" for name, *_ in BUDGETS), "--pattern N:M", *others))
        _stop(f"say how much: give one of {names}")


def _check_pairs(options: argparse.Namespace) -> None:
    """Name what an option refines, where that is not given."""
    for name, needed in _NEEDED.items():
        is_alone = all(getattr(options, each) is None for each in needed)
        if is_alone and getattr(options, name) not in (None, 0):
            others = " or ".join(f"--{each}" for each in needed)
            _stop(f"{_named([name])} says more of {others}: give that, too")


def _check_train(options: argparse.Namespace) -> None:
    """Name the option that needs data, where there is none."""
    if options.train is not None:
        return
    for name in SEARCHED_BUDGETS:
        if getattr(options, name) is not None:
            _stop(f"--{name} tries models on rows of labeled data: give --train")
    if options.finetune or options.round_finetune:
        _stop("--finetune needs labeled data: give --train")
    if options.finetune_quantized:
        _stop("--finetune-quantized needs labeled data: give --train")
    if options.activations == Activations.STATIC:
        _stop("--activations static needs inputs, without labels: give --train")
    if options.rounding == "compensated":
        _stop("--rounding compensated needs inputs, without labels: give --train")
    for name in _NEED_INPUTS:
        if getattr(options, name):
            _stop(f"{_named([name])} needs inputs, without labels: give --train")


def _named(said: list[str]) -> str:
    return ", ".join(_NAMES.get(name, f"--{name.replace('_', '-')}") for name in said)


def _stop(message: str) -> None:
    sys.stderr.write(f"secateur: {message}\n")
    raise SystemExit(MISUSED)
