"""How the numbers of a value are distributed, and where to clip them."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

BINS = 2048
_LEVELS = 256
_ENDS = 256
"""Of so many places on either side the best is chosen."""
_AT_ONCE = 2**20
_NARROWEST = 1e-30
_EMPTY = 1e-4
"""What a level that should have something and has nothing is taken for, as Migacz' smoothing."""


@dataclass
class Histogram:
    """Counts of a value's numbers in bins of equal width.

    Zeros are counted apart: they are exact in every range, and after a relu they would outweigh
    all else.

    Attributes:
        low: Where the first bin begins; 0 or less.
        high: Where the last one ends; 0 or more.
        counts: int64, ``(BINS,)``; without zeros.
        zeros: How many.
    """

    low: float
    high: float
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    zeros: int = 0

    @property
    def edges(self) -> np.ndarray:
        return np.linspace(self.low, self.high, BINS + 1)

    def add(self, values: Tensor) -> None:
        """Count more numbers, all within the range."""
        for part in torch.split(values.detach().flatten(), _AT_ONCE):
            counts = torch.bincount(self._places(part), minlength=BINS)
            zeros = len(part) - int(part.count_nonzero())
            counts[self._places(part.new_zeros(1))] -= zeros
            self.counts += counts.cpu().numpy()
            self.zeros += zeros

    def _places(self, values: Tensor) -> Tensor:
        """The bin of each number; in single precision, which is several times faster."""
        per_unit = BINS / max(self.high - self.low, _NARROWEST)
        return values.float().sub(self.low).mul_(per_unit).int().clamp_(0, BINS - 1)


Ends = tuple[float, float]
"""Least and largest number that is not clipped; at most and at least 0."""


def whole(histogram: Histogram) -> Ends:
    """All numbers that were seen."""
    return histogram.low, histogram.high


def percentile(histogram: Histogram, percent: float) -> Ends:
    """From the (100 - p)-th percentile to the p-th; everything where hardly more than zero is left.

    Args:
        histogram: Zeros count as well.
        percent: In [50, 100].
    """
    edges = histogram.edges
    total = int(histogram.counts.sum()) + histogram.zeros
    # Zeros stand between the numbers below and above; a bin that has both kinds is split evenly.
    below = np.cumsum(np.concatenate([[0], histogram.counts])).astype(np.float64)
    below += np.where(edges > 0, histogram.zeros, 0)
    share = percent / 100
    high = float(np.interp(share * total, below, edges))
    low = float(np.interp((1 - share) * total, below, edges))
    ends = min(low, 0.0), max(high, 0.0)
    # Within the bins around zero nothing is known.
    return ends if ends[1] - ends[0] > 2 * (edges[1] - edges[0]) else whole(histogram)


def least_squares(histogram: Histogram) -> Ends:
    """The ends with the least mean square of what rounding and clipping change.

    Rounding is taken for an error that is evenly distributed in a step: its square is a twelfth of
    the step's. Numbers stand in the middle of their bins.

    Source: Nagel et al., "A White Paper on Neural Network Quantization", 2021, section on the
    setting of ranges (mean squared error).
    """
    edges, counts = histogram.edges, histogram.counts.astype(np.float64)
    middle = (edges[1:] + edges[:-1]) / 2
    lows, highs = _candidates(edges[edges <= 0]), _candidates(edges[edges >= 0])
    lows, highs = np.union1d(lows, [histogram.low]), np.union1d(highs, [histogram.high])
    if histogram.low == 0:
        lows = np.zeros(1)
    if histogram.high == 0:
        highs = np.zeros(1)
    under = _clipped(lows, middle, counts, side=-1)
    over = _clipped(highs, middle, counts, side=1)
    step = (highs[None, :] - lows[:, None]) / (_LEVELS - 1)
    number = np.interp(highs, edges, np.concatenate([[0], np.cumsum(counts)]))
    before = np.interp(lows, edges, np.concatenate([[0], np.cumsum(counts)]))
    inside = number[None, :] - before[:, None]
    error = under[:, None] + over[None, :] + inside * step**2 / 12
    error[step <= 0] = np.inf
    at_low, at_high = np.unravel_index(np.argmin(error), error.shape)
    return float(lows[at_low]), float(highs[at_high])


def entropy(histogram: Histogram) -> Ends:
    """The ends that lose the least information, as the divergence of Kullback and Leibler.

    Both ends are as far from zero as one threshold, as far as there are numbers. The reference is
    the distribution within, with all that is clipped in its outermost bins; it is compared with the
    same in 256 levels, each spread evenly over those of its bins that have anything.

    Source: Migacz, "8-bit Inference with TensorRT", GTC 2017. There numbers are folded onto their
    magnitude and have 128 levels; here either sign keeps its own.
    """
    edges, counts = histogram.edges, histogram.counts.astype(np.float64)
    furthest = max(-histogram.low, histogram.high)
    best, ends = np.inf, whole(histogram)
    for threshold in np.linspace(0, furthest, _ENDS + 1)[1:]:
        start = int(np.searchsorted(edges, -threshold * (1 + 1e-9)))
        stop = int(np.searchsorted(edges, threshold * (1 + 1e-9), side="right")) - 1
        if stop - start < _LEVELS:
            continue
        divergence = _divergence(counts, start, stop)
        if divergence <= best:  # Of equals the widest.
            best, ends = divergence, (float(edges[start]), float(edges[stop]))
    return min(ends[0], 0.0), max(ends[1], 0.0)


def _divergence(counts: np.ndarray, start: int, stop: int) -> float:
    inside = counts[start:stop]
    reference = inside.copy()
    reference[0] += counts[:start].sum()
    reference[-1] += counts[stop:].sum()
    size = stop - start
    level = np.arange(size) * _LEVELS // size
    has_any = reference > 0
    sums = np.bincount(level, weights=inside, minlength=_LEVELS)
    filled = np.bincount(level, weights=has_any.astype(np.float64), minlength=_LEVELS)
    spread = np.where(has_any, sums[level] / np.maximum(filled[level], 1), 0.0)
    if not spread.any():
        return np.inf
    p = reference[has_any] / reference.sum()
    q = np.maximum(spread[has_any] / spread.sum(), _EMPTY / size)
    return float((p * np.log(p / q)).sum())


def _candidates(edges: np.ndarray) -> np.ndarray:
    """Some of many edges, evenly."""
    if len(edges) <= _ENDS:
        return edges
    places = np.linspace(0, len(edges) - 1, _ENDS).round().astype(int)
    found: np.ndarray = edges[places]
    return found


def _clipped(ends: np.ndarray, middle: np.ndarray, counts: np.ndarray, *, side: int) -> np.ndarray:
    """For each end the sum of squares of what is cut off on its outer side."""
    beyond = side * (middle[None, :] - ends[:, None])
    squares: np.ndarray = np.where(beyond > 0, beyond, 0.0) ** 2 @ counts
    return squares
