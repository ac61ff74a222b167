"""Operators that move numbers about and compute nothing."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (as everywhere in PyTorch)
from torch import Tensor

from worker.engine.readers.onnx.host import Host, is_symbol
from worker.engine.readers.onnx.operators.windows import for_pad, per_axis
from worker.engine.readers.onnx.registry import Call, Unmet, as_tensor, operator

aten = torch.ops.aten
_FAR = 2**31 - 1


@operator("Reshape", host=(1,))
def reshape(call: Call, x: Tensor, shape: Host) -> Tensor:
    """Give another shape; a zero keeps a size."""
    wanted = shape.list()
    if not call.get("allowzero", 0):
        wanted = [
            x.shape[at] if not is_symbol(size) and size == 0 else size
            for at, size in enumerate(wanted)
        ]
    return x.reshape(wanted)


@operator("Flatten")
def flatten(call: Call, x: Tensor) -> Tensor:
    """Give two dimensions."""
    axis = call.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    if axis == 0:
        return x.reshape(1, -1)
    if axis == x.dim():
        return x.reshape(-1, 1)
    x = x.flatten(axis) if axis < x.dim() - 1 else x
    return x.flatten(0, axis - 1) if axis > 1 else x


@operator("Transpose")
def transpose(call: Call, x: Tensor) -> Tensor:
    """Reorder dimensions."""
    order = call.get("perm", list(reversed(range(x.dim()))))
    return x.permute(order)


@operator("Squeeze", host=(1,))
def squeeze(call: Call, x: Tensor, axes: Host | None = None) -> Tensor:
    """Drop dimensions of size one."""
    named = call.get("axes") if axes is None else axes.list()
    if named is None:
        dropped = [at for at, size in enumerate(x.shape) if not is_symbol(size) and size == 1]
    else:
        dropped = [int(axis) % x.dim() for axis in named]
    for axis in sorted(dropped, reverse=True):
        if x.shape[axis] != 1:
            raise Unmet(f"it drops dimension {axis}, which has size {x.shape[axis]}")
        x = x.squeeze(axis)
    return x


@operator("Unsqueeze", host=(1,))
def unsqueeze(call: Call, x: Tensor, axes: Host | None = None) -> Tensor:
    """Add dimensions of size one."""
    named = call.get("axes") if axes is None else axes.list()
    rank = x.dim() + len(named)
    for axis in sorted(int(axis) % rank for axis in named):
        x = x.unsqueeze(axis)
    return x


@operator("Concat")
def concat(call: Call, *values: Tensor) -> Tensor:
    """Put one after another."""
    return torch.cat(values, call.get("axis")) if len(values) > 1 else values[0]


@operator("Split", host=(1,))
def split(call: Call, x: Tensor, sizes: Host | None = None) -> list[Tensor]:
    """Cut into pieces: of given sizes, or as many as there are outputs."""
    axis = call.get("axis", 0)
    named = call.get("split") if sizes is None else sizes.list()
    if named is None:
        count = call.get("num_outputs", len(call.node.output))
        size = x.shape[axis]
        piece = -(-size // count)
        named = [piece] * (count - 1)
        named.append(size - piece * (count - 1))
    return list(torch.split(x, list(named), axis))


@operator("Slice", host=(1, 2, 3, 4))
def slice_(
    call: Call,
    x: Tensor,
    starts: Host | None = None,
    ends: Host | None = None,
    axes: Host | None = None,
    steps: Host | None = None,
) -> Tensor:
    """Cut out, forward or backward."""
    if starts is None or ends is None:
        firsts, lasts = list(call.get("starts")), list(call.get("ends"))
        along = list(call.get("axes", range(len(firsts))))
    else:
        firsts, lasts = starts.list(), ends.list()
        along = list(range(len(firsts))) if axes is None else axes.list()
    strides = [1] * len(firsts) if steps is None else steps.list()
    for start, end, axis, step in zip(firsts, lasts, along, strides, strict=True):
        if is_symbol(step):
            raise Unmet("its step is not known while the model is read")
        dim = int(axis) % x.dim()
        if step < 0:
            x = _backward(x, dim, start, end, -step)
        elif not (_is_number(start, 0) and step == 1 and not is_symbol(end) and end >= _FAR):
            x = aten.slice.Tensor(x, dim, start, end, step)
    return x


def _is_number(value: Any, number: int) -> bool:
    return not is_symbol(value) and value == number


def _backward(x: Tensor, dim: int, start: Any, end: Any, step: int) -> Tensor:
    """Cut out of what is turned round, where the places count from the other end."""
    if is_symbol(start) or is_symbol(end):
        raise Unmet("it runs backward from or to a place that is not known while it is read")
    size = x.shape[dim]
    turned = x.flip(dim)
    first = -1 - start if start < 0 else size - 1 - start
    last = -1 - end if end < 0 else size - 1 - end
    if not is_symbol(first):
        first = max(first, 0)
    if end < -_FAR or (not is_symbol(size) and end < -size):
        last = size
    if start >= _FAR:
        first = 0
    return aten.slice.Tensor(turned, dim, first, last, step)


@operator("Pad", host=(1, 2, 3))
def pad(
    call: Call,
    x: Tensor,
    pads: Host | None = None,
    value: Host | None = None,
    axes: Host | None = None,
) -> Tensor:
    """Add around: one number, the edge, what is mirrored in it, or what comes round again."""
    mode = call.get("mode", "constant")
    written = call.get("pads") if pads is None else pads.list()
    named = list(range(x.dim())) if axes is None else [int(a) % x.dim() for a in axes.list()]
    before, after = [0] * x.dim(), [0] * x.dim()
    for at, axis in enumerate(named):
        before[axis], after[axis] = written[at], written[at + len(named)]
    if mode == "constant":
        number = call.get("value", 0.0) if value is None else value.one()
        number = number if x.is_floating_point() else int(number)
        touched = min((a for a in range(x.dim()) if _any(before[a], after[a])), default=None)
        if touched is None:
            return x
        return F.pad(x, for_pad(before[touched:], after[touched:]), value=number)
    for axis in range(x.dim()):
        if _any(before[axis], after[axis]):
            x = _repeated(x, axis, before[axis], after[axis], mode)
    return x


def _any(*numbers: Any) -> bool:
    return any(is_symbol(number) or number != 0 for number in numbers)


_TORCH_MODES = {"reflect": "reflect", "edge": "replicate"}


def _repeated(x: Tensor, axis: int, before: Any, after: Any, mode: str) -> Tensor:
    """Look up what stands around: by PyTorch's own padding along the last axis of few."""
    is_last = axis == x.dim() - 1 and x.dim() in (2, 3) and x.is_floating_point()
    is_known = all(isinstance(n, int) and n >= 0 for n in (before, after))
    if is_last and is_known and mode in _TORCH_MODES:
        return F.pad(x, [before, after], mode=_TORCH_MODES[mode])
    size = x.shape[axis]
    places = torch.arange(-before, size + after)
    if mode == "edge":
        places = places.clamp(0, size - 1)
    elif mode == "wrap":
        places = places % size
    elif mode == "reflect":
        period = 2 * (size - 1)
        places = places % period
        places = torch.minimum(places, period - places)
    else:
        raise Unmet(f"its mode is {mode!r}")
    return x.index_select(axis, places)


@operator("Tile", host=(1,))
def tile(_: Call, x: Tensor, repeats: Host) -> Tensor:
    """Repeat."""
    return x.repeat(repeats.list())


@operator("Expand", host=(1,), either=(0,))
def expand(_: Call, given: Tensor | Host, shape: Host) -> Tensor:
    """Repeat along dimensions of size one; a one in the shape keeps a size."""
    wanted = shape.list()
    if isinstance(given, Host) and given.is_one and given.array.ndim <= len(wanted):
        return torch.full(wanted, given.one(), dtype=given.dtype)
    x = as_tensor(given)
    lead = len(wanted) - x.dim()
    wanted = [1] * -lead + wanted
    sizes = []
    for at, size in enumerate(wanted):
        own = 1 if at < lead else x.shape[at - max(lead, 0)]
        has_one = not is_symbol(own) and own == 1
        sizes.append(size if at < lead or has_one else -1)
    return x.expand(sizes)


@operator("DepthToSpace")
def depth_to_space(call: Call, x: Tensor) -> Tensor:
    """Move channels into space."""
    side = call.get("blocksize")
    if call.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, side)
    rows, channels, high, wide = x.shape
    x = x.reshape(rows, side, side, channels // side**2, high, wide)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(rows, channels // side**2, high * side, wide * side)


@operator("SpaceToDepth")
def space_to_depth(call: Call, x: Tensor) -> Tensor:
    """Move space into channels."""
    side = call.get("blocksize")
    rows, channels, high, wide = x.shape
    if call.get("mode", "DCR") == "CRD":
        return F.pixel_unshuffle(x, side)
    x = x.reshape(rows, channels, high // side, side, wide // side, side)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(rows, channels * side**2, high // side, wide // side)


@operator("Trilu", host=(1,))
def trilu(call: Call, x: Tensor, k: Host | None = None) -> Tensor:
    """Keep the upper or the lower triangle."""
    diagonal = 0 if k is None else int(k.one())
    return x.triu(diagonal) if call.get("upper", 1) else x.tril(diagonal)


@operator("CenterCropPad", host=(1,))
def center_crop_pad(call: Call, x: Tensor, shape: Host) -> Tensor:
    """Cut or pad both ends of an axis to a size."""
    axes = call.get("axes", list(range(x.dim())))
    for axis, wanted in zip(axes, shape.list(), strict=True):
        dim, size = axis % x.dim(), x.shape[axis]
        if is_symbol(size) or is_symbol(wanted):
            raise Unmet("it cuts or pads a dynamic dimension")
        if size > wanted:
            x = x.narrow(dim, (size - wanted) // 2, wanted)
        elif size < wanted:
            before = [0] * x.dim()
            after = [0] * x.dim()
            before[dim] = (wanted - size) // 2
            after[dim] = wanted - size - before[dim]
            x = F.pad(x, for_pad(before, after))
    return x


@operator("ReverseSequence")
def reverse_sequence(call: Call, x: Tensor, lengths: Tensor) -> Tensor:
    """Turn round the first part of each row."""
    time, batch = call.get("time_axis", 0), call.get("batch_axis", 1)
    steps = torch.arange(x.shape[time])
    ends = lengths.unsqueeze(1)
    places = torch.where(steps < ends, ends - 1 - steps, steps)
    if time < batch:
        places = places.t()
    view: list[Any] = [1] * x.dim()
    view[time], view[batch] = x.shape[time], x.shape[batch]
    return x.gather(time, places.reshape(view).expand(x.shape))


@operator("Col2Im", host=(1, 2))
def col2im(call: Call, x: Tensor, image: Host, block: Host) -> Tensor:
    """Add up blocks where they came from."""
    sizes, kernel = image.list(), block.list()
    rank = len(sizes)
    stride, dilation = per_axis(call, "strides", rank), per_axis(call, "dilations", rank)
    pads = list(call.get("pads", [0] * 2 * rank))
    if rank != 2 or pads[:rank] != pads[rank:]:
        return _folded(x, sizes, kernel, pads, stride, dilation)
    rest = (tuple(dilation), tuple(pads[:rank]), tuple(stride))
    return F.fold(x, tuple(sizes), tuple(kernel), *rest)


def _folded(
    x: Tensor,
    sizes: Sequence[int],
    kernel: Sequence[int],
    pads: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """The same for any number of axes: by adding at places that are counted out."""
    rank = len(sizes)
    whole = [size + pads[at] + pads[at + rank] for at, size in enumerate(sizes)]
    places = torch.zeros((), dtype=torch.int64)
    for at in range(rank):
        count = (whole[at] - (kernel[at] - 1) * dilation[at] - 1) // stride[at] + 1
        inside = torch.arange(kernel[at]) * dilation[at]
        starts = torch.arange(count) * stride[at]
        shape = [1] * 2 * rank
        shape[at], shape[at + rank] = kernel[at], count
        along = (inside.unsqueeze(1) + starts).reshape(shape)
        places = places * whole[at] + along
    channels = x.shape[1] // prod(kernel)
    flat = torch.zeros(x.shape[0], channels, prod(whole), dtype=x.dtype)
    given = x.reshape(x.shape[0], channels, -1)
    made = flat.index_add(2, places.reshape(-1), given).reshape(x.shape[0], channels, *whole)
    for at in range(rank):
        made = made.narrow(at + 2, pads[at], sizes[at])
    return made
