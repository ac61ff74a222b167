"""How far layers' outputs are from what they were, on calibration rows."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from worker.engine.batch import computing_with_data
from worker.engine.data import Rows
from worker.engine.graph.weights import weight_calls
from worker.engine.program import Program

_ROWS = 64
_BATCH = 16
_TINY = 1e-30


class Outputs(Interpreter):
    """Runs a program, and keeps what some of its nodes give."""

    def __init__(self, program: Program, nodes: Iterable[Node]) -> None:
        super().__init__(program.module)
        self.extra_traceback = False  # It would be appended to messages that users read.
        self._program = program
        self._wanted = set(nodes)
        self.kept: dict[Node, Any] = {}

    @torch.no_grad()
    def watch(self, inputs: Sequence[Any]) -> dict[Node, Any]:
        """What the nodes give on flat inputs."""
        self.kept = {}
        with self._program.unwritten(self._program.as_taken(inputs)) as own:
            super().run(*own)
        return self.kept

    def run_node(self, n: Node) -> Any:
        with computing_with_data():
            found = super().run_node(n)
        if n in self._wanted:
            # A copy: what follows may write into it.
            self.kept[n] = found.clone() if isinstance(found, Tensor) else found
        return found


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
    expected = Outputs(reference, [theirs[name] for name in names])
    found = Outputs(program, [ours[name] for name in names])
    squares = dict.fromkeys(names, 0.0)
    totals = dict.fromkeys(names, 0.0)
    order = np.random.default_rng(seed).permutation(len(rows))[:_ROWS]
    for batch in rows.batches(program, _BATCH, order=order):
        before, after = expected.watch(batch.inputs), found.watch(batch.inputs)
        for name in names:
            was = before[theirs[name]].double()
            squares[name] += float((after[ours[name]].double() - was).square().sum())
            totals[name] += float(was.square().sum())
    errors = {name: (squares[name] / max(totals[name], _TINY)) ** 0.5 for name in names}
    return {name: error for name, error in errors.items() if math.isfinite(error)}
