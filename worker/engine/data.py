"""Rows of a data set, in batches that a program takes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worker.engine.errors import DataMismatchError
from worker.engine.load import load_arrays
from worker.engine.program import Program


@dataclass(frozen=True)
class Batch:
    """Some rows. ``inputs`` may be longer than ``count``: what follows is padding."""

    inputs: list[Tensor]
    targets: Tensor | None
    count: int


@dataclass(frozen=True)
class Rows:
    """A data set: one array per input of the program, and targets where there are labels."""

    inputs: tuple[np.ndarray, ...]
    targets: np.ndarray | None

    @classmethod
    def read(cls, path: Path, program: Program) -> "Rows":
        """Read a checked ``.npz`` and check that it fits the program.

        Raises:
            DataMismatchError: Other shapes, dtypes or number of inputs than the program's.
        """
        arrays = load_arrays(path)
        targets = arrays.pop("targets", None)
        inputs = tuple(arrays[name] for name in sorted(arrays, key=_place))
        _check(inputs, program.example_leaves)
        return cls(inputs, targets)

    def __len__(self) -> int:
        return len(self.inputs[0])

    @property
    def has_classes(self) -> bool:
        """Whether targets are class numbers."""
        return self.targets is not None and np.issubdtype(self.targets.dtype, np.integer)

    def batches(
        self, program: Program, size: int, *, order: np.ndarray | None = None
    ) -> Iterator[Batch]:
        """Go through the rows once.

        Args:
            program: Decides how many rows one call may have, and the device.
            size: Rows per batch, as far as the program takes them.
            order: Row numbers to go through; all in their order by default.
        """
        low, high = program.row_limits
        size = max(low, size if high is None else min(size, high))
        order = np.arange(len(self)) if order is None else order
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            # A program with a fixed number of rows gets the last ones again to fill the batch.
            padded = np.resize(rows, low) if len(rows) < low else rows
            inputs = [torch.from_numpy(array[padded]).to(program.device) for array in self.inputs]
            targets = None
            if self.targets is not None:
                targets = torch.from_numpy(self.targets[rows]).to(program.device)
            yield Batch(inputs, targets, len(rows))

    def batch_count(self, program: Program, size: int) -> int:
        """How many batches :meth:`batches` makes."""
        low, high = program.row_limits
        size = max(low, size if high is None else min(size, high))
        return -(-len(self) // size)


def _place(name: str) -> int:
    _, _, number = name.partition("_")
    return int(number or 0)


def _check(inputs: tuple[np.ndarray, ...], examples: list[object]) -> None:
    if len(inputs) != len(examples):
        raise DataMismatchError(
            f"the data set has {len(inputs)} inputs and the model takes {len(examples)}: name the "
            "arrays inputs, or inputs_0, inputs_1, ... in the order of the model's inputs"
        )
    for at, (array, example) in enumerate(zip(inputs, examples, strict=True)):
        if not isinstance(example, Tensor):
            raise DataMismatchError(f"input {at} of the model is no tensor, so rows cannot feed it")
        dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
        if array.ndim != example.dim() or dtype != example.dtype:
            raise DataMismatchError(
                f"input {at}: the data set has {array.dtype} of shape {array.shape}, the model's "
                f"example is {str(example.dtype).removeprefix('torch.')} of shape "
                f"{tuple(example.shape)}"
            )
