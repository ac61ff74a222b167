"""A layer as two: outputs of the second from a few numbers that the first makes."""

import numpy as np
import torch
from torch import Tensor

from worker.engine.factorize.candidates import Candidates, of_svd
from worker.engine.factorize.layers import Layer
from worker.engine.factorize.moments import Moments, View
from worker.engine.factorize.parts import Part
from worker.engine.factorize.vbmf import noise_free_rank


class Svd:
    """The best product of two matrices through each rank, for the inputs that the layer reads.

    With the outputs' second moment G = W M W^T, where M is that of the columns, the best weight of
    rank r is P W, where P projects on the first r eigenvectors of G: that is the truncated singular
    value decomposition of W M^(1/2), brought back. Where there are more outputs than columns, it is
    found from the other side, by the Cholesky factor of M. Without moments it is the plain one.
    """

    name = "svd"

    def __init__(self, layer: Layer, moments: Moments | None) -> None:
        self._layer = layer
        self._root: Tensor | None = None
        self._is_left = layer.outputs <= layer.columns
        matrix = layer.weight.flatten(1)
        weighing = None if moments is None else moments.weighing(layer)
        if self._is_left:
            if moments is None or moments.view is View.COLUMNS:
                gram = matrix @ (matrix.T if weighing is None else weighing @ matrix.T)
            else:
                assert weighing is not None
                gram = weighing
        else:
            if weighing is not None:
                self._root = torch.linalg.cholesky(weighing)
                matrix = matrix @ self._root
            gram = matrix.T @ matrix
        values, vectors = torch.linalg.eigh(gram)
        self._vectors = vectors.flip(1)
        kept = values.flip(0).clamp(min=0).cumsum(0)
        self._kept = (kept / kept[-1]).numpy()

    def candidates(self) -> Candidates:
        ranks = np.arange(1, len(self._kept) + 1)[:, None]
        return of_svd(self._layer, ranks, self._kept)

    def sufficient(self, energy: float) -> tuple[int, ...]:
        return (int(np.searchsorted(self._kept, energy)) + 1,)

    def without_noise(self) -> tuple[int, ...]:
        matrix = self._layer.weight.flatten(1)
        found = noise_free_rank(matrix)
        return (max(found, 1),)

    def parts(self, ranks: tuple[int, ...]) -> list[Part]:
        [rank] = ranks
        layer = self._layer
        matrix = layer.weight.flatten(1)
        basis = self._vectors[:, :rank]
        if self._is_left:
            last, first = basis, basis.T @ matrix
        elif self._root is None:
            last, first = matrix @ basis, basis.T
        else:
            last = matrix @ self._root @ basis
            first = torch.linalg.solve_triangular(self._root, basis.T, upper=False, left=False)
        kernel = layer.kernel
        ones = [1] * len(kernel)
        axes = tuple(range(len(kernel)))
        return [
            Part(first.reshape(rank, layer.inputs, *kernel), axes),
            Part(last.reshape(layer.outputs, rank, *ones)),
        ]
