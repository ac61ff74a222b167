"""Poolings over space."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (as everywhere in PyTorch)
from torch import Tensor

from worker.engine.readers.onnx.operators.windows import (
    are_same,
    extents,
    for_pad,
    pads,
    per_axis,
)
from worker.engine.readers.onnx.registry import Call, Unmet, operator

_MAX: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class _Windows:
    """How a pooling's windows lie over what it reads."""

    def __init__(self, call: Call, x: Tensor) -> None:
        self.kernel = list(call.get("kernel_shape"))
        rank = len(self.kernel)
        if rank not in _MAX or x.dim() != rank + 2:
            raise Unmet(f"it works on {rank} axes of space, not on 1 to 3")
        self.stride = per_axis(call, "strides", rank)
        self.dilation = per_axis(call, "dilations", rank)
        self.extent = extents(self.kernel, self.dilation)
        self.rounds_up = bool(call.get("ceil_mode", 0))
        self.before, self.after = pads(call, x.shape[2:], self.extent, self.stride)
        if call.get("auto_pad", "NOTSET") != "NOTSET":
            self.rounds_up = False

    @property
    def is_plain(self) -> bool:
        """Whether PyTorch's poolings take these pads: as much on both sides, half a window."""
        return are_same(self.before, self.after) and all(
            2 * pad <= size for pad, size in zip(self.before, self.kernel, strict=True)
        )

    def beyond(self, x: Tensor) -> list[Any]:
        """What has to be added after each axis, so that the last window is whole.

        With ``ceil_mode`` it may reach over the end, unless it begins there.
        """
        if not self.rounds_up:
            return list(self.after)
        found = []
        for at, size in enumerate(x.shape[2:]):
            before, step, reach = self.before[at], self.stride[at], self.extent[at]
            room = size + before + self.after[at] - reach
            count = -(-room // step) + 1
            if (count - 1) * step >= size + before:
                count = count - 1
            needed = (count - 1) * step + reach - size - before
            found.append(torch.sym_max(needed, self.after[at]))
        return found


@operator("MaxPool")
def max_pool(call: Call, x: Tensor) -> Tensor | list[Tensor]:
    """Compute ``max_pool1d`` to ``3d``, over space padded before where it has to be."""
    windows = _Windows(call, x)
    if not x.is_floating_point():
        raise Unmet("it pools integers")
    pool = _MAX[len(windows.kernel)]
    is_plain = windows.is_plain
    if call.is_read(1):
        if not is_plain or call.get("storage_order", 0):
            raise Unmet("its second output is read, over uneven pads or in column order")
        return _with_places(windows, x)
    if is_plain:
        arguments = (windows.kernel, windows.stride, windows.before, windows.dilation)
        return pool(x, *arguments, ceil_mode=windows.rounds_up)
    lowest = torch.finfo(x.dtype).min
    padded = F.pad(x, for_pad(windows.before, windows.beyond(x)), value=lowest)
    return pool(padded, windows.kernel, windows.stride, 0, windows.dilation)


def _with_places(windows: _Windows, x: Tensor) -> list[Tensor]:
    """The places too: PyTorch counts them in each channel, ONNX through the whole tensor."""
    values, places = _MAX[len(windows.kernel)](
        x,
        windows.kernel,
        windows.stride,
        windows.before,
        windows.dilation,
        ceil_mode=windows.rounds_up,
        return_indices=True,
    )
    channels = x.shape[0] * x.shape[1]
    start = torch.arange(channels) * prod(x.shape[2:])
    return [values, places + start.reshape(x.shape[0], x.shape[1], *[1] * (x.dim() - 2))]


@operator("AveragePool")
def average_pool(call: Call, x: Tensor) -> Tensor:
    """Compute ``avg_pool1d`` to ``3d``; else a sum over windows, by how many of it count."""
    windows = _Windows(call, x)
    counts_pads = bool(call.get("count_include_pad", 0))
    if windows.is_plain and max(windows.dilation) == 1:
        return _AVERAGE[len(windows.kernel)](
            x,
            windows.kernel,
            windows.stride,
            windows.before,
            ceil_mode=windows.rounds_up,
            count_include_pad=counts_pads,
        )
    beyond = windows.beyond(x)
    ones = torch.ones_like(x[:1, :1])
    if counts_pads:
        ones = F.pad(ones, for_pad(windows.before, windows.after), value=1.0)
        rest = [wide - own for wide, own in zip(beyond, windows.after, strict=True)]
        ones = F.pad(ones, for_pad([0] * len(rest), rest))
    else:
        ones = F.pad(ones, for_pad(windows.before, beyond))
    sums = _sums(windows, F.pad(x, for_pad(windows.before, beyond)))
    return sums / _sums(windows, ones)


def _sums(windows: _Windows, padded: Tensor) -> Tensor:
    """Sums over windows of what has its pads already."""
    rank = len(windows.kernel)
    if max(windows.dilation) == 1:
        return _AVERAGE[rank](padded, windows.kernel, windows.stride) * prod(windows.kernel)
    lead = padded.shape[:2]
    each = padded.reshape(lead[0] * lead[1], 1, *padded.shape[2:])
    weight = torch.ones(1, 1, *windows.kernel, dtype=padded.dtype)
    sums = _CONV[rank](each, weight, None, windows.stride, 0, windows.dilation)
    return sums.reshape(*lead, *sums.shape[2:])


@operator("LpPool")
def lp_pool(call: Call, x: Tensor) -> Tensor:
    """Take the norm of each window."""
    order = call.get("p", 2)
    windows = _Windows(call, x)
    powers = F.pad(x.abs().pow(order), for_pad(windows.before, windows.beyond(x)))
    return _sums(windows, powers).pow(1 / order)


def _space(x: Tensor) -> Sequence[int]:
    return range(2, x.dim())


@operator("GlobalAveragePool")
def global_average_pool(_: Call, x: Tensor) -> Tensor:
    """Average each channel."""
    return x.mean(dim=list(_space(x)), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(_: Call, x: Tensor) -> Tensor:
    """Take the largest of each channel."""
    return x.amax(dim=list(_space(x)), keepdim=True)


@operator("GlobalLpPool")
def global_lp_pool(call: Call, x: Tensor) -> Tensor:
    """Take the norm of each channel."""
    order = call.get("p", 2)
    return x.abs().pow(order).sum(dim=list(_space(x)), keepdim=True).pow(1 / order)


@operator("MaxUnpool", host=(2,))
def max_unpool(call: Call, x: Tensor, places: Tensor, shape: Any = None) -> Tensor:
    """Put each number where a pooling found it, among zeros."""
    rank = x.dim() - 2
    kernel, stride = list(call.get("kernel_shape")), per_axis(call, "strides", rank)
    written = list(call.get("pads", [0] * 2 * rank))
    small = [
        (size - 1) * step - written[at] - written[at + rank] + reach
        for at, (size, step, reach) in enumerate(zip(x.shape[2:], stride, kernel, strict=True))
    ]
    sizes = [*x.shape[:2], *small] if shape is None else shape.list()
    if shape is not None and list(sizes) != [*x.shape[:2], *small]:
        # The places were counted in the smaller tensor, and mean others in the larger one.
        raise Unmet("its output_shape is not the one that its pads lead to")
    flat = torch.zeros(prod(sizes), dtype=x.dtype)
    return flat.scatter(0, places.reshape(-1), x.reshape(-1)).reshape(sizes)
