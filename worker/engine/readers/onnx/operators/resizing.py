"""Resizing of space, and sampling of it at given places."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (as everywhere in PyTorch)
from torch import Tensor

from worker.engine.readers.onnx.host import Host, is_symbol
from worker.engine.readers.onnx.registry import Call, Unmet, operator

_INTERPOLATED = {"nearest": {3, 4, 5}, "linear": {3, 4, 5}, "cubic": {4}}
_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}


@dataclass(frozen=True)
class _Axis:
    """One axis that is resized.

    Attributes:
        dim: Which.
        size: Before.
        wanted: After.
        scale: What divides places, which need not be the ratio of both sizes.
        region: Start and end of what is resized, as shares of the axis.
    """

    dim: int
    size: Any
    wanted: Any
    scale: Any
    region: tuple[float, float] = (0.0, 1.0)


@operator("Upsample", host=(1,))
def upsample(call: Call, x: Tensor, scales: Host | None = None) -> Tensor:
    """Resize as before opset 10."""
    factors = call.get("scales") if scales is None else scales.list()
    axes = _by_scales(x, range(x.dim()), factors)
    return _resized(x, axes, call.get("mode", "nearest"), "asymmetric", "floor", call)


@operator("Resize", host=(1, 2, 3))
def resize(
    call: Call,
    x: Tensor,
    region: Host | None = None,
    scales: Host | None = None,
    sizes: Host | None = None,
) -> Tensor:
    """Resize by factors or to sizes: by PyTorch's operators where they compute the same."""
    if call.opset < 11:
        return upsample(call, x, region)
    named = [int(a) % x.dim() for a in call.get("axes", list(range(x.dim())))]
    if scales is not None and scales.array.size:
        axes = _by_scales(x, named, scales.list())
    elif sizes is not None and sizes.array.size:
        axes = _to_sizes(call, x, named, sizes.list())
    else:
        raise Unmet("it has neither scales nor sizes")
    transform = call.get("coordinate_transformation_mode", "half_pixel")
    if transform == "tf_crop_and_resize":
        if region is None or not region.array.size:
            raise Unmet("it cuts out a region that is not known while the model is read")
        ends = region.list()
        axes = [
            _Axis(a.dim, a.size, a.wanted, a.scale, (ends[at], ends[at + len(named)]))
            for at, a in enumerate(axes)
        ]
    mode = call.get("mode", "nearest")
    return _resized(x, axes, mode, transform, call.get("nearest_mode", "round_prefer_floor"), call)


def _by_scales(x: Tensor, dims: Sequence[int], scales: Sequence[Any]) -> list[_Axis]:
    axes = []
    for dim, scale in zip(dims, scales, strict=True):
        size: Any = x.shape[dim]
        if is_symbol(size) or is_symbol(scale):
            whole = not is_symbol(scale) and float(scale).is_integer()
            wanted = size * int(scale) if whole else torch.sym_int(size * scale)
        else:
            # As those who run these models compute it: in 32 bits.
            wanted = int(np.float32(scale) * np.float32(size))
        axes.append(_Axis(dim, size, wanted, scale))
    return axes


def _to_sizes(call: Call, x: Tensor, dims: Sequence[int], sizes: Sequence[Any]) -> list[_Axis]:
    policy = call.get("keep_aspect_ratio_policy", "stretch")
    pairs = [(x.shape[dim], wanted) for dim, wanted in zip(dims, sizes, strict=True)]
    if policy == "stretch":
        rows = zip(dims, pairs, strict=True)
        return [_Axis(dim, size, to, _ratio(to, size)) for dim, (size, to) in rows]
    if any(is_symbol(number) for pair in pairs for number in pair):
        raise Unmet("it keeps the ratio of dynamic dimensions")
    ratios = [wanted / size for size, wanted in pairs]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [
        _Axis(dim, size, int(scale * size + 0.5), scale)
        for dim, (size, _) in zip(dims, pairs, strict=True)
    ]


def _ratio(wanted: Any, size: Any) -> Any:
    if is_symbol(wanted) or is_symbol(size):
        return torch.sym_float(wanted) / torch.sym_float(size)
    return wanted / size


def _resized(
    x: Tensor, axes: Sequence[_Axis], mode: str, transform: str, nearest: str, call: Call
) -> Tensor:
    if mode not in _INTERPOLATED:
        raise Unmet(f"its mode is {mode!r}")
    # What keeps its size is not touched, unless a region is cut out of it.
    touched = [
        axis
        for axis in axes
        if not (_is_same(axis) and (transform != "tf_crop_and_resize" or axis.region == (0, 1)))
    ]
    if not touched:
        return x
    if not x.is_floating_point():
        return _resized(x.float(), axes, mode, transform, nearest, call).to(x.dtype)
    made = _by_torch(x, touched, mode, transform, nearest, call)
    if made is not None:
        return made
    for axis in touched:
        x = _along(x, axis, mode, transform, nearest, call)
    return x


def _is_same(axis: _Axis) -> bool:
    if is_symbol(axis.scale) or is_symbol(axis.wanted) or is_symbol(axis.size):
        # The same symbol before and after.
        return str(axis.wanted) == str(axis.size) and str(axis.scale) in ("1", "1.0")
    return bool(axis.scale == 1 and axis.wanted == axis.size)


def _by_torch(
    x: Tensor, touched: Sequence[_Axis], mode: str, transform: str, nearest: str, call: Call
) -> Tensor | None:
    """What PyTorch's own operator gives, or None where it computes something else."""
    if x.dim() not in _INTERPOLATED[mode] or any(axis.dim < 2 for axis in touched):
        return None
    antialias = bool(call.get("antialias", 0))
    # PyTorch leaves out what lies outside when it smooths, and repeats the edge when it does not.
    if bool(call.get("exclude_outside", 0)) != antialias:
        return None
    if antialias and (mode != "linear" or x.dim() != 4 or transform != "half_pixel"):
        return None
    settings = _settings(x, touched, mode, transform, nearest)
    if settings is None:
        return None
    by_dim = {axis.dim: axis for axis in touched}
    space = [by_dim.get(d) or _Axis(d, x.shape[d], x.shape[d], 1.0) for d in range(2, x.dim())]
    wanted = [axis.wanted for axis in space]
    if antialias:
        if not all(_leads_to(axis) for axis in space):
            return None
        return F.interpolate(x, size=wanted, antialias=True, **settings)
    if all(_leads_to(axis) for axis in space):
        # By its size alone PyTorch would divide places by the ratio of sizes.
        return F.interpolate(x, size=wanted, **settings)
    factors = [float(axis.scale) for axis in space if not is_symbol(axis.scale)]
    fits = len(factors) == len(space) and all(
        is_symbol(axis.size) or int(axis.size * float(axis.scale)) == axis.wanted for axis in space
    )
    return F.interpolate(x, scale_factor=factors, **settings) if fits else None


def _leads_to(axis: _Axis) -> bool:
    """Whether the scale is the ratio of both sizes."""
    if is_symbol(axis.size) or is_symbol(axis.wanted):
        return is_symbol(axis.scale) or float(axis.scale).is_integer()
    return bool(abs(axis.scale * axis.size - axis.wanted) < 1e-4)


def _settings(
    x: Tensor, touched: Sequence[_Axis], mode: str, transform: str, nearest: str
) -> dict[str, Any] | None:
    """Arguments of ``interpolate``, or None where no mode of it is this one."""
    if mode == "nearest":
        is_whole = all(not is_symbol(a.scale) and float(a.scale).is_integer() for a in touched)
        if transform == "asymmetric" and nearest == "floor":
            return {"mode": "nearest"}
        if is_whole and transform == "asymmetric":
            return None
        halves = transform in ("half_pixel", "pytorch_half_pixel")
        if halves and is_whole and nearest.startswith("round"):
            return {"mode": "nearest"}
        return None
    name = _LINEAR[x.dim()] if mode == "linear" else "bicubic"
    if transform == "align_corners":
        _check_corners(touched)
        return {"mode": name, "align_corners": True}
    sizes = [axis.wanted for axis in touched]
    is_one = any(not is_symbol(n) and n == 1 for n in sizes)
    if transform == "half_pixel" or (transform == "pytorch_half_pixel" and not is_one):
        return {"mode": name, "align_corners": False}
    return None


def _check_corners(touched: Sequence[_Axis]) -> None:
    """Check that scales lead to whole sizes: else ONNX and those who run it do not agree."""
    if not all(_leads_to(axis) for axis in touched):
        raise Unmet("it aligns corners by scales that do not lead to whole sizes")


def _places(axis: _Axis, transform: str) -> Tensor:
    """Where each place of the result lies in what is read."""
    # In 32 bits, as those who run these models: a place in the middle of two stays there.
    steps = torch.arange(axis.wanted).to(torch.float32)
    size, wanted, scale = axis.size, axis.wanted, axis.scale
    if transform == "asymmetric":
        return steps / scale
    if transform == "half_pixel":
        return (steps + 0.5) / scale - 0.5
    if transform in ("pytorch_half_pixel", "tf_half_pixel_for_nn"):
        if transform == "pytorch_half_pixel" and not is_symbol(wanted) and wanted == 1:
            return steps - 0.5
        return (steps + 0.5) / scale - (0.5 if transform == "pytorch_half_pixel" else 0.0)
    if is_symbol(size) or is_symbol(wanted) or is_symbol(scale):
        raise Unmet(f"it resizes a dynamic dimension with {transform!r}")
    length = scale * size
    if transform == "align_corners":
        _check_corners([axis])
        return steps * 0 if length == 1 else steps * (size - 1) / (length - 1)
    if transform == "half_pixel_symmetric":
        offset = size / 2 * (1 - wanted / length)
        return offset + (steps + 0.5) / scale - 0.5
    if transform == "tf_crop_and_resize":
        start, end = axis.region
        if length == 1:
            return steps * 0 + (end - start) * (size - 1) / 2 + start * (size - 1)
        return steps * (end - start) * (size - 1) / (length - 1) + start * (size - 1)
    raise Unmet(f"its coordinate_transformation_mode is {transform!r}")


def _along(x: Tensor, axis: _Axis, mode: str, transform: str, nearest: str, call: Call) -> Tensor:
    """Resize one axis: the sum of a few neighbors of each place, by their weights."""
    places = _places(axis, transform)
    if mode == "nearest":
        made = x.index_select(axis.dim, _nearest(places, nearest).clamp(0, axis.size - 1))
    else:
        floor = places.floor()
        offsets, weights = _weights(places - floor, axis, mode, call)
        neighbors = [floor.long() + offset for offset in offsets]
        if call.get("exclude_outside", 0):
            inside = [(at >= 0) & (at < axis.size) for at in neighbors]
            weights = [w * held for w, held in zip(weights, inside, strict=True)]
            total = torch.stack(weights).sum(0)
            weights = [w / total for w in weights]
        view = [-1] + [1] * (x.dim() - 1 - axis.dim)
        made = torch.zeros((), dtype=x.dtype)
        for at, weight in zip(neighbors, weights, strict=True):
            looked = x.index_select(axis.dim, at.clamp(0, axis.size - 1))
            made = made + looked * weight.to(x.dtype).reshape(view)
    if transform == "tf_crop_and_resize":
        outside = (places < 0) | (places > axis.size - 1)
        view = [-1] + [1] * (x.dim() - 1 - axis.dim)
        number = call.get("extrapolation_value", 0.0)
        made = torch.where(outside.reshape(view), number, made)
    return made


def _nearest(places: Tensor, how: str) -> Tensor:
    if how == "floor":
        return places.floor().long()
    if how == "ceil":
        return places.ceil().long()
    if how == "round_prefer_floor":
        return (places - 0.5).ceil().long()
    if how == "round_prefer_ceil":
        return (places + 0.5).floor().long()
    raise Unmet(f"its nearest_mode is {how!r}")


def _weights(rest: Tensor, axis: _Axis, mode: str, call: Call) -> tuple[list[int], list[Tensor]]:
    """Neighbors, counted from the place rounded down, and their weights."""
    if call.get("antialias", 0):
        return _smoothed(rest, axis, mode, call)
    if mode == "linear":
        return [0, 1], [1 - rest, rest]
    a = call.get("cubic_coeff_a", -0.75)
    offsets = [-1, 0, 1, 2]
    return offsets, [_cubic(rest - offset, a) for offset in offsets]


def _cubic(distance: Tensor, a: float) -> Tensor:
    d = distance.abs()
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    zero = torch.zeros_like(d)
    return torch.where(d <= 1, near, torch.where(d < 2, far, zero))


def _smoothed(rest: Tensor, axis: _Axis, mode: str, call: Call) -> tuple[list[int], list[Tensor]]:
    """Weights of a filter that is as wide as the step between two places, when there are fewer."""
    if is_symbol(axis.scale):
        raise Unmet("it smooths a dynamic dimension")
    shrink = min(float(axis.scale), 1.0)
    reach = int(np.ceil((1 if mode == "linear" else 2) / shrink))
    offsets = list(range(-reach, reach + 2))
    distances = [(rest - offset) * shrink for offset in offsets]
    if mode == "linear":
        weights = [(1 - d.abs()).clamp_min(0) for d in distances]
    else:
        weights = [_cubic(d, call.get("cubic_coeff_a", -0.75)) for d in distances]
    total = torch.stack(weights).sum(0)
    return offsets, [weight / total for weight in weights]


_SAMPLING = {"linear": "bilinear", "cubic": "bicubic"}


@operator("GridSample")
def grid_sample(call: Call, x: Tensor, grid: Tensor) -> Tensor:
    """Compute ``grid_sample``."""
    mode = call.get("mode", "bilinear")
    return F.grid_sample(
        x,
        grid,
        mode=_SAMPLING.get(mode, mode),
        padding_mode=call.get("padding_mode", "zeros"),
        align_corners=bool(call.get("align_corners", 0)),
    )


@operator("AffineGrid", host=(1,))
def affine_grid(call: Call, theta: Tensor, size: Host) -> Tensor:
    """Compute ``affine_grid``."""
    return F.affine_grid(theta, size.list(), align_corners=bool(call.get("align_corners", 0)))
