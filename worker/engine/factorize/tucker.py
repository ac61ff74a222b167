"""A convolution as three: fewer channels, the kernel among these, and all outputs again."""

import numpy as np
import torch
from torch import Tensor

from worker.engine.factorize.candidates import Candidates, of_tucker
from worker.engine.factorize.channels import Weighed, root_of
from worker.engine.factorize.layers import Layer
from worker.engine.factorize.moments import Moments
from worker.engine.factorize.parts import Part
from worker.engine.factorize.refine import best_behind, refined
from worker.engine.factorize.vbmf import noise_free_rank

_SWEEPS = 20
# Of the energy, by which a sweep has to be better for another.
_ENOUGH = 1e-6


class Tucker:
    """Tucker-2: the kernel stays whole along its axes, inputs and outputs are of lower rank.

    Kim et al., "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile
    Applications", 2016: a higher-order singular value decomposition to begin with, then both bases
    in turn until they no longer improve. Here it is done on channels whose second moment is one,
    and where the moments of whole columns are known, all three parts go on in turn for these.
    """

    name = "tucker"

    def __init__(self, layer: Layer, moments: Moments | None) -> None:
        self._layer = layer
        self._weighed = Weighed.of(layer, moments)
        self._tensor = self._weighed.whitened
        self._inputs = _basis(self._tensor.movedim(1, 0).flatten(1))
        given = self._by_input()
        outputs = _basis(given.flatten(0, 1).T)
        self._energies = (given @ outputs).square().sum(1).T

    def _by_input(self) -> Tensor:
        """What each direction of the inputs adds to the outputs: ``(inputs, places, outputs)``.

        In columns that are orthogonal, those of one direction after those of the other: what the
        first few directions give at best is the sum of their squares, however many there are.
        """
        if self._weighed.columns is None:
            return torch.einsum("oik,ij->jko", self._tensor, self._inputs)
        read, products = self._weighed.behind(self._weighed.unwhitened(self._inputs))
        given: Tensor = torch.linalg.solve_triangular(root_of(read), products, upper=False)
        return given.view(self._layer.inputs, -1, self._layer.outputs)

    def candidates(self) -> Candidates:
        energies = self._energies.cumsum(0).cumsum(1).T
        kept = (energies / energies[-1, -1]).numpy()
        inputs, outputs = np.indices(kept.shape)
        ranks = np.stack([inputs.ravel() + 1, outputs.ravel() + 1], 1)
        return of_tucker(self._layer, ranks, kept.ravel())

    def sufficient(self, energy: float) -> tuple[int, ...]:
        modes = [self._energies.sum(0).cumsum(0), self._energies.sum(1).cumsum(0)]
        found = [int(np.searchsorted((mode / mode[-1]).numpy(), energy)) + 1 for mode in modes]
        return tuple(min(rank, len(mode)) for rank, mode in zip(found, modes, strict=True))

    def without_noise(self) -> tuple[int, ...]:
        kernel = self._weighed.kernel
        unfoldings = [kernel.movedim(1, 0).flatten(1), kernel.flatten(1)]
        return tuple(max(1, noise_free_rank(each)) for each in unfoldings)

    def parts(self, ranks: tuple[int, ...]) -> list[Part]:
        count, outputs = ranks
        layer = self._layer
        ones = [1] * len(layer.kernel)
        axes = tuple(range(len(layer.kernel)))
        first = torch.eye(layer.inputs, dtype=torch.float64)
        before, behind = [], []
        if count < layer.inputs:
            first = self._weighed.unwhitened(self._in_turn(count, outputs))
            if self._weighed.columns is not None:
                first = refined(self._weighed, first, outputs)
            before = [Part(first.reshape(count, layer.inputs, *ones))]
        last, core, _ = best_behind(self._weighed, first, outputs)
        if outputs < layer.outputs:
            behind = [Part(last.reshape(layer.outputs, outputs, *ones))]
        else:
            core = last @ core
        return [*before, Part(core.view(outputs, count, *layer.kernel), axes), *behind]

    def _in_turn(self, inputs: int, outputs: int) -> Tensor:
        """The basis of whitened inputs, ``(inputs of the layer, inputs)``, refined in turn."""
        basis = self._inputs[:, :inputs]
        total, kept = float(self._tensor.square().sum()), -1.0
        for _ in range(_SWEEPS):
            behind = torch.einsum("oik,ij->ojk", self._tensor, basis)
            given = _basis(behind.flatten(1))[:, :outputs]
            before = torch.einsum("oik,op->ipk", self._tensor, given)
            basis = _basis(before.flatten(1))[:, :inputs]
            now = float((basis.T @ before.flatten(1)).square().sum())
            if now - kept < _ENOUGH * total:
                break
            kept = now
        return basis


def _basis(unfolding: Tensor) -> Tensor:
    """Left singular vectors, those of large values first: ``(n, n)``."""
    vectors: Tensor = torch.linalg.eigh(unfolding @ unfolding.T)[1]
    return vectors.flip(1)
