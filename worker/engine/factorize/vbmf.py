"""Which singular values of a matrix are more than noise."""

from math import log, sqrt

import numpy as np
import torch
from scipy.optimize import brentq, minimize_scalar
from torch import Tensor

_LOOKS = 64


def noise_free_rank(matrix: Tensor) -> int:
    """The rank of a matrix without its noise, whose variance is estimated too.

    The matrix is taken for a low-rank one plus independent Gaussian noise; the rank is that of the
    empirical variational Bayesian solution, which is known in closed form once the variance of the
    noise is; that is the minimum of the free energy, a function of one number.

    Args:
        matrix: float64, of two dimensions.

    Returns:
        How many singular values stay: 0 where all may be noise.

    Source: Nakajima, Sugiyama, Babacan, Tomioka, "Global analytic solution of fully-observed
    variational Bayesian matrix factorization", Journal of Machine Learning Research 14, 2013.
    """
    few, many = sorted(matrix.shape)
    squares = torch.linalg.svdvals(matrix).square().numpy()
    if not squares[0] > 0:
        return 0
    ratio = few / many
    least = _least_strength(ratio)
    # Above this, a squared singular value over that of the noise is signal.
    border = (1 + least) * (1 + ratio / least)
    variance = _noise(squares, few, many, ratio, border)
    return int((squares > many * variance * border).sum())


def _least_strength(ratio: float) -> float:
    """The strength at which a component begins to lower the free energy."""

    def phi(strength: float) -> float:
        return log(strength + 1) / strength - 0.5

    def balance(strength: float) -> float:
        return phi(strength) + phi(strength / ratio)

    # About 2.51 times the root of the ratio.
    root = sqrt(ratio)
    return float(brentq(balance, root, 4 * root))


def _noise(squares: np.ndarray, few: int, many: int, ratio: float, border: float) -> float:
    """The variance of the noise, between the bounds that the theory has for it."""
    # No more components than this can be told from noise.
    most = min(max(int(np.ceil(few / (1 + ratio))) - 1, 0), few - 1)
    upper = squares.sum() / (few * many)
    lower = max(squares[most] / (many * border), squares[most:].mean() / many)
    if not 0 < lower < upper:
        return float(max(lower, np.finfo(np.float64).eps * upper))

    def energy(logarithm: float) -> float:
        return _free_energy(squares / (many * np.exp(logarithm)), ratio, border)

    # It has several valleys: the deepest of a coarse look is gone down to its ground.
    grid = np.linspace(log(lower), log(upper), _LOOKS)
    at = int(np.argmin([energy(each) for each in grid]))
    bounds = (grid[max(at - 1, 0)], grid[min(at + 1, _LOOKS - 1)])
    return float(np.exp(minimize_scalar(energy, bounds=bounds, method="bounded").x))


def _free_energy(relative: np.ndarray, ratio: float, border: float) -> float:
    """Up to a constant and a factor; ``relative`` are squares over those of the noise."""
    relative = np.maximum(relative, np.finfo(np.float64).tiny)
    is_signal = relative > border
    noise, signal = relative[~is_signal], relative[is_signal]
    apart = signal - (1 + ratio)
    strength = (apart + np.sqrt(apart**2 - 4 * ratio)) / 2
    energy = (noise - np.log(noise)).sum() + (signal - strength).sum()
    energy += np.log((strength + 1) / signal).sum()
    return float(energy + ratio * np.log(strength / ratio + 1).sum())
