"""Operators that move data: no rule, the operator itself is run on the labels."""

from collections.abc import Sequence
from math import prod
from operator import floordiv, mul
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from worker.engine.arguments import argument, operator_of, set_argument
from worker.engine.graph.labels import Value, compressed
from worker.engine.graph.registry import Call, Resizing, resize, rule

aten = torch.ops.aten

VIEWS = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
_COPIES: dict[Any, str] = {aten.repeat.default: "repeats", aten.tile.default: "dims"}
SPLITS = (
    aten.split.Tensor,
    aten.split.sizes,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.tensor_split.indices,
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
    aten.unbind.int,
    *SPLITS,
)
def moved(call: Call) -> Value | list[Value]:
    """Run the operator on the labels."""
    return _moved(call)


@rule(aten.flip.default)
def flipped(call: Call) -> Value:
    """Couple ``flip``: what does not vary along a dimension is the same the other way round."""
    planes = call.value("self").planes
    return call.labels.settled(call.output, [plane.flip(call.argument("dims")) for plane in planes])


@rule(aten.select.int)
def selected(call: Call) -> Value | list[Value]:
    """Run the operator on the labels, if the place stands in the graph."""
    _check_places(call, "index")
    return _moved(call)


def _moved(call: Call) -> Value | list[Value]:
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


@rule(aten.view_as_complex.default)
def complex_of_pairs(call: Call) -> Value:
    """Couple pairs read as complex numbers: the two of each go together."""
    return call.coupler.equate("... r -> ...", call.value("self"), output=call.output, whole=("r",))


@rule(aten.view_as_real.default)
def pairs_of_complex(call: Call) -> Value:
    """Couple complex numbers read as pairs."""
    return call.coupler.equate("... -> ... r", call.value("self"), output=call.output)


@rule(aten.channel_shuffle.default, aten.native_channel_shuffle.default)
def shuffled(call: Call) -> Value:
    """Couple a shuffle of channels: a group goes whole, or the same channels of each do."""
    source, groups = call.value("self"), call.argument("groups")
    rows, channels, *space = source.shape
    grouped = (rows, groups, channels // groups, *space)
    dealt = (rows, channels // groups, groups, *space)
    inner = [_reshape(plane, source.shape, grouped) for plane in source.planes]
    call.labels.inner.append(call.labels.settled(grouped, inner))
    planes = [_reshape(plane.transpose(1, 2), dealt, source.shape) for plane in inner]
    return call.labels.settled(call.output, planes)


@resize(aten.channel_shuffle.default, aten.native_channel_shuffle.default)
def shuffled_groups(resizing: Resizing) -> None:
    """Count the groups again, if they went whole."""
    node = resizing.node
    source, groups = argument(node, "self"), argument(node, "groups")
    width = resizing.before[source][1] // groups
    if resizing.kept_before(source, 1, width) in (0, width):
        set_argument(node, "groups", resizing.after[source][1] // width)


@rule(*VIEWS, aten.flatten.using_ints, aten.unflatten.int)
def reshaped(call: Call) -> Value:
    """Couple a reshape."""
    return _reshaped(call)


def _reshaped(call: Call) -> Value:
    """Planes are only laid out where dimensions merge or split."""
    source, output = call.value("self"), call.output
    planes = [_reshape(plane, source.shape, output) for plane in source.planes]
    return call.labels.settled(output, _one_along_each(call, planes))


@rule(aten.reshape_as.default, aten.view_as.default)
def reshaped_as(call: Call) -> Value:
    """Couple a reshape to what another tensor has: the two shrink together."""
    return call.coupler.broadcast(_reshaped(call), call.value("other"), output=call.output)


def _one_along_each(call: Call, planes: list[Tensor]) -> list[Tensor]:
    """Where planes merge into one dimension, only the slowest may lose indices.

    What an expansion made up comes after all others: of a key's copies for the queries that share
    it, ``(heads, copies)``, the heads go.
    """
    kept: list[Tensor] = []
    for plane in sorted(planes, key=call.labels.is_loose):
        taken = any(
            plane.shape[dim] > 1 and other.shape[dim] > 1
            for other in kept
            for dim in range(plane.dim())
        )
        if taken:
            call.labels.fix(plane)
        else:
            kept.append(plane)
    return kept


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
    # A size that was left open becomes a number where it is one: only one may be open.
    static = [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]
    written = [s if was == -1 else was for was, s in zip(argument(node, name), static, strict=True)]
    new = resizing.sized(written, resizing.after[node], resizing.before[node])
    if sum(isinstance(size, int) and size == -1 for size in new) > 1:
        new = [
            _shrunk(node, size, fresh, stale)
            for size, fresh, stale in zip(
                written, resizing.after[node], resizing.before[node], strict=True
            )
        ]
    set_argument(node, name, new)


def _shrunk(node: Node, size: Any, fresh: int, stale: int) -> Any:
    """A size after the cut; one that the graph computes is computed on, in proportion."""
    if fresh == stale or size == -1:
        return size
    if isinstance(size, int):
        return fresh
    with node.graph.inserting_before(node):
        wide = node.graph.call_function(mul, (size, fresh))
        return node.graph.call_function(floordiv, (wide, stale))


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
    return Value(output, (*own, *call.labels.loose(output, free).planes))


@resize(aten.expand.default)
def resized_expand(resizing: Resizing) -> None:
    """Write the new sizes of an expansion."""
    node = resizing.node
    new = resizing.sized(argument(node, "size"), resizing.after[node], resizing.before[node])
    set_argument(node, "size", new)


@rule(aten.repeat.default, aten.tile.default)
def repeated(call: Call) -> Value:
    """Couple ``repeat``: each copy of a channel goes with it; copies of one are as many as used."""
    source, output = call.value("self"), call.output
    name = _COPIES[call.node.target]
    repeats = call.argument(name)
    value = call.labels.settled(output, [plane.tile(repeats) for plane in source.planes])
    written = [1] * (len(output) - len(repeats)) + list(argument(call.node, name))
    lead = len(output) - len(source.shape)
    before = (*[1] * lead, *source.shape)
    free = [at for at, size in enumerate(written) if isinstance(size, int) and before[at] == 1]
    return Value(output, (*value.planes, *call.labels.loose(output, free).planes))


@resize(aten.repeat.default, aten.tile.default)
def resized_repeat(resizing: Resizing) -> None:
    """Write how many copies of one are left."""
    node = resizing.node
    name = _COPIES[node.target]
    source, new = resizing.before[argument(node, "self")], resizing.after[node]
    written = [1] * (len(new) - len(argument(node, name))) + list(argument(node, name))
    for at, size in enumerate((*[1] * (len(written) - len(source)), *source)):
        if size == 1 and isinstance(written[at], int):
            written[at] = new[at]
    set_argument(node, name, written)


@rule(aten.repeat_interleave.self_int)
def interleaved(call: Call) -> Value:
    """Couple ``repeat_interleave``: each copy of a channel goes with it."""
    repeats, dim = call.argument("repeats"), call.argument("dim")
    source = call.value("self")
    if dim is None:
        return call.labels.moved(source, lambda labels: labels.repeat_interleave(repeats))[0]
    planes = [plane.repeat_interleave(repeats, dim) for plane in source.planes]
    return call.labels.settled(call.output, planes)


@resize(aten.repeat_interleave.self_int)
def resized_interleave(resizing: Resizing) -> None:
    """Let the size be counted again, where it was written down."""
    set_argument(resizing.node, "output_size", None)


@rule(aten.meshgrid.indexing)
def meshed(call: Call) -> list[Value]:
    """Couple a grid of places: none of them may go."""
    for operand in call.tensors():
        call.labels.fix_value(operand)
    return [Value(tuple(map(call.program.size, part.shape))) for part in call.node.meta["val"]]


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
    """Couple a slice: the labels of the part. With a step, each run of one step goes whole."""
    source, dim, step = call.value("self"), call.argument("dim"), call.argument("step")
    _check_places(call, "start", "end")
    if step != 1:
        _in_runs(call, source, dim, step)
    arguments = [call.argument(name) for name in ("dim", "start", "end", "step")]
    (value,) = call.labels.moved(source, lambda labels: aten.slice.Tensor(labels, *arguments))
    return value


def _in_runs(call: Call, source: Value, dim: int, step: int) -> None:
    """Tie what lies between two places of a strided slice: then every stride stays as it is."""
    size = source.shape[dim]
    for plane in source.along(dim):
        start = _index(call.argument("start") or 0, size)
        if size % step or start >= step or (call.argument("end") or size) < size:
            call.labels.fix(plane)
        else:
            moved = plane.movedim(dim, -1)
            runs = moved.reshape(*moved.shape[:-1], -1, step)
            call.labels.tie(runs, runs[..., :1])


@resize(aten.slice.Tensor)
def resized_slice(resizing: Resizing) -> None:
    """Start after as many kept channels as there were channels, and take as many as are left."""
    node = resizing.node
    source, dim = argument(node, "self"), argument(node, "dim")
    size = resizing.before[source][dim]
    if size == resizing.after[source][dim] or argument(node, "step") != 1:
        return  # A slice with a step runs to the end, and its start is within the first step.
    start = _index(argument(node, "start") or 0, size)
    first = resizing.kept_before(source, dim, start)
    set_argument(node, "start", first)
    end = argument(node, "end")
    if end is not None and _index(end, size) < size:  # To the end stays to the end.
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


def _check_places(call: Call, *names: str) -> None:
    """Keep a dimension whole along which the graph computes places."""
    if any(isinstance(argument(call.node, name), Node) for name in names):
        for plane in call.value("self").along(call.argument("dim")):
            call.labels.fix(plane)


def _index(written: Any, size: int) -> int:
    assert isinstance(written, int), "the rule refused any other"
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
