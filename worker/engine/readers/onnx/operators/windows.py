"""What convolutions and poolings share: where windows lie over space."""

from collections.abc import Sequence
from typing import Any

import torch

from worker.engine.readers.onnx.registry import Call, Unmet


def per_axis(call: Call, name: str, rank: int) -> list[int]:
    """An attribute with a number for each axis of space; ones where it is left out."""
    return list(call.get(name, [1] * rank))


def extents(kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """How far a window reaches along each axis."""
    return [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]


def pads(
    call: Call, sizes: Sequence[Any], extent: Sequence[int], stride: Sequence[int]
) -> tuple[list[Any], list[Any]]:
    """What is added before and after each axis, as written or as ``auto_pad`` says.

    Args:
        call: With the attributes ``auto_pad`` and ``pads``.
        sizes: Of space.
        extent: How far a window reaches.
        stride: Between windows.
    """
    rank = len(sizes)
    mode = call.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        written = list(call.get("pads", [0] * 2 * rank))
        return written[:rank], written[rank:]
    if mode == "VALID":
        return [0] * rank, [0] * rank
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise Unmet(f"its auto_pad is {mode!r}")
    before, after = [], []
    for size, reach, step in zip(sizes, extent, stride, strict=True):
        total = reach - 1 if step == 1 else _total(size, reach, step)
        less = total // 2
        before.append(less if mode == "SAME_UPPER" else total - less)
        after.append(total - less if mode == "SAME_UPPER" else less)
    return before, after


def _total(size: Any, reach: int, step: int) -> Any:
    """What has to be added so that there is a window for each ``step`` places."""
    count = (size + step - 1) // step
    return torch.sym_max((count - 1) * step + reach - size, 0)


def for_pad(before: Sequence[Any], after: Sequence[Any]) -> list[Any]:
    """As ``torch.nn.functional.pad`` takes them: the last axis first."""
    return [n for pair in reversed([*zip(before, after, strict=True)]) for n in pair]


def are_same(before: Sequence[Any], after: Sequence[Any]) -> bool:
    """Whether both sides of each axis get as much, whatever the sizes are."""
    if not all(isinstance(n, int) for n in (*before, *after)):
        return False
    return list(before) == list(after)
