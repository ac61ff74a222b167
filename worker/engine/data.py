"""Rows of a data set, in batches that a program takes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worker.engine.arrays import RowArray
from worker.engine.batch import ROLES, Batch
from worker.engine.config import AS_TARGETS_SUGGEST, ObjectiveConfig
from worker.engine.errors import DataMismatchError
from worker.engine.load import load_arrays
from worker.engine.objective import Objective
from worker.engine.program import Program
from worker.engine.runnable import Runnable

# Few: they are looked through until one row counts.
_ROWS_PER_LOOK = 32


@dataclass(frozen=True)
class Rows:
    """A data set: one array per input of the program, and targets where there are labels.

    Attributes:
        inputs: Arrays in memory or on disk.
        targets: Class numbers, labels or values; None where there are none.
        asked: What right means.
        role: ``train`` or ``test``, for messages.
        numbers: Of the rows that these are, where they are not all of the arrays: int64.
    """

    inputs: tuple[RowArray, ...]
    targets: RowArray | None
    asked: ObjectiveConfig = AS_TARGETS_SUGGEST
    role: str = "train"
    numbers: np.ndarray | None = None

    @classmethod
    def read(
        cls,
        path: Path,
        program: Program,
        *,
        asked: ObjectiveConfig = AS_TARGETS_SUGGEST,
        role: str = "train",
    ) -> "Rows":
        """Open a checked ``.npz``, and check that it fits the program.

        Raises:
            DataMismatchError: Other shapes, dtypes or number of inputs than the program's.
        """
        arrays = load_arrays(path)
        targets = arrays.pop("targets", None)
        rows = cls(tuple(arrays[name] for name in sorted(arrays, key=_place)), targets, asked, role)
        if problem := _mismatch(rows.inputs, program):
            raise rows.mismatch(problem)
        return rows

    def __len__(self) -> int:
        return len(self.inputs[0]) if self.numbers is None else len(self.numbers)

    @cached_property
    def objective(self) -> Objective:
        """What right means for these targets: null tasks are those that their dtype suggests."""
        is_float = self.targets is not None and _is_float(self.targets)
        guess = "regression" if is_float else "classification"
        return Objective(replace(self.asked, task=self.asked.task or guess))

    @property
    def has_targets(self) -> bool:
        """Whether anything says what is right."""
        return self.targets is not None or self._own_target is not None

    @property
    def has_accuracy(self) -> bool:
        """Whether outputs are right or wrong."""
        return self.has_targets and self.objective.task.has_accuracy

    def mismatch(self, message: str, *, pointer: str | None = None) -> DataMismatchError:
        """An error that points at the data set, or at what was asked of it."""
        return DataMismatchError(message, pointer=pointer or f"/data/{self.role}", in_step=False)

    def check_targets(self, who: str) -> None:
        """Check that some target counts.

        Args:
            who: Needs them, for the message.

        Raises:
            DataMismatchError: There are no targets, or each is one that counts nowhere.
        """
        if not self.has_targets:
            raise self.mismatch(
                f"{who} needs labels: {ROLES[self.role]} has no array targets; add one"
            )
        for start in range(0, len(self), _ROWS_PER_LOOK):
            end = min(start + _ROWS_PER_LOOK, len(self))
            some = torch.from_numpy(self._targets(np.arange(start, end)))
            if self.objective.task.reads_inputs and some.dim() < 2:
                return  # What is wrong with their shape is said beside the output's.
            counted = self.objective.counts(self.objective.task.judged(some))
            if counted is None or bool(counted.any()):
                return
        raise self.mismatch(
            f"{who} needs labels, and every target of {ROLES[self.role]} is "
            f"{self.objective.ignored}, which counts nowhere: add labels, or name another class "
            "in /objective/ignore_class"
        )

    def batches(
        self, program: Runnable, size: int, *, order: np.ndarray | None = None
    ) -> Iterator[Batch]:
        """Go through the rows once.

        Args:
            program: Decides how many rows one call may have, and the device.
            size: Rows per batch, as far as the program takes them.
            order: Row numbers to go through; all in their order by default.

        Raises:
            DataMismatchError: NaN or infinity in a floating-point input.
        """
        low, _ = program.row_limits
        size = program.rows_per_call(size)
        order = np.arange(len(self)) if order is None else order
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            # A program with a fixed number of rows gets the last ones again to fill the batch.
            padded = np.resize(rows, low) if len(rows) < low else rows
            inputs = [self._input(at, padded).to(program.device) for at in range(len(self.inputs))]
            targets = None
            if self.has_targets:
                targets = torch.from_numpy(self._targets(rows)).to(program.device)
            yield Batch(inputs, targets, len(rows), self._in_arrays(rows), self.role)

    def batch_count(self, program: Runnable, size: int) -> int:
        """How many batches :meth:`batches` makes."""
        return -(-len(self) // program.rows_per_call(size))

    def subset(self, rows: np.ndarray) -> "Rows":
        """Some of the rows, in the order given; nothing is copied.

        Args:
            rows: Numbers of these rows, each in [0, len); int64.
        """
        return replace(self, numbers=self._in_arrays(rows))

    def split(self, fraction: float, *, seed: int) -> tuple["Rows", "Rows"]:
        """Draw rows to validate on, and leave the others to train on; nothing is copied.

        Args:
            fraction: Of the rows that validate, in (0, 1); at least one row does.
            seed: Same seed, same rows.

        Returns:
            Rows to train on and rows to validate on, both in their order.

        Raises:
            DataMismatchError: No row is left to train on.
        """
        count = max(1, round(fraction * len(self)))
        if count >= len(self):
            raise self.mismatch(
                f"a validation_fraction of {fraction:g} of {len(self)} rows is {count}, which "
                "leaves none to train on: give more training data, or a smaller fraction",
                pointer="/data/validation_fraction",
            )
        order = np.random.default_rng(seed).permutation(len(self))
        return self.subset(np.sort(order[count:])), self.subset(np.sort(order[:count]))

    @cached_property
    def _own_target(self) -> RowArray | None:
        """The input that is its own target."""
        if self.targets is not None or not self.objective.task.reads_inputs:
            return None
        tokens = (
            a for a in self.inputs if len(a.shape) == 2 and np.issubdtype(a.dtype, np.integer)
        )
        return next(tokens, None)

    def _in_arrays(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(rows) if self.numbers is None else self.numbers[rows]

    def _input(self, at: int, rows: np.ndarray) -> Tensor:
        numbers = self._in_arrays(rows)
        found = self.inputs[at][numbers]
        if _is_float(found) and not np.isfinite(found).all():
            place = tuple(np.argwhere(~np.isfinite(found))[0])
            name = f"inputs_{at}" if len(self.inputs) > 1 else "inputs"
            raise self.mismatch(
                f"the array {name} of {ROLES[self.role]} holds {found[place]} in row "
                f"{numbers[place[0]]}, and no model computes with that: put a finite number there, "
                "or leave the row out"
            )
        return torch.from_numpy(found)

    def _targets(self, rows: np.ndarray) -> np.ndarray:
        array = self._own_target if self.targets is None else self.targets
        assert array is not None, "has_targets was asked before"
        found = array[self._in_arrays(rows)]
        # int64: torch computes little with the unsigned integers that NumPy has.
        return found if _is_float(found) else found.astype(np.int64)


def equal_batches(program: Program, size: int, *, rows: int) -> tuple[int, int]:
    """Rows per batch and the number of batches, when none may be smaller than another.

    Of ``rows`` rows, the last that fill no whole batch are left out, unless they are all.
    """
    size = program.rows_per_call(min(size, rows))
    return size, max(rows // size, 1)


def _place(name: str) -> int:
    _, _, number = name.partition("_")
    return int(number or 0)


def _is_float(array: RowArray) -> bool:
    return np.issubdtype(array.dtype, np.floating)


def _mismatch(inputs: tuple[RowArray, ...], program: Program) -> str | None:
    """Why arrays are not what the program takes; None where they are."""
    examples = program.example_leaves
    if len(inputs) != len(examples):
        return (
            f"the data set has {len(inputs)} inputs and the model takes {len(examples)}: name the "
            "arrays inputs, or inputs_0, inputs_1, ... in the order of the model's inputs"
        )
    found = (_input_mismatch(at, array, program) for at, array in enumerate(inputs))
    return next(filter(None, found), None)


def _input_mismatch(at: int, array: RowArray, program: Program) -> str | None:
    low, high = program.row_limits
    batch = low if low == high else None
    example, sizes = program.example_leaves[at], program.input_sizes[at]
    if not isinstance(example, Tensor) or not sizes:
        return f"input {at} of the model is no tensor with rows, so a data set cannot feed it"
    if sizes[0] != batch:
        return (
            f"input {at} of the model takes {sizes[0] or 'any number of'} rows and input 0 "
            f"{batch or 'any number of'}: a data set feeds all inputs the same rows; export "
            "the model with one dynamic batch for all of them"
        )
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    wrong = len(array.shape) != len(sizes) or any(
        size not in (None, own) for own, size in zip(array.shape[1:], sizes[1:], strict=True)
    )
    if wrong or dtype != example.dtype:
        return (
            f"input {at}: the data set has {array.dtype} of shape {array.shape}, the model's "
            f"example is {str(example.dtype).removeprefix('torch.')} of shape "
            f"{tuple(example.shape)}"
        )
    return None
