"""What a command line asks for, in the words of specs."""

import argparse
from typing import Any

from secateur.amounts import Budget
from secateur.criteria import Criterion
from secateur.grids import ALL
from secateur.options import BATCH_SIZE

_PRUNE_OPTIONS = (
    "algorithm",
    "scope",
    "granularity",
    "exclude",
    "channel_multiple",
    "pattern",
    "floor",
    "aggregation",
    "normalization",
    "rounds",
    "schedule",
)
"""How to prune, besides how much: named as in the spec."""

_AMOUNTS = (*Budget.model_fields, "pattern", "plan")
"""What says how much is pruned: a pattern N:M and a plan do so by themselves."""

QUANTIZE_OPTIONS = (
    "activations",
    "calibration",
    "rounding",
    "codebook_size",
    "quant_granularity",
    "group_size",
    "bias_correction",
    "equalize",
    "smooth",
    "float_layers",
    "finetune_quantized",
    "distill_quantized",
)
"""What only makes sense with a format to quantize to."""

_STEP_OPTIONS = (
    *("reconstruct", "distill", "finetune", "optimizer"),
    *("factorize", "rank", "quantize", *QUANTIZE_OPTIONS, "cast", "cast_inputs", "keep_float"),
)
"""What says something of steps other than pruning."""

_EVALUATION_OPTIONS = ("latency_rounds", "latency_batch_size", "noise_std", "fgsm_epsilon")


def evaluation(options: argparse.Namespace) -> dict[str, Any]:
    # A comparison measures no safety.
    said = _given({name: getattr(options, name, None) for name in _EVALUATION_OPTIONS})
    return {**said, "latency_mode": "compiled"} if options.compiled else said


def objective(options: argparse.Namespace) -> dict[str, Any]:
    return _given({"task": options.task, "output": options.output_index})


def grid(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "criteria": ALL if options.criteria == [ALL] else options.criteria,
        "budgets": [
            {name: value} for name in Budget.model_fields for value in getattr(options, name) or ()
        ],
        "algorithms": options.algorithms,
        "prune": chosen(options),
        "then": _after_pruning(options, is_pruned=True),
    }


def recipe(options: argparse.Namespace) -> Any:
    """The steps, in the order in which they are run; or the document that was given for them."""
    if options.recipe is not None:
        return options.recipe
    first: list[dict[str, Any]] = []
    if options.plan is not None:
        first = [{"step": "apply_plan", "plan": options.plan}]
    elif is_pruning(options):
        first = [prune_step(options)]
    return [*first, *_after_pruning(options, is_pruned=bool(first))]


def is_pruning(options: argparse.Namespace) -> bool:
    """Whether it is said how much is pruned."""
    return any(getattr(options, name, None) is not None for name in _AMOUNTS)


def is_storing(options: argparse.Namespace) -> bool:
    """Whether something makes the model smaller besides pruning."""
    names = ("rank", "quantize", "cast")
    return any(getattr(options, name, None) is not None for name in names)


def said_of_steps(options: argparse.Namespace) -> list[str]:
    """The options that say something of steps, but for how much is pruned."""
    others = [name for name in _STEP_OPTIONS if getattr(options, name) not in (None, False, 0)]
    if options.learning_rate is not None:
        others.append("learning_rate")
    if options.batch_size != BATCH_SIZE:
        others.append("batch_size")
    return [*chosen(options), *others]


def _after_pruning(options: argparse.Namespace, *, is_pruned: bool) -> list[dict[str, Any]]:
    """The steps after pruning: what changes how weights are stored is last."""
    steps = _factorize(options)
    steps += _recovery(options, is_cut=is_pruned or bool(steps))
    if options.cast is not None:
        said = {"dtype": options.cast, "cast_inputs": options.cast_inputs}
        steps.append({"step": "cast", **_given({**said, "keep_float": options.keep_float})})
    return [*steps, *_quantize(options)]


def _factorize(options: argparse.Namespace) -> list[dict[str, Any]]:
    if options.rank is None:
        return []
    said = {"method": options.factorize, "rank": options.rank, "exclude": options.exclude}
    return [{"step": "factorize", **_given(said)}]


def _quantize(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The step, and what trains behind it."""
    if options.quantize is None:
        return []
    trained = {"distill_quantized": "distill", "finetune_quantized": "finetune"}
    said = {name: getattr(options, name) for name in QUANTIZE_OPTIONS if name not in trained}
    said["granularity"] = said.pop("quant_granularity")
    said["keep_float"] = options.keep_float
    return [
        {"step": "quantize", "weights": options.quantize, **_given(said)},
        *(
            _training(step, options, epochs)
            for name, step in trained.items()
            if (epochs := getattr(options, name))
        ),
    ]


def _recovery(options: argparse.Namespace, *, is_cut: bool) -> list[dict[str, Any]]:
    """What gives back what a cut has lost."""
    steps: list[dict[str, Any]] = []
    # What reconstruction solves for makes up for the statistics, too.
    if options.reconstruct:
        steps.append({"step": "reconstruct"})
    elif options.train is not None and is_cut:
        steps.append({"step": "recalibrate"})
    if options.distill:
        steps.append(_training("distill", options, options.distill))
    if options.finetune:
        steps.append(_training("finetune", options, options.finetune))
    return steps


def _training(step: str, options: argparse.Namespace, epochs: int) -> dict[str, Any]:
    said = {"optimizer": options.optimizer, "learning_rate": options.learning_rate}
    return {"step": step, "epochs": epochs, **_given(said), "batch_size": options.batch_size}


def prune_step(options: argparse.Namespace) -> dict[str, Any]:
    budget = _given({name: getattr(options, name) for name in Budget.model_fields})
    return {"step": "prune", **({"budget": budget} if budget else {}), **chosen(options)}


def chosen(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of how to prune; the spec has a default for the rest."""
    # A comparison varies the criterion and the algorithm.
    said = {name: getattr(options, name, None) for name in ("criterion", *_PRUNE_OPTIONS)}
    if getattr(options, "option", None):
        name = options.criterion or Criterion.MAGNITUDE.value
        said["criterion"] = {"name": name, **dict(options.option)}
    if getattr(options, "round_finetune", 0):
        said["recover"] = [_training("finetune", options, options.round_finetune)]
    how_long = {"trials": options.trials, "seconds": options.search_seconds}
    said["search"] = _given({"minimize": options.minimize, **how_long}) or None
    return _given(said)


def _given(said: dict[str, Any]) -> dict[str, Any]:
    """Only what the command line says: the spec has a default for the rest."""
    return {name: value for name, value in said.items() if value is not None}
