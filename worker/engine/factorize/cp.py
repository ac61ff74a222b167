"""A convolution as a chain: fewer channels, each axis of the kernel alone, all outputs again."""

from functools import cached_property

import numpy as np
import torch
from torch import Generator, Tensor

from worker.engine.factorize.candidates import Candidates, axes_of, of_cp
from worker.engine.factorize.channels import Weighed, solved
from worker.engine.factorize.layers import Layer
from worker.engine.factorize.moments import Moments
from worker.engine.factorize.parts import Part
from worker.engine.factorize.vbmf import noise_free_rank

_LARGEST = 2**10
"""The highest rank that is tried."""

_RUNGS = 8
_SWEEPS_OF_RUNG = 10
_SWEEPS = 100
_ENOUGH = 1e-6
# Beside a kernel of norm 1. Terms that grow without end while they cancel each other cost more.
_RIDGE = 1e-5


class Cp:
    """A sum of terms, each a product of one vector for each dimension of the kernel.

    Lebedev et al., "Speeding-up Convolutional Neural Networks Using Fine-tuned CP-Decomposition",
    2015. Found by alternating least squares with a ridge, on channels whose second moment is one;
    the last 1x1 is then the best for the columns that are read.
    """

    name = "cp"

    def __init__(self, layer: Layer, moments: Moments | None, *, seed: int) -> None:
        self._layer = layer
        self._seed = seed
        self._weighed = Weighed.of(layer, moments)
        whitened = self._weighed.whitened
        self._scale = float(whitened.norm())
        sizes = [size for size in layer.kernel if size > 1]
        self._tensor = (whitened / self._scale).view(layer.outputs, layer.inputs, *sizes)

    def candidates(self) -> Candidates:
        ranks, lost = self._rungs
        every = np.arange(1, ranks[-1] + 1)
        between = np.exp(np.interp(every, ranks, np.log(lost)))
        return of_cp(self._layer, every[:, None], 1 - between)

    def sufficient(self, energy: float) -> tuple[int, ...] | None:
        kept = self.candidates().kept
        return (int(np.searchsorted(kept, energy)) + 1,) if energy <= kept[-1] else None

    def without_noise(self) -> tuple[int, ...]:
        kernel = self._weighed.kernel
        unfoldings = [kernel.movedim(1, 0).flatten(1), kernel.flatten(1)]
        found = [noise_free_rank(each) for each in unfoldings]
        return (max(1, *found),)

    def parts(self, ranks: tuple[int, ...]) -> list[Part]:
        [rank] = ranks
        layer = self._layer
        _, inputs, *axes = self._solved(rank, None, _SWEEPS)
        first = self._weighed.unwhitened(inputs)
        ones = [1] * len(layer.kernel)
        parts = [Part(first.reshape(rank, layer.inputs, *ones))]
        for factor, own in zip(axes, axes_of(layer.kernel), strict=True):
            sizes = [size if axis in own else 1 for axis, size in enumerate(layer.kernel)]
            parts.append(Part(factor.T.reshape(rank, 1, *sizes), own, is_depthwise=True))
        last = self._refitted(first, axes)
        return [*parts, Part(last.reshape(layer.outputs, rank, *ones))]

    def _refitted(self, first: Tensor, axes: list[Tensor]) -> Tensor:
        """The last 1x1, by least squares on what is read: ``(outputs, rank)``."""
        places = _together(axes)
        weighed = self._weighed
        if weighed.columns is None:
            before = first if weighed.root is None else first @ weighed.root
            terms = torch.einsum("ri,kr->rik", before, places).flatten(1)
            products = terms @ weighed.whitened.flatten(1).T
            return solved(terms @ terms.T, products).T
        terms = torch.einsum("ri,kr->rik", first, places).flatten(1)
        half = terms @ weighed.columns
        return solved(half @ terms.T, half @ weighed.kernel.flatten(1).T).T

    @cached_property
    def _rungs(self) -> tuple[np.ndarray, np.ndarray]:
        """Some ranks up to the highest that saves anything, and what each loses of the energy."""
        layer = self._layer
        each = layer.inputs + layer.outputs + sum(layer.kernel)
        most = max(1, min(_LARGEST, layer.parameters // each))
        ranks = np.unique(np.geomspace(1, most, _RUNGS).round().astype(int))
        factors = None
        lost = []
        for rank in ranks.tolist():
            factors = self._solved(rank, factors, _SWEEPS_OF_RUNG)
            lost.append(self._lost(factors))
        return ranks, np.minimum.accumulate(np.clip(lost, 1e-9, 1.0))

    def _lost(self, factors: list[Tensor]) -> float:
        outputs, *others = factors
        terms = _together(others)
        return float((self._tensor.flatten(1) - outputs @ terms.T).square().sum())

    def _solved(self, rank: int, start: list[Tensor] | None, sweeps: int) -> list[Tensor]:
        """Factors ``(size, rank)`` of outputs, inputs and each axis, outputs solved for last."""
        generator = Generator().manual_seed(self._seed)
        factors = []
        for at, size in enumerate(self._tensor.shape):
            drawn = torch.randn(size, rank, generator=generator, dtype=torch.float64)
            drawn /= drawn.norm(dim=0)
            if start is not None:
                drawn = torch.cat([start[at], drawn[:, start[at].shape[1] :]], 1)
            factors.append(drawn)
        flat = self._tensor.flatten(1)
        factors[0] = self._updated(flat @ _together(factors[1:]), factors, 0)
        lost = np.inf
        for _ in range(sweeps):
            self._update_others(factors)
            factors[0] = self._updated(flat @ _together(factors[1:]), factors, 0)
            factors = _even(factors)
            now = self._lost(factors)
            if lost - now < _ENOUGH:
                break
            lost = now
        return factors

    def _update_others(self, factors: list[Tensor]) -> None:
        shape = self._tensor.shape[1:]
        # The one large product; the others are sums of its entries.
        behind = (self._tensor.flatten(1).T @ factors[0]).view(*shape, -1)
        for at in range(1, len(factors)):
            left = behind
            for other in range(1, len(factors)):
                if other != at:
                    weights = _spread(factors[other], other - 1, len(shape))
                    left = (left * weights).sum(other - 1, keepdim=True)
            factors[at] = self._updated(left.reshape(shape[at - 1], -1), factors, at)

    def _updated(self, products: Tensor, factors: list[Tensor], at: int) -> Tensor:
        grams = [factor.T @ factor for number, factor in enumerate(factors) if number != at]
        squares = grams[0].clone()
        for gram in grams[1:]:
            squares *= gram
        ridge = _RIDGE * torch.eye(len(squares), dtype=squares.dtype)
        return torch.cholesky_solve(products.T, torch.linalg.cholesky(squares + ridge)).T


def _together(factors: list[Tensor]) -> Tensor:
    """Products of all entries of each column, as one: ``(product of sizes, rank)``."""
    found = factors[0]
    for factor in factors[1:]:
        found = (found[:, None] * factor[None]).flatten(0, 1)
    return found


def _spread(factor: Tensor, dim: int, dims: int) -> Tensor:
    """A factor ``(size, rank)`` along one of several dimensions, its rank behind all of them."""
    return factor.view(*(len(factor) if at == dim else 1 for at in range(dims)), -1)


def _even(factors: list[Tensor]) -> list[Tensor]:
    """The same sum, each vector of a term as long as the others."""
    lengths = torch.stack([factor.norm(dim=0) for factor in factors])
    shared = lengths.prod(0) ** (1 / len(factors))
    return [
        torch.where(length > 0, factor / length * shared, factor)
        for factor, length in zip(factors, lengths, strict=True)
    ]
