"""Operators that act on each element alone."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (as everywhere in PyTorch)
from torch import Tensor

from worker.engine.readers.onnx.host import Host
from worker.engine.readers.onnx.registry import (
    ALL,
    Call,
    Unmet,
    Value,
    as_tensor,
    number_or_tensor,
    operator,
    torch_dtype,
)

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": F.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}


def _unary(compute: Callable[[Tensor], Tensor]) -> Callable[[Call, Tensor], Tensor]:
    def of_call(_: Call, x: Tensor) -> Tensor:
        return compute(x)

    return of_call


for _name, _compute in _UNARY.items():
    operator(_name)(_unary(_compute))


@operator("Identity", either=ALL)
def identity(_: Call, x: Value) -> Value:
    """Give the same."""
    return x


@operator("Dropout", either=ALL)
def dropout(call: Call, x: Value, ratio: Value = None, training: Value = None) -> list[Value]:  # noqa: ARG001
    """Give the same, and that nothing was dropped, as a model in evaluation mode does."""
    if training is not None and not (isinstance(training, Host) and not training.one()):
        raise Unmet("it drops out as in training; export the model in evaluation mode")
    mask = torch.ones_like(as_tensor(x), dtype=torch.bool) if call.is_read(1) else None
    return [x, mask]


@operator("LeakyRelu")
def leaky_relu(call: Call, x: Tensor) -> Tensor:
    """Compute ``leaky_relu``."""
    return F.leaky_relu(x, call.get("alpha", 0.01))


@operator("Elu")
def elu(call: Call, x: Tensor) -> Tensor:
    """Compute ``elu``."""
    return F.elu(x, call.get("alpha", 1.0))


@operator("Celu")
def celu(call: Call, x: Tensor) -> Tensor:
    """Compute ``celu``."""
    return F.celu(x, call.get("alpha", 1.0))


@operator("Selu")
def selu(call: Call, x: Tensor) -> Tensor:
    """Compute ``selu``, by PyTorch's own operator where the constants are the paper's."""
    alpha = call.get("alpha", 1.67326319217681884765625)
    gamma = call.get("gamma", 1.05070102214813232421875)
    if abs(alpha - 1.6732632) < 1e-6 and abs(gamma - 1.050701) < 1e-6:
        return F.selu(x)
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x))


@operator("HardSigmoid")
def hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    """Compute ``hardsigmoid``; TensorFlow's has another slope than PyTorch's."""
    alpha, beta = call.get("alpha", 0.2), call.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return F.hardsigmoid(x)
    return (x * alpha + beta).clamp(0, 1)


@operator("Gelu", "com.microsoft::Gelu")
def gelu(call: Call, x: Tensor) -> Tensor:
    """Compute ``gelu``, exactly or by tanh."""
    return F.gelu(x, approximate=call.get("approximate", "none"))


@operator("com.microsoft::FastGelu")
def fast_gelu(_: Call, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``gelu`` by tanh, of what a bias was added to."""
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("com.microsoft::BiasGelu")
def bias_gelu(_: Call, x: Tensor, bias: Tensor) -> Tensor:
    """Compute ``gelu`` of what a bias was added to."""
    return F.gelu(x + bias)


@operator("com.microsoft::QuickGelu")
def quick_gelu(call: Call, x: Tensor) -> Tensor:
    """Compute ``x * sigmoid(alpha * x)``."""
    return x * torch.sigmoid(call.get("alpha", 1.702) * x)


@operator("Swish")
def swish(call: Call, x: Tensor) -> Tensor:
    """Compute ``x * sigmoid(alpha * x)``."""
    alpha = call.get("alpha", 1.0)
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


@operator("ThresholdedRelu")
def thresholded_relu(call: Call, x: Tensor) -> Tensor:
    """Give zero up to a threshold."""
    return F.threshold(x, call.get("alpha", 1.0), 0.0)


@operator("Shrink")
def shrink(call: Call, x: Tensor) -> Tensor:
    """Move towards zero by a bias, and give zero in between."""
    bias, lambd = call.get("bias", 0.0), call.get("lambd", 0.5)
    zero = torch.zeros_like(x)
    moved = torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, zero))
    return moved.to(x.dtype)


@operator("PRelu")
def prelu(_: Call, x: Tensor, slope: Tensor) -> Tensor:
    """Compute ``prelu``: by PyTorch's operator where there is one slope for each channel."""
    sizes = slope.shape
    space = x.dim() - 2
    if x.dim() >= 2 and x.is_floating_point():
        if slope.numel() == 1:
            return F.prelu(x, slope.reshape(1))
        lead = len(sizes) - space - 1
        if lead >= 0 and all(n == 1 for n in (*sizes[:lead], *sizes[lead + 1 :])):
            return F.prelu(x, slope.reshape(-1))
    return torch.where(x < 0, x * slope, x)


@operator("IsInf")
def is_inf(call: Call, x: Tensor) -> Tensor:
    """Tell what is infinite, of both signs or of one."""
    negative, positive = call.get("detect_negative", 1), call.get("detect_positive", 1)
    if negative and positive:
        return torch.isinf(x)
    if positive:
        return torch.isposinf(x)
    return torch.isneginf(x) if negative else torch.zeros_like(x, dtype=torch.bool)


def _integer_div(x: Any, y: Any) -> Any:
    return torch.div(x, y, rounding_mode="trunc")


def _div(x: Any, y: Any) -> Any:
    whole = not any(v.is_floating_point() for v in (x, y) if isinstance(v, Tensor))
    return _integer_div(x, y) if whole else x / y


def _pow(x: Any, y: Any) -> Any:
    # The result has the type of the base.
    if isinstance(x, Tensor):
        if isinstance(y, float) and y.is_integer() and abs(y) < 64:
            y = int(y)
        return torch.pow(x, y).to(x.dtype)
    return torch.pow(x, y)


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": lambda x, y: x + y,
    "And": torch.logical_and,
    "BitwiseAnd": lambda x, y: x & y,
    "BitwiseOr": lambda x, y: x | y,
    "BitwiseXor": lambda x, y: x ^ y,
    "Div": _div,
    "Equal": lambda x, y: x == y,
    "Greater": lambda x, y: x > y,
    "GreaterOrEqual": lambda x, y: x >= y,
    "Less": lambda x, y: x < y,
    "LessOrEqual": lambda x, y: x <= y,
    "Mul": lambda x, y: x * y,
    "Or": torch.logical_or,
    "Pow": _pow,
    "Sub": lambda x, y: x - y,
    "Xor": torch.logical_xor,
}
_OF_TENSORS = {"And", "Or", "Xor"}


def _operands(*values: Value) -> list[Any]:
    """Single numbers as they are beside a tensor of at least their rank; else tensors."""
    ranks = [value.dim() for value in values if isinstance(value, Tensor)]
    return [
        value.one()
        if isinstance(value, Host) and value.is_one and value.array.ndim <= max(ranks, default=-1)
        else as_tensor(value)
        for value in values
    ]


def _binary(name: str, compute: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def of_call(_: Call, x: Value, y: Value) -> Any:
        if name in _OF_TENSORS or (name == "Pow" and isinstance(x, Host)):
            return compute(as_tensor(x), as_tensor(y))
        return compute(*_operands(x, y))

    return of_call


for _name, _function in _BINARY.items():
    operator(_name, either=(0, 1))(_binary(_name, _function))


@operator("Mod", either=(0, 1))
def mod(call: Call, x: Value, y: Value) -> Any:
    """Compute a remainder with the sign of the divisor, or (``fmod``) of the dividend."""
    compute = torch.fmod if call.get("fmod", 0) else torch.remainder
    return compute(*_operands(x, y))


@operator("BitShift")
def bit_shift(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """Shift bits of unsigned integers."""
    return x << y if call.get("direction") == "LEFT" else x >> y


def _extreme(number: Callable[..., Any], both: Callable[..., Tensor]) -> Callable[..., Any]:
    def of_two(x: Any, y: Any) -> Any:
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return both(x, y)
        return number(x, y) if isinstance(x, Tensor) else number(y, x)

    def of_call(_: Call, *values: Value) -> Any:
        return reduce(of_two, _operands(*values))

    return of_call


operator("Max", either=ALL)(_extreme(torch.clamp_min, torch.maximum))
operator("Min", either=ALL)(_extreme(torch.clamp_max, torch.minimum))


@operator("Sum")
def sum_of(_: Call, *values: Tensor) -> Tensor:
    """Add any number of tensors."""
    return _total(values)


@operator("Mean")
def mean_of(_: Call, *values: Tensor) -> Tensor:
    """Average any number of tensors."""
    return _total(values) / len(values)


def _total(values: Sequence[Tensor]) -> Tensor:
    first, *rest = values
    for value in rest:
        first = first + value
    return first


@operator("Where", either=(1, 2))
def where(_: Call, condition: Tensor, x: Value, y: Value) -> Tensor:
    """Choose by a condition."""
    one, other = _same_type(x, y)
    return torch.where(condition, one, other)


def _same_type(x: Value, y: Value) -> list[Any]:
    """A single number takes the type of a tensor beside it; two numbers keep their own."""
    both = [x, y]
    if isinstance(x, Host) and isinstance(y, Host):
        return [as_tensor(value) for value in both]
    dtype = next(value.dtype for value in both if value is not None)
    given = [number_or_tensor(value) for value in both if value is not None]
    if not dtype.is_floating_point:
        # torch takes the default types of Python's numbers for these.
        return [as_tensor(value) for value in both]
    return given


@operator("Clip", either=(1, 2))
def clip(call: Call, x: Tensor, low: Value = None, high: Value = None) -> Tensor:
    """Compute ``clamp``, as ``relu`` or ``relu6`` where it is one."""
    least = call.get("min") if low is None else _bound(low)
    most = call.get("max") if high is None else _bound(high)
    if least is None and most is None:
        return x
    if isinstance(least, Tensor) or isinstance(most, Tensor):
        least, most = (_bound_tensor(value, x) for value in (least, most))
        if least is not None:
            x = torch.maximum(x, least)
        return x if most is None else torch.minimum(x, most)
    if least == 0 and most is None:
        return F.relu(x)
    if least == 0 and most == 6 and x.is_floating_point():
        return F.relu6(x)
    if not x.is_floating_point():
        least, most = (value if value is None else int(value) for value in (least, most))
    return x.clamp(least, most)


def _bound(value: Value) -> Any:
    if isinstance(value, Host):
        return value.one() if value.is_one else value.tensor()
    assert value is not None
    return value.reshape(())


def _bound_tensor(value: Any, x: Tensor) -> Tensor | None:
    if value is None or isinstance(value, Tensor):
        return value
    return torch.tensor(value, dtype=x.dtype)


@operator("Cast")
def cast(call: Call, x: Tensor) -> Tensor:
    """Convert to another type."""
    return _converted(x, torch_dtype(call.get("to")))


@operator("CastLike")
def cast_like(_: Call, x: Tensor, like: Tensor) -> Tensor:
    """Convert to the type of another tensor."""
    return _converted(x, like.dtype)


def _converted(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x if x.dtype == dtype else x.to(dtype)


@operator("SwiGLU")
def swiglu(call: Call, gate: Tensor, value: Tensor) -> Tensor:
    """Gate a value by the swish of another."""
    return swish(call, gate) * value
