"""Operators that move data: no rule, the operator itself is run on the labels."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from worker.engine.graph.arguments import argument, operator_of, set_argument
from worker.engine.graph.labels import Value, compressed
from worker.engine.graph.registry import Call, Refusal, Resizing, resize, rule

aten = torch.ops.aten

VIEWS = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
SPLITS = (
    aten.split.Tensor,
    aten.split.sizes,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.tensor_split.sections,
)


@rule(
    aten.permute.default,
    aten.transpose.int,
    aten.swapaxes.default,
    aten.numpy_T.default,
    aten.mT.default,
    aten.t.default,
    aten.movedim.int,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.flip.default,
    aten.unbind.int,
    aten.select.int,
    *SPLITS,
)
def moved(call: Call) -> Value | list[Value]:
    """Run the operator on the labels."""
    source, *rest = call.node.args
    numbers = call.number(rest)
    keywords = {name: call.number(value) for name, value in call.node.kwargs.items()}
    assert isinstance(source, torch.fx.Node)
    operator = operator_of(call.node)
    values = call.labels.moved(
        call.of(source), lambda labels: operator(labels, *numbers, **keywords)
    )
    return values[0] if isinstance(call.node.meta["val"], Tensor) else values


@resize(aten.squeeze.default)
def resized_squeeze(resizing: Resizing) -> None:
    """Name the dimensions that go: one that was cut down to a single channel stays."""
    node = resizing.node
    shape = resizing.before[argument(node, "self")]
    node.target = aten.squeeze.dims
    node.args = (node.args[0], [at for at, size in enumerate(shape) if size == 1])


@rule(*VIEWS, aten.flatten.using_ints, aten.unflatten.int)
def reshaped(call: Call) -> Value:
    """Couple a reshape. Planes are only laid out where dimensions merge or split."""
    source, output = call.value("self"), call.output
    planes = [_reshape(plane, source.shape, output) for plane in source.planes]
    return call.labels.settled(output, planes)


def _reshape(plane: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Reshape a broadcastable plane, segment by segment, each as small as it can be."""
    sizes_in: list[int] = []
    sizes_out: list[int] = []
    for old, new in _segments(before, after):
        if all(plane.shape[at] == 1 for at in old):
            sizes_in += [1] * len(old)
            sizes_out += [1] * len(new)
        else:
            sizes_in += [before[at] for at in old]
            sizes_out += [after[at] for at in new]
    return compressed(plane.expand(sizes_in).reshape(sizes_out))


def _segments(before: Sequence[int], after: Sequence[int]) -> list[tuple[range, range]]:
    """The shortest runs of dimensions, in both shapes, that hold equally many elements."""
    segments = []
    old = new = 0
    while old < len(before) or new < len(after):
        old_end, new_end = min(old + 1, len(before)), min(new + 1, len(after))
        while (left := prod(before[old:old_end])) != (right := prod(after[new:new_end])):
            if left < right:
                old_end += 1
            else:
                new_end += 1
        segments.append((range(old, old_end), range(new, new_end)))
        old, new = old_end, new_end
    return segments


@resize(*VIEWS)
def resized_view(resizing: Resizing) -> None:
    """Write the new sizes of a view."""
    node = resizing.node
    name = "shape" if node.target == aten.reshape.default else "size"
    new = resizing.sized(argument(node, name), resizing.after[node], resizing.before[node])
    if sum(isinstance(size, int) and size == -1 for size in new) > 1:
        raise Refusal("two sizes that depend on a dynamic dimension changed at once")
    set_argument(node, name, new)


@resize(aten.unflatten.int)
def resized_unflatten(resizing: Resizing) -> None:
    """Write the new sizes of the dimensions that one was split into."""
    node = resizing.node
    sizes = argument(node, "sizes")
    rank = len(resizing.before[argument(node, "self")])
    start = argument(node, "dim") % rank
    place = slice(start, start + len(sizes))
    new = resizing.sized(sizes, resizing.after[node][place], resizing.before[node][place])
    set_argument(node, "sizes", new)


@rule(aten.expand.default)
def expanded(call: Call) -> Value:
    """Couple ``expand``: what it repeats is as wide as its users need, as a mask over heads is.

    Sizes that the graph computes stay.
    """
    source, output = call.value("self"), call.output
    lead = len(output) - len(source.shape)
    before = (*[1] * lead, *source.shape)
    written = argument(call.node, "size")
    free = [at for at, size in enumerate(written) if isinstance(size, int) and before[at] == 1]
    own = [plane.reshape(*[1] * lead, *plane.shape) for plane in source.planes]
    return Value(output, (*own, *call.labels.fresh(output, free).planes))


@resize(aten.expand.default)
def resized_expand(resizing: Resizing) -> None:
    """Write the new sizes of an expansion."""
    node = resizing.node
    new = resizing.sized(argument(node, "size"), resizing.after[node], resizing.before[node])
    set_argument(node, "size", new)


@rule(aten.repeat.default)
def repeated(call: Call) -> Value:
    """Couple ``repeat``: each copy of a channel goes with it."""
    repeats = call.argument("repeats")
    (value,) = call.labels.moved(call.value("self"), lambda labels: labels.repeat(repeats))
    return value


@resize(*SPLITS)
def resized_split(resizing: Resizing) -> None:
    """Write out the sizes of all parts: they may no longer be equal."""
    node = resizing.node
    dim = argument(node, "dim")
    old = [shape[dim] for shape in resizing.before[node]]
    new = [shape[dim] for shape in resizing.after[node]]
    if old != new:
        node.target = aten.split_with_sizes.default
        node.args, node.kwargs = (node.args[0], new, dim), {}


@rule(aten.slice.Tensor)
def sliced(call: Call) -> Value:
    """Couple a slice: the labels of the part."""
    source, dim = call.value("self"), call.argument("dim")
    if call.argument("step") != 1 and source.along(dim):
        raise Refusal("a slice with a step over a dimension that could lose channels")
    arguments = [call.argument(name) for name in ("dim", "start", "end", "step")]
    (value,) = call.labels.moved(source, lambda labels: aten.slice.Tensor(labels, *arguments))
    return value


@resize(aten.slice.Tensor)
def resized_slice(resizing: Resizing) -> None:
    """Start after as many kept channels as there were channels, and take as many as are left."""
    node = resizing.node
    source, dim = argument(node, "self"), argument(node, "dim")
    if resizing.before[source][dim] == resizing.after[source][dim]:
        return
    size = resizing.before[source][dim]
    start = _index(argument(node, "start") or 0, size)
    first = resizing.kept_before(source, dim, start)
    set_argument(node, "start", first)
    set_argument(node, "end", first + resizing.after[node][dim])


@resize(aten.select.int)
def resized_select(resizing: Resizing) -> None:
    """Point at the same channel among those kept."""
    node = resizing.node
    source, dim = argument(node, "self"), argument(node, "dim")
    size = resizing.before[source][dim]
    if size != resizing.after[source][dim]:
        index = _index(argument(node, "index"), size)
        set_argument(node, "index", resizing.kept_before(source, dim, index))


def _index(written: Any, size: int) -> int:
    if not isinstance(written, int):
        raise Refusal("an index that depends on a dynamic dimension")
    return max(written + size, 0) if written < 0 else min(written, size)


@rule(aten.cat.default)
def concatenated(call: Call) -> Value:
    """Couple ``cat``: labels follow each other along the dimension."""
    operands = [call.of(node) for node in argument(call.node, "tensors")]
    operands = [operand for operand in operands if operand.shape != (0,)]
    return call.coupler.concatenate(*operands, dim=call.argument("dim"))


@rule(aten.stack.default)
def stacked(call: Call) -> Value:
    """Couple ``stack``: operands of one shape, side by side in a new dimension."""
    operands = [call.of(node) for node in argument(call.node, "tensors")]
    dim = call.argument("dim") % len(call.output)
    lifted = [call.labels.moved(operand, lambda p: p.unsqueeze(dim))[0] for operand in operands]
    return call.coupler.concatenate(*lifted, dim=dim)


@rule(aten.constant_pad_nd.default, aten.pad.default)
def padded(call: Call) -> Value:
    """Couple a padding: what is added is fixed, the rest stays as it is."""
    source, pad = call.value("self"), call.argument("pad")
    rank = len(source.shape)
    touched = [rank - 1 - at // 2 for at, amount in enumerate(pad) if amount]
    repeats = call.node.target == aten.pad.default and call.argument("mode") != "constant"
    if repeats or any(amount < 0 for amount in pad):
        # What repeats or cuts a dimension keeps it whole; the other dimensions pass.
        for plane in {id(p): p for at in touched for p in source.along(at)}.values():
            call.labels.fix(plane)
        passing = [p for p in source.planes if all(p.shape[at] == 1 for at in touched)]
        return Value(call.output, tuple(passing))
    return call.labels.settled(call.output, [_padded(plane, pad) for plane in source.planes])


def _padded(plane: Tensor, pad: Sequence[int]) -> Tensor:
    """Pad a plane with fixed labels, in the dimensions along which it varies."""
    own = [
        amount if plane.shape[plane.dim() - 1 - at // 2] > 1 else 0 for at, amount in enumerate(pad)
    ]
    return torch.constant_pad_nd(plane, own, 0)
