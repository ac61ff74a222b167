"""The step as a whole: which layers, which ranks, what was lost."""

from dataclasses import replace

import torch

from worker.engine.changed import KEPT, Changed, LayerLine
from worker.engine.config import FactorizeConfig
from worker.engine.data import Rows
from worker.engine.errors import NothingToChangeError
from worker.engine.factorize.bench import Bench
from worker.engine.factorize.layers import Layer, layers_of
from worker.engine.factorize.loss import free_offset, output_error, weight_error
from worker.engine.factorize.parts import balanced
from worker.engine.factorize.ranks import named, ranks_of
from worker.engine.factorize.rewrite import Replacement, rewritten
from worker.engine.graph.counts import count
from worker.engine.graph.coupling import couple
from worker.engine.program import Program, attribute
from worker.engine.prune.plan import unmatched_warning
from worker.engine.recovery.setting import Setting

_MOST_NAMED = 3


@torch.no_grad()
def factorize(
    program: Program, config: FactorizeConfig, rows: Rows | None, setting: Setting
) -> Changed:
    """Take layers apart into products of smaller ones.

    What is lost is weighed by the second moments of what each layer reads on training rows, if
    there are any: an error counts as much as it changes outputs. A layer is taken apart only if
    that saves what the budget counts (parameters, where ranks come from energy or noise).

    Args:
        program: Not changed; the result shares tensors with it.
        config: The method, and how ranks are chosen.
        rows: Training data; inputs alone are read. None weighs all inputs the same.
        setting: Seed and progress.

    Raises:
        NothingToChangeError: No layer can be taken apart, or none would be smaller.
        TargetUnreachableError: The budget cannot be met with every layer as small as it can be.
        NotFiniteError: A layer reads NaN or infinity on the training rows.
        ExportError: The result does not export, or not with the same dynamic dimensions.
    """
    found = list(layers_of(program, config, sparse=setting.sparse))
    layers = [each for each in found if isinstance(each, Layer)]
    reasons = dict(each for each in found if not isinstance(each, Layer))
    if not layers:
        raise NothingToChangeError(_nothing("no layer can be taken apart", reasons))
    coupling = couple(program, exclude=config.exclude)
    bench = Bench(coupling, layers, config, rows, setting.seed)
    progress = _Progress(setting, len(layers))
    ranks = ranks_of(bench, config, count(coupling), progress.half)
    reasons |= ranks.reasons
    if not ranks.chosen:
        message = _nothing("no layer gets smaller with the ranks asked for", reasons)
        raise NothingToChangeError(message, pointer="/rank")
    lines: dict[str, LayerLine] = {}
    replacements = []
    for layer in layers:
        if layer in ranks.chosen:
            replacement, lines[layer.name] = _taken_apart(bench, layer, ranks.chosen[layer])
            replacements.append(replacement)
        progress.half()
    names = (each.name if isinstance(each, Layer) else each[0] for each in found)
    return Changed(
        rewritten(program, replacements),
        tuple(lines.get(name) or _kept(program, name, reasons[name]) for name in names),
        (*map(unmatched_warning, coupling.unmatched), *bench.warnings(), *ranks.warnings),
    )


class _Progress:
    """Each layer counts when its ranks are found, and when its parts are."""

    def __init__(self, setting: Setting, layers: int) -> None:
        self._setting = setting
        self._layers = layers
        self._halves = 0

    def half(self) -> None:
        self._halves += 1
        self._setting.on_progress(self._halves // 2, self._layers)


def _taken_apart(
    bench: Bench, layer: Layer, ranks: tuple[int, ...]
) -> tuple[Replacement, LayerLine]:
    made = bench.decomposition(layer)
    dtype = layer.stored.dtype
    # What is measured is what is stored.
    parts = [
        replace(part, weight=part.weight.to(dtype).double()) for part in balanced(made.parts(ranks))
    ]
    moments = bench.moments(layer)
    width = layer.stored.element_size()
    line = LayerLine(
        layer=layer.name,
        became=named(made, ranks),
        bytes_before=layer.parameters * width,
        bytes_after=sum(part.weight.numel() for part in parts) * width,
        weight_error=weight_error(layer, parts),
        output_error=output_error(layer, parts, moments),
    )
    return Replacement(layer, parts, free_offset(layer, parts, moments)), line


def _kept(program: Program, name: str, reason: str) -> LayerLine:
    tensor = attribute(program.module, name)
    assert isinstance(tensor, torch.Tensor)
    size = tensor.numel() * tensor.element_size()
    return LayerLine(name, KEPT, size, size, reason=reason)


def _nothing(what: str, reasons: dict[str, str]) -> str:
    said = [f"{name} {reason}" for name, reason in list(reasons.items())[:_MOST_NAMED]]
    more = f" and {len(reasons) - _MOST_NAMED} more" if len(reasons) > _MOST_NAMED else ""
    why = f" ({'; '.join(said)}{more})" if said else ": the model multiplies with no weights"
    return (
        f"{what}{why}; ask for lower ranks or for method 'auto', exclude less, or leave the step "
        "out"
    )
