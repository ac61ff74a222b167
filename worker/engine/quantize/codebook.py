"""Codebooks: k-means in one dimension, many sets of weights at once."""

import torch
from torch import Tensor

_ROUNDS = 100

_STARTS = (0.0, 0.5, 1.0)
"""Between evenly spaced quantiles and an even split of the range."""


def codebook_of(weights: Tensor, entries: int, *, keeps_zero: bool = False) -> Tensor:
    """The levels that weights are nearest to, by Lloyd's algorithm (Lloyd 1982).

    Begins anew at evenly spaced quantiles, which know the crowd in the middle, at an even split of
    the range, which knows the few at its ends, and between them; the best is taken, set by set.
    Nothing is drawn: it is the same every time.

    Args:
        weights: float32, ``(sets, n)``. NaN counts for nothing.
        entries: Levels of each set, at least 2.
        keeps_zero: Whether one level is zero, exactly.

    Returns:
        float32, ``(sets, entries)``, sorted. Some are equal where there are fewer values.
    """
    return _Lloyd(weights, keeps_zero=keeps_zero).best(entries).float()


class _Lloyd:
    def __init__(self, weights: Tensor, *, keeps_zero: bool) -> None:
        # What counts for nothing is behind all else.
        self._ordered = weights.double().nan_to_num(nan=torch.inf).sort(1).values.contiguous()
        finite = self._ordered.isfinite()
        self._counts = finite.sum(1, keepdim=True)
        numbers = self._ordered.where(finite, 0.0)
        self._sums = _running(numbers)
        self._squares = _running(numbers.square())
        self._keeps_zero = keeps_zero

    def best(self, entries: int) -> Tensor:
        best: Tensor | None = None
        least: Tensor | None = None
        for evenness in _STARTS:
            levels = self._improved(self._first(entries, evenness))
            error = self._error(levels)
            if best is None or least is None:
                best, least = levels, error
            else:
                best = torch.where(error < least, levels, best)
                least = torch.minimum(error, least)
        assert best is not None
        return best

    def _first(self, entries: int, evenness: float) -> Tensor:
        ordered, last = self._ordered, (self._counts - 1).clamp(min=0)
        shares = (torch.arange(entries, device=ordered.device) + 0.5) / entries
        quantiles = ordered.gather(1, torch.minimum((shares * self._counts).long(), last))
        low, high = ordered[:, :1], ordered.gather(1, last)
        levels = torch.lerp(quantiles, low + (high - low) * shares, evenness)
        if self._keeps_zero:
            levels = levels.scatter(1, levels.abs().argmin(1, keepdim=True), 0.0)
        return levels.sort(1).values.contiguous()

    def _improved(self, levels: Tensor) -> Tensor:
        for _ in range(_ROUNDS):
            totals, _, members = self._of_each(levels)
            moved = torch.where(members > 0, totals / members.clamp(min=1), levels)
            if self._keeps_zero:
                moved = torch.where(levels == 0, 0.0, moved)
            moved = moved.sort(1).values.contiguous()
            if torch.equal(moved, levels):
                break
            levels = moved
        return levels

    def _error(self, levels: Tensor) -> Tensor:
        """Squared error of each set: ``(sets, 1)``."""
        totals, squares, members = self._of_each(levels)
        each = squares - 2 * levels * totals + levels.square() * members
        return each.sum(1, keepdim=True)

    def _of_each(self, levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sums, sums of squares and numbers of each level's members: ``(sets, entries)``."""
        middles = ((levels[:, 1:] + levels[:, :-1]) / 2).contiguous()
        # The first value that is above a middle: one that is on it goes down, as in encoding.
        found = torch.minimum(torch.searchsorted(self._ordered, middles, right=True), self._counts)
        edges = torch.cat([torch.zeros_like(self._counts), found, self._counts], 1)
        totals, squares = (each.gather(1, edges) for each in (self._sums, self._squares))
        return totals.diff(dim=1), squares.diff(dim=1), edges.diff(dim=1)


def _running(numbers: Tensor) -> Tensor:
    return torch.cat([numbers.new_zeros(len(numbers), 1), numbers.cumsum(1)], 1)
