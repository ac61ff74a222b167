"""What computes shapes: arithmetic on numbers that are known while a program is traced."""

import math
from collections.abc import Callable
from functools import reduce
from math import prod
from typing import Any

import numpy as np
import torch

from worker.engine.readers.onnx.host import LARGEST, Host, each, is_symbol
from worker.engine.readers.onnx.registry import Call, Unmet, on_host, torch_dtype

_Array = np.ndarray[Any, Any]


def _div(x: Any, y: Any) -> Any:
    if isinstance(x, float | torch.SymFloat) or isinstance(y, float | torch.SymFloat):
        return x / y if is_symbol(x) or is_symbol(y) or y else math.copysign(math.inf, x)
    if is_symbol(x) or is_symbol(y):
        # Sizes are not negative, so that rounding down is rounding to zero.
        return x // y
    if y == 0:
        raise Unmet("it divides a size by zero")
    return abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)


def _least(x: Any, y: Any) -> Any:
    return torch.sym_min(x, y) if is_symbol(x) or is_symbol(y) else min(x, y)


def _most(x: Any, y: Any) -> Any:
    return torch.sym_max(x, y) if is_symbol(x) or is_symbol(y) else max(x, y)


def _power(x: Any, y: Any) -> Any:
    if isinstance(y, int | float) and abs(y) > 64:
        raise Unmet(f"it raises a size to the power of {y}")
    return x**y


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": lambda x, y: x + y,
    "Div": _div,
    "Mul": lambda x, y: x * y,
    "Sub": lambda x, y: x - y,
    "Pow": _power,
}
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "And": lambda x, y: bool(x) and bool(y),
    "Equal": lambda x, y: bool(x == y),
    "Greater": lambda x, y: bool(x > y),
    "GreaterOrEqual": lambda x, y: bool(x >= y),
    "Less": lambda x, y: bool(x < y),
    "LessOrEqual": lambda x, y: bool(x <= y),
    "Or": lambda x, y: bool(x) or bool(y),
}
_UNARY: dict[str, Callable[[Any], Any]] = {
    "Abs": abs,
    "Ceil": math.ceil,
    "Floor": math.floor,
    "Neg": lambda x: -x,
    "Reciprocal": lambda x: _div(1.0, x),
    "Round": round,
    "Sqrt": lambda x: torch.sym_sqrt(x) if is_symbol(x) else math.sqrt(x),
}


# Not by torch, which would write it into the program.
_PRECISION: dict[torch.dtype, Any] = {torch.float16: np.float16, torch.float64: np.float64}


def _rounded(array: _Array, dtype: torch.dtype) -> Host:
    """Numbers of a type, rounded as that type is; symbols stay exact."""
    if dtype.is_floating_point:

        def to_float(number: Any) -> Any:
            if is_symbol(number):
                return torch.sym_float(number)
            return float(_PRECISION.get(dtype, np.float32)(number))

        return Host(each(to_float, array), dtype)
    # Whoever runs these models has 64 bits; here a number would grow and grow.
    if any(not is_symbol(number) and abs(number) >= 2**63 for number in array.flat):
        raise Unmet("it computes a size that takes more than 64 bits")
    return Host(array, dtype)


def _of_two(compute: Callable[[Any, Any], Any], dtype: torch.dtype | None) -> Callable[..., Any]:
    def of_call(_: Call, x: Host, y: Host) -> Any:
        return _rounded(each(compute, x.array, y.array), dtype or x.dtype)

    return of_call


def _of_one(compute: Callable[[Any], Any]) -> Callable[..., Host]:
    def of_call(_: Call, x: Host) -> Host:
        return _rounded(each(compute, x.array), x.dtype)

    return of_call


for _name, _function in _BINARY.items():
    on_host(_name)(_of_two(_function, None))
for _name, _function in _COMPARISONS.items():
    on_host(_name)(_of_two(_function, torch.bool))
for _name, _single in _UNARY.items():
    on_host(_name)(_of_one(_single))


@on_host("Mod")
def mod(call: Call, x: Host, y: Host) -> Any:
    """Compute a remainder of integers."""
    if call.get("fmod", 0) or x.dtype.is_floating_point or 0 in y.list():
        return NotImplemented
    return _of_two(lambda a, b: a % b, None)(call, x, y)


@on_host("Not")
def not_(_: Call, x: Host) -> Host:
    """Negate."""
    return Host(each(lambda value: not value, x.array), torch.bool)


def _of_many(compute: Callable[[Any, Any], Any]) -> Callable[..., Host]:
    def of_call(_: Call, *values: Host) -> Host:
        return Host(
            reduce(lambda x, y: each(compute, x, y), [v.array for v in values]), dtype_of(values)
        )

    def dtype_of(values: tuple[Host, ...]) -> torch.dtype:
        return values[0].dtype

    return of_call


on_host("Max")(_of_many(_most))
on_host("Min")(_of_many(_least))


@on_host("Where")
def where(_: Call, condition: Host, x: Host, y: Host) -> Host:
    """Choose by a condition."""
    made = each(lambda c, a, b: a if c else b, condition.array, x.array, y.array)
    return Host(made, x.dtype)


@on_host("Cast")
def cast(call: Call, x: Host) -> Host:
    """Convert to another type; a float becomes whole towards zero."""
    dtype = torch_dtype(call.get("to"))

    def converted(number: Any) -> Any:
        if dtype == torch.bool:
            return bool(number)
        if dtype.is_floating_point:
            return number
        if isinstance(number, bool | float | int):
            return int(number)
        return torch.sym_int(number)

    return _rounded(each(converted, x.array), dtype)


@on_host("Concat")
def concat(call: Call, *values: Host) -> Any:
    """Put one after another."""
    if sum(value.array.size for value in values) > LARGEST:
        return NotImplemented
    return Host(np.concatenate([v.array for v in values], call.get("axis")), values[0].dtype)


@on_host("Gather")
def gather(call: Call, x: Host, places: Host) -> Any:
    """Look up."""
    if any(is_symbol(place) for place in places.list()) or places.array.size > LARGEST:
        return NotImplemented
    taken = np.take(x.array, places.array.astype(np.int64), axis=call.get("axis", 0))
    return Host(_array(taken), x.dtype)


def _array(value: Any) -> _Array:
    """NumPy gives the object itself for an array of rank zero."""
    if isinstance(value, np.ndarray):
        return value
    array = np.empty((), dtype=object)
    array[()] = value
    return array


@on_host("Slice")
def slice_(
    call: Call,
    x: Host,
    starts: Host | None = None,
    ends: Host | None = None,
    axes: Host | None = None,
    steps: Host | None = None,
) -> Any:
    """Cut out."""
    if starts is None or ends is None:
        given = [list(call.get("starts")), list(call.get("ends"))]
        given.append(list(call.get("axes", range(len(given[0])))))
    else:
        given = [starts.list(), ends.list()]
        given.append(list(range(len(given[0]))) if axes is None else axes.list())
    given.append([1] * len(given[0]) if steps is None else steps.list())
    if any(is_symbol(number) for numbers in given for number in numbers):
        return NotImplemented
    cut: list[slice] = [slice(None)] * x.array.ndim
    for start, end, axis, step in zip(*given, strict=True):
        # The end of what runs backward to the very first has no number in Python.
        goes_past = step < 0 and end < -x.array.shape[axis]
        cut[axis] = slice(start, None if goes_past else end, step)
    return Host(x.array[tuple(cut)], x.dtype)


@on_host("Squeeze")
def squeeze(call: Call, x: Host, axes: Host | None = None) -> Host:
    """Drop dimensions of size one."""
    named = call.get("axes") if axes is None else axes.list()
    dropped = None if named is None else tuple(axis % x.array.ndim for axis in named)
    return Host(_array(np.squeeze(x.array, dropped)), x.dtype)


@on_host("Unsqueeze")
def unsqueeze(call: Call, x: Host, axes: Host | None = None) -> Host:
    """Add dimensions of size one."""
    named = call.get("axes") if axes is None else axes.list()
    return Host(np.expand_dims(x.array, tuple(named)), x.dtype)


@on_host("Reshape")
def reshape(call: Call, x: Host, shape: Host) -> Any:
    """Give another shape."""
    wanted = shape.list()
    if any(is_symbol(size) for size in wanted):
        return NotImplemented
    if not call.get("allowzero", 0):
        wanted = [size or x.array.shape[at] for at, size in enumerate(wanted)]
    return Host(x.array.reshape(wanted), x.dtype)


@on_host("Flatten")
def flatten(call: Call, x: Host) -> Host:
    """Give two dimensions."""
    axis = call.get("axis", 1)
    lead = prod(x.array.shape[:axis])
    return Host(x.array.reshape(lead, -1), x.dtype)


@on_host("Transpose")
def transpose(call: Call, x: Host) -> Host:
    """Reorder dimensions."""
    return Host(np.transpose(x.array, call.get("perm")), x.dtype)


@on_host("Expand")
def expand(_: Call, x: Host, shape: Host) -> Any:
    """Repeat along dimensions of size one."""
    wanted = shape.list()
    if any(is_symbol(size) for size in wanted):
        return NotImplemented
    if prod(wanted) * x.array.size > LARGEST:
        return NotImplemented
    both = np.broadcast_shapes(x.array.shape, tuple(wanted))
    return Host(np.broadcast_to(x.array, both), x.dtype)


@on_host("Tile")
def tile(_: Call, x: Host, repeats: Host) -> Any:
    """Repeat."""
    wanted = repeats.list()
    if any(is_symbol(size) for size in wanted) or prod(wanted) * x.array.size > LARGEST:
        return NotImplemented
    return Host(np.tile(x.array, wanted), x.dtype)


@on_host("Split")
def split(call: Call, x: Host, sizes: Host | None = None) -> Any:
    """Cut into pieces."""
    axis = call.get("axis", 0)
    count = len(call.node.output)
    named = call.get("split") if sizes is None else sizes.list()
    if named is None:
        piece = -(-x.array.shape[axis] // count)
        places = [piece * at for at in range(1, count)]
    else:
        places = np.cumsum(named)[:-1].tolist()
    return [Host(piece, x.dtype) for piece in np.split(x.array, places, axis)]


def _reduction(compute: Callable[[Any, Any], Any], start: Any) -> Callable[..., Any]:
    def of_call(call: Call, x: Host, axes: Host | None = None) -> Any:
        named = call.get("axes") if axes is None else axes.list()
        if not named and call.get("noop_with_empty_axes", 0):
            return x
        over = {axis % max(x.array.ndim, 1) for axis in named or range(x.array.ndim)}
        if x.array.ndim > 1 and len(over) < x.array.ndim:
            return NotImplemented
        total = reduce(compute, x.list()) if x.array.size else start
        if total is None:
            return NotImplemented
        shape = (1,) * x.array.ndim if call.get("keepdims", 1) else ()
        return _rounded(_array(total).reshape(shape), x.dtype)

    return of_call


on_host("ReduceProd")(_reduction(lambda x, y: x * y, 1))
on_host("ReduceSum")(_reduction(lambda x, y: x + y, 0))
on_host("ReduceMax")(_reduction(_most, None))
on_host("ReduceMin")(_reduction(_least, None))


@on_host("CumSum")
def cumsum(call: Call, x: Host, _: Host) -> Any:
    """Sum up so far."""
    if x.array.ndim != 1 or call.get("reverse", 0) or call.get("exclusive", 0):
        return NotImplemented
    return Host(np.add.accumulate(x.array), x.dtype)


@on_host("ScatterND")
def scatter_nd(call: Call, x: Host, places: Host, updates: Host) -> Any:
    """Write numbers into a list, as exporters change one size of a shape."""
    if x.array.ndim != 1 or call.get("reduction", "none") != "none":
        return NotImplemented
    made = x.array.copy()
    for place, number in zip(places.list(), updates.list(), strict=True):
        if is_symbol(place):
            return NotImplemented
        made[place] = number
    return Host(made, x.dtype)
