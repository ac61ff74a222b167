"""Codebooks: k-means in one dimension, many sets of weights at once."""

import torch
from torch import Tensor

_ROUNDS = 100


def codebook_of(weights: Tensor, entries: int, *, keeps_zero: bool = False) -> Tensor:
    """The levels that weights are nearest to, by Lloyd's algorithm (Lloyd 1982).

    Begins at evenly spaced quantiles blended with an even split of the range, so that neither the
    crowd in the middle nor the few at the ends are left out; is the same every time.

    Args:
        weights: float32, ``(sets, n)``. NaN counts for nothing.
        entries: Levels of each set, at least 2.
        keeps_zero: Whether one level is zero, exactly.

    Returns:
        float32, ``(sets, entries)``, sorted. Some are equal where there are fewer values.
    """
    # NaN is sorted behind all else.
    ordered = weights.double().sort(1).values
    counts = ordered.isfinite().sum(1, keepdim=True)
    sums = torch.cat([ordered.new_zeros(len(ordered), 1), ordered.nan_to_num(0.0).cumsum(1)], 1)
    levels = _first(ordered, counts, entries)
    if keeps_zero:
        levels = _with_zero(levels)
    for _ in range(_ROUNDS):
        edges = _edges(ordered, counts, levels)
        totals, members = sums.gather(1, edges).diff(dim=1), edges.diff(dim=1)
        moved = torch.where(members > 0, totals / members.clamp(min=1), levels)
        if keeps_zero:
            moved = torch.where(levels == 0, 0.0, moved)
        moved = moved.sort(1).values
        if torch.equal(moved, levels):
            break
        levels = moved
    return levels.float()


def _first(ordered: Tensor, counts: Tensor, entries: int) -> Tensor:
    shares = (torch.arange(entries, device=ordered.device) + 0.5) / entries
    at = (shares * counts).long().clamp(max=ordered.shape[1] - 1)
    at = torch.minimum(at, (counts - 1).clamp(min=0))
    low = ordered[:, :1]
    high = ordered.gather(1, (counts - 1).clamp(min=0))
    return (ordered.gather(1, at) + low + (high - low) * shares) / 2


def _with_zero(levels: Tensor) -> Tensor:
    nearest = levels.abs().argmin(1, keepdim=True)
    return levels.scatter(1, nearest, 0.0).sort(1).values


def _edges(ordered: Tensor, counts: Tensor, levels: Tensor) -> Tensor:
    """Where the members of each level begin, and the last one's end: ``(sets, entries + 1)``."""
    middles = (levels[:, 1:] + levels[:, :-1]) / 2
    # The first value that is above a middle: one that is on it goes down, as in encoding.
    found = torch.searchsorted(ordered, middles, right=True)
    return torch.cat([torch.zeros_like(counts), torch.minimum(found, counts), counts], 1)
