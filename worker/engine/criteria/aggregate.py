"""From scores of slices to one score for each channel, comparable between groups."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from worker.engine.criteria.subject import Slice


def aggregate(slices: Sequence[Slice], *, channel_count: int, how: str) -> Tensor:
    """One score for each channel from those of all slices that go with it.

    Args:
        slices: In the order of the program; a channel may be in any number of them.
        channel_count: Of the coupling.
        how: A key of :data:`AGGREGATIONS`.

    Returns:
        float32, ``(channel_count,)``; NaN for a channel that is in no slice.
    """
    return AGGREGATIONS[how](slices, channel_count)


def _sum(slices: Sequence[Slice], count: int) -> Tensor:
    total = torch.zeros(count, dtype=torch.float64)
    seen = torch.zeros(count, dtype=torch.bool)
    for each in slices:
        total.index_add_(0, each.channels, each.scores.double())
        seen[each.channels] = True
    return torch.where(seen, total, torch.nan).float()


def _mean(slices: Sequence[Slice], count: int) -> Tensor:
    number = torch.zeros(count, dtype=torch.float64)
    for each in slices:
        number[each.channels] += 1
    return (_sum(slices, count).double() / number).float()


def _max(slices: Sequence[Slice], count: int) -> Tensor:
    found = torch.full((count,), -torch.inf)
    for each in slices:
        found[each.channels] = torch.maximum(found[each.channels], each.scores)
    return torch.where(found == -torch.inf, torch.nan, found)


def _geometric_mean(slices: Sequence[Slice], count: int) -> Tensor:
    """Zero where any slice is zero or, as Taylor terms without squares are, below."""
    logs = [Slice(each.channels, each.scores.clamp_min(0).log()) for each in slices]
    return _mean(logs, count).exp()


def _first(slices: Sequence[Slice], count: int) -> Tensor:
    found = torch.full((count,), torch.nan)
    seen = torch.zeros(count, dtype=torch.bool)
    for each in slices:
        new = ~seen[each.channels]
        found[each.channels[new]] = each.scores[new]
        seen[each.channels] = True
    return found


AGGREGATIONS: dict[str, Callable[[Sequence[Slice], int], Tensor]] = {
    "sum": _sum,
    "mean": _mean,
    "max": _max,
    "geometric_mean": _geometric_mean,
    "first": _first,
}
