"""Operators that run over some dimensions: sums, extremes, scans, sorts."""

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from worker.engine.readers.onnx.host import Host
from worker.engine.readers.onnx.registry import Call, operator

_Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _product(x: Tensor, axes: list[int], keeps: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keeps, dtype=x.dtype)
    return x


def _sum(x: Tensor, axes: list[int], keeps: bool) -> Tensor:
    return x.sum(axes, keepdim=keeps, dtype=x.dtype)


def _mean(x: Tensor, axes: list[int], keeps: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=keeps)
    return torch.div(_sum(x, axes, keeps), prod(x.shape[a] for a in axes), rounding_mode="trunc")


def _norm(x: Tensor, axes: list[int], keeps: bool) -> Tensor:
    if not x.is_floating_point():
        return _sum(x * x, axes, keeps).double().sqrt().to(x.dtype)
    return torch.linalg.vector_norm(x, 2, dim=axes, keepdim=keeps)


def _all(x: Tensor, axes: list[int], keeps: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.all(axis, keepdim=keeps)
    return x


def _any(x: Tensor, axes: list[int], keeps: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.any(axis, keepdim=keeps)
    return x


def _extreme(name: str) -> _Reduction:
    compute, of_flags = (torch.amax, _any) if name == "amax" else (torch.amin, _all)

    def reduce(x: Tensor, axes: list[int], keeps: bool) -> Tensor:
        if x.dtype == torch.bool:
            return of_flags(x, axes, keeps)
        if any(x.shape[axis] == 0 for axis in axes):
            shape = [1 if at in axes else size for at, size in enumerate(x.shape)]
            shape = shape if keeps else [n for at, n in enumerate(x.shape) if at not in axes]
            return torch.full(shape, _nothing(x.dtype, name), dtype=x.dtype)
        return compute(x, axes, keeps)

    return reduce


def _nothing(dtype: torch.dtype, name: str) -> float | int:
    """The extreme of no numbers."""
    if dtype.is_floating_point:
        return float("-inf") if name == "amax" else float("inf")
    info = torch.iinfo(dtype)
    return info.min if name == "amax" else info.max


def _log_sum_exp(x: Tensor, axes: list[int], keeps: bool) -> Tensor:
    return torch.logsumexp(x, axes, keepdim=keeps)


_REDUCTIONS: dict[str, _Reduction] = {
    "ReduceL1": lambda x, axes, keeps: _sum(x.abs(), axes, keeps),
    "ReduceL2": _norm,
    "ReduceLogSum": lambda x, axes, keeps: _sum(x, axes, keeps).log(),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _extreme("amax"),
    "ReduceMean": _mean,
    "ReduceMin": _extreme("amin"),
    "ReduceProd": _product,
    "ReduceSum": _sum,
    "ReduceSumSquare": lambda x, axes, keeps: _sum(x * x, axes, keeps),
}


def axes_of(call: Call, axes: Host | None, rank: int) -> list[int]:
    """The axes of a reduction, from zero up: an attribute once, an input since opset 13 or 18."""
    named = call.get("axes") if axes is None else axes.list()
    if not named:
        return [] if call.get("noop_with_empty_axes", 0) else list(range(rank))
    return [int(axis) % max(rank, 1) for axis in named]


def _reduction(reduce: _Reduction, name: str) -> Callable[..., Tensor]:
    def of_call(call: Call, x: Tensor, axes: Host | None = None) -> Tensor:
        over = axes_of(call, axes, x.dim())
        keeps = bool(call.get("keepdims", 1))
        if not over and x.dim():
            # Each number is a set of its own then.
            lone = reduce(x.unsqueeze(-1), [x.dim()], False)
            return x if name in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin") else lone
        if not x.dim():
            return reduce(x.reshape(1), [0], False)
        return reduce(x, over, keeps)

    return of_call


for _name, _reduce in _REDUCTIONS.items():
    operator(_name, host=(1,))(_reduction(_reduce, _name))


def _place(compute: Callable[..., Tensor]) -> Callable[[Call, Tensor], Tensor]:
    def of_call(call: Call, x: Tensor) -> Tensor:
        axis, keeps = call.get("axis", 0), bool(call.get("keepdims", 1))
        if not call.get("select_last_index", 0):
            return compute(x, axis, keepdim=keeps)
        return x.shape[axis] - 1 - compute(x.flip(axis), axis, keepdim=keeps)

    return of_call


operator("ArgMax")(_place(torch.argmax))
operator("ArgMin")(_place(torch.argmin))


def _scan(compute: Callable[..., Tensor], start: int) -> Callable[..., Tensor]:
    def of_call(call: Call, x: Tensor, axis: Host) -> Tensor:
        dim = int(axis.one())
        backward = bool(call.get("reverse", 0))
        x = x.flip(dim) if backward else x
        if call.get("exclusive", 0):
            first = torch.full_like(x.narrow(dim, 0, 1), start)
            x = torch.cat([first, x.narrow(dim, 0, x.shape[dim] - 1)], dim)
        made = compute(x, dim, dtype=x.dtype)
        return made.flip(dim) if backward else made

    return of_call


operator("CumSum", host=(1,))(_scan(torch.cumsum, 0))
operator("CumProd", host=(1,))(_scan(torch.cumprod, 1))


@operator("TopK", host=(1,))
def topk(call: Call, x: Tensor, k: Host | None = None) -> list[Tensor]:
    """Give the largest or the smallest, and where they were; the first among equals."""
    axis = call.get("axis", -1)
    largest = bool(call.get("largest", 1))
    count = call.get("k") if k is None else k.one()
    if x.is_floating_point() and call.get("sorted", 1):
        values, places = torch.topk(x, count, axis, largest, sorted=True)
        return [values, places]
    values, places = torch.sort(x, dim=axis, descending=largest, stable=True)
    return [values.narrow(axis, 0, count), places.narrow(axis, 0, count)]
