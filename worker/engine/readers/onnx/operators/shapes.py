"""Shapes, and tensors that are made from shapes."""

from typing import Any

import onnx.numpy_helper
import torch
from torch import Tensor

from worker.engine.readers.onnx.host import Host, is_symbol
from worker.engine.readers.onnx.registry import Call, Value, operator, torch_dtype

_SMALL = 64


@operator("Shape", either=(0,))
def shape(call: Call, x: Tensor | Host) -> Host:
    """Give the sizes, or some of them."""
    sizes = list(x.array.shape if isinstance(x, Host) else x.shape)
    return Host.of(sizes[call.get("start", 0) : call.get("end", len(sizes))])


@operator("Size", either=(0,))
def size(_: Call, x: Tensor | Host) -> Host:
    """Give the number of elements."""
    count: Any = 1
    for one in x.array.shape if isinstance(x, Host) else x.shape:
        count = count * one
    return _single(count)


def _single(number: Any, dtype: torch.dtype = torch.int64) -> Host:
    return Host(Host.of([number]).array.reshape(()), dtype)


@operator("ConstantOfShape", host=(0,))
def constant_of_shape(call: Call, sizes: Host) -> Value:
    """Fill a shape with one number; small ones of integers take part in other shapes."""
    given = call.get("value")
    number, dtype = 0.0, torch.float32
    if given is not None:
        dtype = torch_dtype(given.data_type)
        number = onnx.numpy_helper.to_array(given).reshape(-1)[0].item()
    wanted = sizes.list()
    is_small = len(wanted) < 2 and all(not is_symbol(n) and n <= _SMALL for n in wanted)
    if is_small and not dtype.is_floating_point:
        return Host(_filled(wanted, number), dtype)
    return torch.full(wanted, number, dtype=dtype)


def _filled(sizes: list[int], number: Any) -> Any:
    count = sizes[0] if sizes else 1
    return Host.of([number] * count).array.reshape(sizes)


@operator("Range", host=(0, 1, 2))
def arange(_: Call, start: Host, limit: Host, delta: Host) -> Value:
    """Count from a number to another."""
    first, last, step = start.one(), limit.one(), delta.one()
    if not any(is_symbol(n) for n in (first, last, step)) and start.dtype == torch.int64:
        numbers = range(first, last, step)
        if len(numbers) <= _SMALL:
            return Host.of(list(numbers))
    return torch.arange(first, last, step, dtype=start.dtype)


@operator("EyeLike")
def eye_like(call: Call, x: Tensor) -> Tensor:
    """Give ones on a diagonal and zeros elsewhere."""
    dtype = torch_dtype(call.get("dtype")) if "dtype" in call.attributes else x.dtype
    rows, columns = torch.arange(x.shape[0]), torch.arange(x.shape[1])
    return (columns == rows.unsqueeze(1) + call.get("k", 0)).to(dtype)
