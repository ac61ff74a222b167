"""What surrounds a training: where it stands in a run, what it may use, whom it tells."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from worker.engine.data import Rows


@dataclass(frozen=True)
class Position:
    """How far a training is: plain numbers.

    Attributes:
        step: Optimizer steps done.
        best: What was measured where it was best, by name; None where nothing is measured.
        epochs_since_best: Epochs that were not better.
    """

    step: int
    best: Mapping[str, float | None] | None
    epochs_since_best: int


@dataclass(frozen=True)
class Snapshot:
    """All that a training needs to go on: tensors by name, and its position."""

    tensors: Mapping[str, Tensor]
    position: Position


class Snapshots(Protocol):
    """Where a training leaves snapshots, and finds the last one of an earlier attempt."""

    def last(self) -> Snapshot | None:
        """The snapshot to go on from, or None to begin."""
        ...

    def offer(self, make: Callable[[], Snapshot]) -> None:
        """Take a snapshot, if it is time for one. Called after every optimizer step."""
        ...


class NoSnapshots:
    """Begins, and leaves nothing."""

    def last(self) -> Snapshot | None:
        return None

    def offer(self, make: Callable[[], Snapshot]) -> None:
        """Take none."""


_NONE = NoSnapshots()


def _tell_nobody(*_: object) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class Setting:
    """What surrounds a training.

    Attributes:
        seed: Of the run.
        number: Of the step in the run: two steps of one recipe draw other numbers.
        validation: Rows held out, to keep what is best on them; without any the last is kept.
        sparse: Names of the parameters whose zeros stay zero.
        on_progress: Told optimizer steps done, of how many.
        warn: Told what users should know.
        snapshots: Where the training leaves what it needs to go on.
    """

    seed: int
    number: int = 0
    validation: Rows | None = None
    sparse: Collection[str] = ()
    on_progress: Callable[[int, int], None] = _tell_nobody
    warn: Callable[[str], None] = _tell_nobody
    snapshots: Snapshots = _NONE

    def draw(self, *place: int) -> int:
        """A seed for one place in the training: the same in every attempt, whatever came before."""
        words = np.random.SeedSequence([self.seed, self.number, *place]).generate_state(2)
        return int(words[0]) << 31 | int(words[1]) >> 1
