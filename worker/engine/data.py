"""Rows of a data set, in batches that a program takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worker.engine.arrays import RowArray
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

    inputs: tuple[RowArray, ...]
    targets: RowArray | None

    @classmethod
    def read(cls, path: Path, program: Program) -> "Rows":
        """Read a checked ``.npz`` and check that it fits the program.

        Raises:
            DataMismatchError: Other shapes, dtypes or number of inputs than the program's.
        """
        arrays = load_arrays(path)
        targets = arrays.pop("targets", None)
        inputs = tuple(arrays[name] for name in sorted(arrays, key=_place))
        _check(inputs, program)
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
        low, _ = program.row_limits
        size = program.rows_per_call(size)
        order = np.arange(len(self)) if order is None else order
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            # A program with a fixed number of rows gets the last ones again to fill the batch.
            padded = np.resize(rows, low) if len(rows) < low else rows
            inputs = [torch.from_numpy(array[padded]).to(program.device) for array in self.inputs]
            targets = None
            if self.targets is not None:
                chosen = self.targets[rows]
                # int64: torch computes little with the unsigned integers that NumPy has.
                chosen = chosen.astype(np.int64) if self.has_classes else chosen
                targets = torch.from_numpy(chosen).to(program.device)
            yield Batch(inputs, targets, len(rows))

    def batch_count(self, program: Program, size: int) -> int:
        """How many batches :meth:`batches` makes."""
        return -(-len(self) // program.rows_per_call(size))


def run_batch(program: Program, batch: Batch) -> list[Tensor]:
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


def first_output(program: Program, batch: Batch) -> Tensor:
    """The first output, which quality and losses read: ``(count, ...)``, without padding.

    Raises:
        DataMismatchError: The program does not run on the batch, or has no such output.
    """
    outputs = run_batch(program, batch)
    rows = len(batch.inputs[0])
    if not outputs or outputs[0].shape[:1] != (rows,):
        shape = tuple(outputs[0].shape) if outputs else "none"
        raise DataMismatchError(
            f"the model's first output must have a row for each row of its inputs: {rows} rows "
            f"went in, the output's shape is {shape}; export the model with its predictions first"
        )
    return outputs[0][: batch.count]


def equal_batches(program: Program, size: int, *, rows: int) -> tuple[int, int]:
    """Rows per batch and the number of batches, when none may be smaller than another.

    Of ``rows`` rows, the last that fill no whole batch are left out, unless they are all.
    """
    size = program.rows_per_call(min(size, rows))
    return size, max(rows // size, 1)


def _place(name: str) -> int:
    _, _, number = name.partition("_")
    return int(number or 0)


def _check(inputs: tuple[RowArray, ...], program: Program) -> None:
    examples = program.example_leaves
    if len(inputs) != len(examples):
        raise DataMismatchError(
            f"the data set has {len(inputs)} inputs and the model takes {len(examples)}: name the "
            "arrays inputs, or inputs_0, inputs_1, ... in the order of the model's inputs"
        )
    low, high = program.row_limits
    batch = low if low == high else None
    for at, (array, example) in enumerate(zip(inputs, examples, strict=True)):
        sizes = program.input_sizes[at]
        if not isinstance(example, Tensor) or not sizes:
            raise DataMismatchError(
                f"input {at} of the model is no tensor with rows, so a data set cannot feed it"
            )
        if sizes[0] != batch:
            raise DataMismatchError(
                f"input {at} of the model takes {sizes[0] or 'any number of'} rows and input 0 "
                f"{batch or 'any number of'}: a data set feeds all inputs the same rows; export "
                "the model with one dynamic batch for all of them"
            )
        dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
        wrong = len(array.shape) != len(sizes) or any(
            size not in (None, own) for own, size in zip(array.shape[1:], sizes[1:], strict=True)
        )
        if wrong or dtype != example.dtype:
            raise DataMismatchError(
                f"input {at}: the data set has {array.dtype} of shape {array.shape}, the model's "
                f"example is {str(example.dtype).removeprefix('torch.')} of shape "
                f"{tuple(example.shape)}"
            )
