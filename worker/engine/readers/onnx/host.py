"""Numbers that are known while a program is traced: sizes, and what is computed from them.

ONNX computes shapes with tensors: ``Shape``, ``Gather``, ``Concat``, and then ``Reshape`` reads the
result. Here these are plain numbers, or the symbols that stand for dynamic dimensions, so that a
reshape gets the sizes themselves and a dynamic dimension stays dynamic.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

LARGEST = 1024
"""More numbers than this are no shape: they are computed as a tensor."""


@dataclass(frozen=True, eq=False)
class Host:
    """Numbers in an array of any rank.

    Attributes:
        array: Of ``int``, ``float``, ``bool`` and torch's symbols for them; its dtype is object.
        dtype: What they are where they become a tensor.
    """

    array: np.ndarray[Any, Any]
    dtype: torch.dtype

    @classmethod
    def of(cls, value: object, dtype: torch.dtype = torch.int64) -> "Host":
        """Numbers, or nested lists of them."""
        array = value if isinstance(value, np.ndarray) else np.array(value, dtype=object)
        return cls(array.astype(object), dtype)

    @property
    def is_one(self) -> bool:
        return self.array.size == 1

    def one(self) -> Any:
        """The number, of whatever rank."""
        [number] = self.list()
        return number

    def list(self) -> list[Any]:
        """The numbers in order."""
        return [*self.array.flat]

    def tensor(self) -> Tensor:
        """The same numbers as a tensor, on the CPU."""
        numbers = self.list()
        if not any(is_symbol(number) for number in numbers):
            return torch.tensor(numbers, dtype=self.dtype).reshape(self.array.shape)
        each = [torch.full((), number, dtype=self.dtype) for number in numbers]
        return torch.stack(each).reshape(self.array.shape)


def is_symbol(number: object) -> bool:
    """Whether this stands for a size that is not known before a call."""
    return isinstance(number, torch.SymInt | torch.SymFloat | torch.SymBool)


class TooMany(Exception):
    """These are more numbers than a shape has."""


def each(compute: Callable[..., Any], *arrays: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Apply a function of numbers to each, after broadcasting.

    Raises:
        TooMany: They are more than :data:`LARGEST`.
    """
    if prod(np.broadcast_shapes(*(array.shape for array in arrays))) > LARGEST:
        raise TooMany
    made = np.frompyfunc(compute, len(arrays), 1)(*arrays)
    if isinstance(made, np.ndarray):
        return made
    array = np.empty((), dtype=object)
    array[()] = made
    return array
