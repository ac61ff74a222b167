"""What is said about a tensor before it is read: its name, dtype and shape."""

import math
from dataclasses import dataclass
from typing import Protocol

Dimension = int | str
"""A size, or the expression of a dynamic one, such as ``s77`` or ``2*s77``."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor that a model takes or gives, or one array of a data set.

    ``example_shape`` is the shape that the model was exported with, where the file tells.
    """

    name: str
    dtype: str
    shape: tuple[Dimension, ...]
    example_shape: tuple[int, ...] | None = None


class ModelInfo(Protocol):
    """What every check of a model's file finds out.

    ``inputs`` and ``outputs`` are None where the file does not tell them before the model is built.
    ``parameter_count`` counts elements; None likewise.
    """

    @property
    def inputs(self) -> tuple[TensorInfo, ...] | None: ...
    @property
    def outputs(self) -> tuple[TensorInfo, ...] | None: ...
    @property
    def parameter_count(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The same, where a format has nothing to add."""

    inputs: tuple[TensorInfo, ...] | None
    outputs: tuple[TensorInfo, ...] | None
    parameter_count: int | None


def bytes_needed(
    shape: tuple[int, ...], strides: tuple[int, ...], offset: int, *, itemsize: int
) -> int:
    """Say how many bytes of storage a strided view reaches into; 0 for a view of nothing."""
    if math.prod(shape) == 0:
        return 0
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    return (last + 1) * itemsize
