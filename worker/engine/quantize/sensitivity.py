"""Which weights the outputs miss most where they alone have few bits."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from worker.engine.batch import run_batch
from worker.engine.config import QuantizeConfig
from worker.engine.data import Rows
from worker.engine.graph.weights import WeightCall
from worker.engine.program import Program, attribute, named_parameters
from worker.engine.quantize.sample import sampled
from worker.engine.recovery.setting import Setting

# The program runs on them once for each weight, and layers that matter most stand out by far.
_ROWS = 64


@torch.no_grad()
def most_sensitive(
    program: Program,
    calls: Sequence[WeightCall],
    quantized_weight: Callable[[WeightCall], Tensor],
    config: QuantizeConfig,
    rows: Rows,
    setting: Setting,
    count: int,
) -> list[WeightCall]:
    """The calls whose weights, quantized alone, change the program's outputs most.

    The change is the mean of the squared difference of each output, relative to the output's own
    mean square, over at most 64 calibration rows. A weight that several calls read is one.

    Args:
        program: With float weights. Not changed.
        calls: Weight calls of it.
        quantized_weight: What a call's weight becomes, in its shape.
        config: Its rows, and how many at once.
        rows: Inputs; targets are not read.
        setting: Its seed chooses rows.
        count: Of how many weights the calls are wanted.

    Returns:
        Those of ``calls``, in their order, that read one of the ``count`` most sensitive weights.

    Raises:
        DataMismatchError: There are fewer than 16 rows, or the program does not run on them.
    """
    if count <= 0:
        return []
    names = _names_of(program, calls)
    weights = {call.parameter: quantized_weight(call) for call in calls if call.parameter in names}
    changes = dict.fromkeys(weights, 0.0)
    order = sampled(config, rows, setting)[:_ROWS]
    for batch in rows.batches(program, config.batch_size, order=order):
        expected = run_batch(program, batch)
        for name, weight in weights.items():
            with program.holding(dict.fromkeys(names[name], weight)):
                found = run_batch(program, batch)
            changes[name] += batch.count * _change(found, expected)
    # Of equals the first: sorting keeps their order.
    worst = sorted(weights, key=lambda name: -changes[name])[:count]
    held = {id(attribute(program.module, name)) for name in worst}
    return [call for call in calls if id(attribute(program.module, call.parameter)) in held]


def _names_of(program: Program, calls: Sequence[WeightCall]) -> dict[str, tuple[str, ...]]:
    """For the first name of each weight that calls read all names that it has."""
    every = {name: names for names, _ in named_parameters(program) for name in names}
    first: dict[tuple[str, ...], str] = {}
    for call in calls:
        first.setdefault(every[call.parameter], call.parameter)
    return {name: names for names, name in first.items()}


def _change(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Infinite where a difference is no number."""
    total = 0.0
    for one, other in zip(found, expected, strict=True):
        if not other.is_floating_point() or not other.numel():
            continue
        difference = (one.double() - other.double()).square().mean()
        size = other.double().square().mean()
        if difference > 0 or difference.isnan():
            total += float(difference / size)
    return total if total == total else float("inf")
