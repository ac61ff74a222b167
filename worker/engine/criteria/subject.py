"""What a criterion gets to see, and what it gives."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Generator, Tensor

from worker.engine.batch import Batch
from worker.engine.data import Rows
from worker.engine.graph.coupling import ChannelGroup, Coupling, Line
from worker.engine.graph.flow import Flow
from worker.engine.objective import Objective
from worker.engine.program import Program, tensor_value


@dataclass(frozen=True)
class Slice:
    """Scores of one slice of channels: those of a dimension of one tensor.

    Attributes:
        channels: Of the coupling, each once; int64, ``(n,)``.
        scores: float32, ``(n,)``, on the CPU; higher is kept.
    """

    channels: Tensor
    scores: Tensor


def ignore(done: int, total: int) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class Subject:
    """A program whose channels get scores.

    Attributes:
        coupling: Its channels. Program and coupling are read, never written.
        rows: Training data; None where the job has none.
        seed: Chooses rows, and seeds what criteria draw.
        on_progress: Told batches done, of how many.
        warnings: What users should know of the scores; criteria add to it.
    """

    coupling: Coupling
    rows: Rows | None = None
    seed: int = 0
    on_progress: Callable[[int, int], None] = ignore
    warnings: list[str] = field(default_factory=list)

    @property
    def program(self) -> Program:
        return self.coupling.program

    @property
    def groups(self) -> tuple[ChannelGroup, ...]:
        return self.coupling.groups

    @property
    def channel_count(self) -> int:
        return self.coupling.channel_count

    @cached_property
    def flow(self) -> Flow:
        return Flow(self.coupling)

    @cached_property
    def generator(self) -> Generator:
        """For criteria that draw; on the CPU."""
        return Generator().manual_seed(self.seed)

    @property
    def objective(self) -> Objective:
        """What right means on the training data."""
        assert self.rows is not None, "the recipe was checked before"
        return self.rows.objective

    def check_targets(self) -> None:
        """Check that the training data says what is right.

        Raises:
            DataMismatchError: It does not.
        """
        assert self.rows is not None, "the recipe was checked before"
        self.rows.check_targets("a criterion by labels")

    def batches(self, sample_count: int, batch_size: int) -> Iterator[Batch]:
        """Some rows of the training data, the same for the same seed, in equal batches.

        Args:
            sample_count: Rows in all, at most.
            batch_size: Rows per batch, as far as the program takes them.
        """
        rows, program = self.rows, self.program
        assert rows is not None, "the recipe was checked before"
        order = np.random.default_rng(self.seed).permutation(len(rows))[:sample_count]
        size = self.rows_per_call(min(batch_size, len(order)))
        total = max(1, len(order) // size)
        order = np.resize(order, total * size)
        for at, batch in enumerate(rows.batches(program, size, order=order), start=1):
            yield batch
            self.on_progress(at, total)

    def rows_per_call(self, wanted: int) -> int:
        """The number of rows nearest to ``wanted`` for which the coupling's lines hold.

        Where heads are folded into the rows, lines are as long as with the example inputs.
        """
        program = self.program
        if self._has_folded_rows:
            return next(
                leaf.shape[0] for leaf in program.example_leaves if isinstance(leaf, Tensor)
            )
        return program.rows_per_call(wanted)

    @cached_property
    def _has_folded_rows(self) -> bool:
        """Whether any dimension that has channels is as long as the inputs say."""
        return any(
            not isinstance(value.shape[dim], int)
            for node, tensors in self.coupling.node_lines.items()
            if (value := tensor_value(node)) is not None
            for _, lines in tensors
            for dim, _ in lines
        )

    def gathered(self, line: Line, values: Tensor, how: str = "sum") -> Slice:
        """One score for each channel of a line, from one value for each of its indices.

        Args:
            line: Which channel each index belongs to.
            values: ``(size,)``.
            how: ``sum`` or ``amax`` over the indices of a channel.
        """
        channels, place = self._distinct(line)
        scores = torch.zeros(len(channels), dtype=torch.float64)
        values = values.detach().to("cpu", torch.float64)
        if how == "sum":
            scores.index_add_(0, place, values)
        else:
            scores.scatter_reduce_(0, place, values, how, include_self=False)
        free = channels >= 0
        return Slice(channels[free], scores[free].float())

    def _distinct(self, line: Line) -> tuple[Tensor, Tensor]:
        # By identity: the lines of residual blocks share their numbers.
        if id(line) not in self._lines:
            found = torch.unique(line.channels, return_inverse=True)
            self._lines[id(line)] = (found[0], found[1])
        return self._lines[id(line)]

    @cached_property
    def _lines(self) -> dict[int, tuple[Tensor, Tensor]]:
        return {}
