"""Some rows of a data set, and what runs on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worker.engine.errors import DataMismatchError
from worker.engine.runnable import Runnable

ROLES = {"train": "the training data", "test": "the test data"}
"""What data is for, as the spec says it, and what it is called."""


@dataclass(frozen=True)
class Batch:
    """Some rows. ``inputs`` may be longer than ``count``: what follows is padding.

    ``numbers`` are those of its rows in the data set whose role is ``role``, for messages; None for
    rows that are from none.
    """

    inputs: list[Tensor]
    targets: Tensor | None
    count: int
    numbers: np.ndarray | None = None
    role: str | None = None

    def row(self, at: int) -> str:
        """What a row is called."""
        if self.numbers is None or self.role is None:
            return f"row {at} of the batch"
        return f"row {self.numbers[at]} of {ROLES[self.role]}"

    def mismatch(self, message: str) -> DataMismatchError:
        """An error that points at the data set."""
        pointer = None if self.role is None else f"/data/{self.role}"
        return DataMismatchError(message, pointer=pointer, in_step=False)


def run_batch(program: Runnable, batch: Batch) -> list[Tensor]:
    """The program's outputs on a batch, its padding included.

    Raises:
        DataMismatchError: The program cannot compute with what the batch holds.
    """
    with computing_with_data():
        return program.run(batch.inputs)


@contextmanager
def computing_with_data() -> Iterator[None]:
    """Blame the data for what operators raise inside.

    Raises:
        DataMismatchError: The program cannot compute with what the data holds.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, IndexError, RuntimeError, ValueError) as error:
        first_line = next(iter(str(error).splitlines()), "no reason given")
        raise DataMismatchError(
            f"the model does not run on the data ({type(error).__name__}: {first_line}): check "
            "that it holds what the model was trained on, such as numbers of tokens within the "
            "vocabulary"
        ) from error
