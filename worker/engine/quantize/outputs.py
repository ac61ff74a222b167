"""How far layers' outputs are from what they were, on calibration rows."""

import math
from collections.abc import Collection, Mapping

import numpy as np
from torch import Tensor
from torch.fx import Node

from worker.engine.batch import Batch
from worker.engine.data import Rows
from worker.engine.graph.weights import weight_calls
from worker.engine.program import Program
from worker.engine.quantize.sample import look

_ROWS = 64
_BATCH = 16
_TINY = 1e-30


def output_errors(
    reference: Program, program: Program, rows: Rows, *, seed: int
) -> Mapping[str, float]:
    """The relative error of each layer's output, all that comes before it included.

    Root of the mean square of the difference over that of the reference's output, by the name of
    the layer's weight; of layers that both programs have, and that give numbers.

    Args:
        reference: What layers should give.
        program: With weights of the same names.
        rows: Inputs are read, 64 rows at most.
        seed: Chooses rows.
    """
    theirs = {call.parameter: call.node for call in weight_calls(reference)}
    ours = {call.parameter: call.node for call in weight_calls(program)}
    names = [name for name in theirs if name in ours]
    squares = dict.fromkeys(names, 0.0)
    totals = dict.fromkeys(names, 0.0)
    order = np.random.default_rng(seed).permutation(len(rows))[:_ROWS]
    for batch in rows.batches(program, _BATCH, order=order):
        before = _given(reference, [theirs[name] for name in names], batch)
        after = _given(program, [ours[name] for name in names], batch)
        for name in names:
            was = before[theirs[name]].double()
            squares[name] += float((after[ours[name]].double() - was).square().sum())
            totals[name] += float(was.square().sum())
    errors = {name: (squares[name] / max(totals[name], _TINY)) ** 0.5 for name in names}
    return {name: error for name, error in errors.items() if math.isfinite(error)}


def _given(program: Program, nodes: Collection[Node], batch: Batch) -> dict[Node, Tensor]:
    """What nodes give on a batch."""
    found: dict[Node, Tensor] = {}

    def show(node: Node, value: Tensor) -> None:
        found[node] = value.clone()  # What follows may write into it.

    look(program, nodes, iter([batch]), show)
    return found
