"""Look-ups, and writing to places that are given or computed."""

from math import prod
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (as everywhere in PyTorch)
from torch import Tensor

from worker.engine.readers.onnx.host import Host, is_symbol
from worker.engine.readers.onnx.registry import Call, Unmet, operator

aten = torch.ops.aten


@operator("Gather", either=(1,))
def gather(call: Call, x: Tensor, places: Tensor | Host) -> Tensor:
    """Look up along an axis: an embedding, a slice or a single place where it is one."""
    axis = call.get("axis", 0)
    axis = axis + x.dim() if axis < 0 else axis
    if isinstance(places, Host):
        return _at_known_places(x, axis, places)
    is_table = call.node.input[0] in call.parameters and x.dim() == 2 and axis == 0
    if is_table and places.dtype in (torch.int32, torch.int64):
        return F.embedding(places, x)
    return _looked_up(x, axis, places)


def _looked_up(x: Tensor, axis: int, places: Tensor) -> Tensor:
    if not places.dim():
        # An index without dimensions is one that Python wants to know while it traces.
        one = _counted_up(places, x.shape[axis]).reshape(1)
        return x.index_select(axis, one).squeeze(axis)
    index: tuple[Any, ...] = (*[slice(None)] * axis, places.long())
    return x[index]


def _at_known_places(x: Tensor, axis: int, places: Host) -> Tensor:
    numbers, size = places.list(), x.shape[axis]
    if places.array.shape == ():
        return x.select(axis, numbers[0])
    if any(is_symbol(number) for number in numbers) or not numbers:
        return _looked_up(x, axis, places.tensor())
    if any(number < 0 for number in numbers):
        if is_symbol(size):
            return _looked_up(x, axis, places.tensor())
        numbers = [number % size for number in numbers]
    if places.array.ndim == 1 and numbers == [*range(numbers[0], numbers[0] + len(numbers))]:
        return aten.slice.Tensor(x, axis, numbers[0], numbers[-1] + 1)
    if places.array.ndim == 1:
        return x.index_select(axis, torch.tensor(numbers))
    return _looked_up(x, axis, torch.tensor(numbers).reshape(places.array.shape))


def _counted_up(places: Tensor, size: Any) -> Tensor:
    """Places from the end, which are negative, counted from the start."""
    places = places.long()
    return torch.where(places < 0, places + size, places)


@operator("GatherElements")
def gather_elements(call: Call, x: Tensor, places: Tensor) -> Tensor:
    """Compute ``gather``."""
    axis = call.get("axis", 0)
    return x.gather(axis, _counted_up(places, x.shape[axis]))


@operator("GatherND")
def gather_nd(call: Call, x: Tensor, places: Tensor) -> Tensor:
    """Look up along several axes at once."""
    lead = call.get("batch_dims", 0)
    places = places.long()
    index: list[Tensor] = []
    for at in range(lead):
        view: list[Any] = [1] * (places.dim() - 1)
        view[at] = x.shape[at]
        index.append(torch.arange(x.shape[at]).reshape(view))
    index += places.unbind(-1)
    return x[tuple(index)]


_SCATTERED = {"add": "sum", "max": "amax", "min": "amin", "mul": "prod"}


@operator("ScatterElements", "Scatter")
def scatter_elements(call: Call, x: Tensor, places: Tensor, updates: Tensor) -> Tensor:
    """Write along an axis."""
    axis = call.get("axis", 0)
    places = _counted_up(places, x.shape[axis])
    reduction = call.get("reduction", "none")
    if reduction == "none":
        return x.scatter(axis, places, updates)
    if reduction == "add":
        return x.scatter_add(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, _reduction(reduction))


def _reduction(name: str) -> str:
    if name not in _SCATTERED:
        raise Unmet(f"its reduction is {name!r}")
    return _SCATTERED[name]


@operator("ScatterND")
def scatter_nd(call: Call, x: Tensor, places: Tensor, updates: Tensor) -> Tensor:
    """Write at places along several axes."""
    reduction = call.get("reduction", "none")
    places = places.long()
    if reduction in ("none", "add"):
        index = tuple(places.unbind(-1))
        return x.index_put(index, updates, accumulate=reduction == "add")
    depth = places.shape[-1]
    strides = [prod(x.shape[at + 1 : depth]) for at in range(depth)]
    flat = torch.zeros(places.shape[:-1], dtype=torch.int64)
    for at, stride in enumerate(strides):
        flat = flat + _counted_up(places[..., at], x.shape[at]) * stride
    rest = x.shape[depth:]
    rows = x.reshape(-1, prod(rest))
    given = updates.reshape(-1, prod(rest))
    index_rows = flat.reshape(-1, 1).expand(given.shape)
    made = rows.scatter_reduce(0, index_rows, given, _reduction(reduction))
    return made.reshape(x.shape)


@operator("OneHot", host=(1,))
def one_hot(call: Call, places: Tensor, depth: Host, values: Tensor) -> Tensor:
    """Give one number at a place and another elsewhere."""
    size = depth.one()
    size = size if is_symbol(size) else int(size)
    axis = call.get("axis", -1)
    axis = axis + places.dim() + 1 if axis < 0 else axis
    steps = torch.arange(size).reshape([-1] + [1] * (places.dim() - axis))
    is_there = _counted_up(places, size).unsqueeze(axis) == steps
    return torch.where(is_there, values[1], values[0])


@operator("TensorScatter")
def tensor_scatter(call: Call, x: Tensor, updates: Tensor, starts: Tensor | None = None) -> Tensor:
    """Write a run of steps into each row of a cache, from a place of its own."""
    axis = call.get("axis", -2) % x.dim()
    steps = torch.arange(updates.shape[axis])
    places = steps.unsqueeze(0) if starts is None else starts.unsqueeze(1) + steps
    if call.get("mode", "linear") == "circular":
        places = places % x.shape[axis]
    view: list[Any] = [1] * x.dim()
    view[0], view[axis] = places.shape[0], places.shape[1]
    return x.scatter(axis, places.reshape(view).expand(updates.shape), updates)
