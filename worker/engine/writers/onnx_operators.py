"""Operators that stand for ONNX's on the way to it, and what they are written as.

They exist in this process alone: a program with them is exported to ONNX and never saved.
"""

from collections.abc import Callable, Mapping
from typing import Any

import onnx
import torch
from onnxscript.onnx_opset import opset21 as op
from torch import Tensor


@torch.library.custom_op("secateur::rounded_static", mutates_args=())
def _rounded_static(value: Tensor, scale: float, zero_point: int) -> Tensor:
    """Round to int8 codes in a fixed range, and back."""
    codes = (value / scale).round().add(zero_point).clamp(-128, 127)
    return codes.sub(zero_point).mul(scale)


@torch.library.custom_op("secateur::dequantized", mutates_args=())
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


@torch.library.custom_op("secateur::integer_product", mutates_args=())
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


@_dequantized.register_fake
def _like_dequantized(codes: Tensor, *_: object) -> Tensor:
    return torch.empty_like(codes, dtype=torch.float32)


@_integer_product.register_fake
def _like_product(value: Tensor, codes: Tensor, *_: object) -> Tensor:
    return value.new_empty((*value.shape[:-1], codes.shape[1]))


rounded_static = torch.ops.secateur.rounded_static.default
dequantized = torch.ops.secateur.dequantized.default
integer_product = torch.ops.secateur.integer_product.default


def _write_rounded(value: Any, scale: float, zero_point: int) -> Any:
    of_scale: Any = op.Constant(value=_scalar(onnx.TensorProto.FLOAT, scale))
    # The same codes, all greater by 128: kernels of x64 multiply uint8 with int8.
    of_zero: Any = op.Constant(value=_scalar(onnx.TensorProto.UINT8, zero_point + 128))
    codes: Any = op.QuantizeLinear(value, of_scale, of_zero)
    return op.DequantizeLinear(codes, of_scale, of_zero)


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
    dequantized: _write_dequantized,
    integer_product: _write_product,
}
"""How each is written, as torch.onnx.export takes it."""
