"""Rows to calibrate on, and a look at values on them."""

from collections.abc import Callable, Collection, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from worker.engine.batch import Batch, computing_with_data
from worker.engine.config import QuantizeConfig
from worker.engine.data import Rows
from worker.engine.errors import DataMismatchError
from worker.engine.program import Program
from worker.engine.recovery.setting import Setting

LEAST_ROWS = 16
"""Of fewer rows nothing can be said about those to come."""


def sampled(config: QuantizeConfig, rows: Rows, setting: Setting) -> np.ndarray:
    """Numbers of the rows to calibrate on: int64, the same for the same seed.

    Raises:
        DataMismatchError: There are fewer than 16, or so few are asked for.
    """
    if config.sample_count < LEAST_ROWS:
        raise DataMismatchError(
            f"a sample_count of {config.sample_count} is too few rows to calibrate on: give at "
            f"least {LEAST_ROWS}; 512 are enough for most models",
            pointer="/sample_count",
        )
    if len(rows) < LEAST_ROWS:
        raise rows.mismatch(
            f"the training data has {len(rows)} rows, too few to calibrate on: give at least "
            f"{LEAST_ROWS}, of the kind that the model will see; 512 are enough for most models"
        )
    return np.random.default_rng(setting.seed).permutation(len(rows))[: config.sample_count]


def look(
    program: Program,
    nodes: Collection[Node],
    batches: Iterator[Batch],
    show: Callable[[Node, Tensor], None],
) -> None:
    """Run a program batch by batch, and show what some nodes compute, as soon as they have.

    Args:
        program: What is run. A call finds what the file holds.
        nodes: Of its graph.
        batches: Of its inputs.
        show: Called with a node and its value. What the node's memory holds later is another thing.

    Raises:
        DataMismatchError: The program does not run on the rows.
    """
    looking = _Looking(program, frozenset(nodes), show)
    for batch in batches:
        looking.at(batch)


class _Looking(Interpreter):
    def __init__(
        self, program: Program, nodes: frozenset[Node], show: Callable[[Node, Tensor], None]
    ) -> None:
        super().__init__(program.module)
        self.extra_traceback = False  # It would be appended to messages that users read.
        self._program = program
        self._nodes = nodes
        self._show = show

    @torch.no_grad()
    def at(self, batch: Batch) -> None:
        with self._program.unwritten(self._program.as_taken(batch.inputs)) as own:
            super().run(*own)

    def run_node(self, n: Node) -> object:
        with computing_with_data():
            value = super().run_node(n)
        if n in self._nodes:
            assert isinstance(value, Tensor)
            self._show(n, value)
        return value
