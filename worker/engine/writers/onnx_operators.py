"""Operators that stand for ONNX's on the way to it, and what they are written as.

They exist in this process alone: a program with them is exported to ONNX and never saved.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
import torch
from onnxscript.onnx_opset import opset21 as op
from torch import Tensor, library
from torch.nn import functional

_INT64 = onnx.TensorProto.INT64


@library.custom_op("secateur::rounded_static", mutates_args=())
def _rounded_static(value: Tensor, scale: float, zero_point: int) -> Tensor:
    """Round to int8 codes in a fixed range, and back."""
    codes = (value / scale).round().add(zero_point).clamp(-128, 127)
    return codes.sub(zero_point).mul(scale)


@library.custom_op("secateur::padded_codes", mutates_args=())
def _padded_codes(value: Tensor, pad: Sequence[int], scale: float, zero_point: int) -> Tensor:
    """Round to int8 codes in a fixed range, pad by zeros, and back."""
    return functional.pad(_rounded_static(value, scale, zero_point), list(pad))


@library.custom_op("secateur::dequantized", mutates_args=())
def _dequantized(
    codes: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int, block: int
) -> Tensor:
    """Codes less their zero point, times their scale; along ``axis``, or in blocks along it."""
    if block:
        scale = scale.repeat_interleave(block, axis)
        zero_point = None if zero_point is None else zero_point.repeat_interleave(block, axis)
    elif scale.dim():
        shape = [-1 if dim == axis else 1 for dim in range(codes.dim())]
        scale = scale.view(shape)
        zero_point = None if zero_point is None else zero_point.view(shape)
    return (codes.float() - (0.0 if zero_point is None else zero_point.float())) * scale


@library.custom_op("secateur::integer_product", mutates_args=())
def _integer_product(value: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """Round in the range of the moment, and multiply with ``(inputs, outputs)`` codes of int8."""
    low, high = value.amin().clamp(max=0), value.amax().clamp(min=0)
    step = (high - low) / 255
    zero_point = (-low / step).clamp(0, 255).round()
    rounded = ((value / step).round() + zero_point).clamp(0, 255) - zero_point
    return (rounded * step) @ (codes.float() * scale)


@_rounded_static.register_fake
def _like_rounded(value: Tensor, *_: object) -> Tensor:
    return torch.empty_like(value)


@_padded_codes.register_fake
def _like_padded(value: Tensor, pad: Sequence[int], *_: object) -> Tensor:
    return functional.pad(value, list(pad))


@_dequantized.register_fake
def _like_dequantized(codes: Tensor, *_: object) -> Tensor:
    return torch.empty_like(codes, dtype=torch.float32)


@_integer_product.register_fake
def _like_product(value: Tensor, codes: Tensor, *_: object) -> Tensor:
    return value.new_empty((*value.shape[:-1], codes.shape[1]))


rounded_static = torch.ops.secateur.rounded_static.default
padded_codes = torch.ops.secateur.padded_codes.default
dequantized = torch.ops.secateur.dequantized.default
integer_product = torch.ops.secateur.integer_product.default


def _write_rounded(value: Any, scale: float, zero_point: int) -> Any:
    of_scale, of_zero = _range(scale, zero_point)
    codes: Any = op.QuantizeLinear(value, of_scale, of_zero)
    return op.DequantizeLinear(codes, of_scale, of_zero)


def _write_padded(value: Any, pad: Sequence[int], scale: float, zero_point: int) -> Any:
    of_scale, of_zero = _range(scale, zero_point)
    # ONNX has what goes in front of all dimensions, then what goes behind; torch begins at the end.
    untouched = [0] * (len(value.shape) - len(pad) // 2)
    ends = [*untouched, *pad[-2::-2], *untouched, *pad[::-2]]
    sizes: Any = op.Constant(value=onnx.helper.make_tensor("", _INT64, [len(ends)], ends))
    codes: Any = op.Pad(op.QuantizeLinear(value, of_scale, of_zero), sizes, of_zero)
    return op.DequantizeLinear(codes, of_scale, of_zero)


def _range(scale: float, zero_point: int) -> tuple[Any, Any]:
    """Scale and zero point of codes that are all greater by 128.

    Kernels of x64 multiply uint8 with int8.
    """
    return (
        op.Constant(value=_scalar(onnx.TensorProto.FLOAT, scale)),
        op.Constant(value=_scalar(onnx.TensorProto.UINT8, zero_point + 128)),
    )


def _scalar(kind: int, number: float) -> onnx.TensorProto:
    return onnx.helper.make_tensor("", kind, [], [number])


def _write_dequantized(codes: Any, scale: Any, zero_point: Any, axis: int, block: int) -> Any:
    if block:
        return op.DequantizeLinear(codes, scale, zero_point, axis=axis, block_size=block)
    if zero_point is None:
        return op.DequantizeLinear(codes, scale, axis=axis)
    return op.DequantizeLinear(codes, scale, zero_point, axis=axis)


def _write_product(value: Any, codes: Any, scale: Any) -> Any:
    rounded, step, zero_point = op.DynamicQuantizeLinear(value)
    sums = op.Cast(op.MatMulInteger(rounded, codes, zero_point), to=onnx.TensorProto.FLOAT)
    return op.Mul(sums, op.Mul(step, scale))


WRITTEN: Mapping[Any, Callable[..., Any]] = {
    rounded_static: _write_rounded,
    padded_codes: _write_padded,
    dequantized: _write_dequantized,
    integer_product: _write_product,
}
"""How each is written, as torch.onnx.export takes it."""
