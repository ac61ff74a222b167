"""Kernels as tensors whose channels are weighed by what is read, and least squares on all of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.factorize.layers import Layer
from worker.engine.factorize.moments import Moments, View

# Added to the mean square of what is fitted with, so that what is alike has a solution.
_RIDGE = 1e-9


@dataclass(frozen=True)
class Weighed:
    """A kernel, and how much each error in it counts.

    Attributes:
        kernel: float64, ``(outputs, inputs, places)``: all axes as one.
        root: Cholesky factor of the channels' second moment, ``(inputs, inputs)``; None where all
            channels count the same.
        columns: Second moment of the columns, ``(inputs * places, inputs * places)``, if known.
    """

    kernel: Tensor
    root: Tensor | None
    columns: Tensor | None

    @classmethod
    def of(cls, layer: Layer, moments: Moments | None) -> "Weighed":
        kernel = layer.weight.flatten(2)
        if moments is None:
            return cls(kernel, None, None)
        weighing = moments.weighing(layer)
        if moments.view is View.CHANNELS:
            return cls(kernel, torch.linalg.cholesky(weighing), None)
        inputs, places = kernel.shape[1:]
        blocks = weighing.view(inputs, places, inputs, places)
        channels = blocks.diagonal(dim1=1, dim2=3).mean(2)
        return cls(kernel, torch.linalg.cholesky(channels), weighing)

    @property
    def whitened(self) -> Tensor:
        """The kernel in channels whose second moment is one."""
        if self.root is None:
            return self.kernel
        return torch.einsum("oik,ij->ojk", self.kernel, self.root)

    def unwhitened(self, basis: Tensor) -> Tensor:
        """Directions of whitened channels ``(inputs, n)``, as a map of channels ``(n, inputs)``."""
        if self.root is None:
            return basis.T
        first: Tensor = torch.linalg.solve_triangular(self.root, basis.T, upper=False, left=False)
        return first

    def behind(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """What a kernel behind a map of channels reads, and what it is to give for it.

        Args:
            first: ``(n, inputs)``, independent rows.

        Returns:
            The second moment of its columns ``(n * places, n * places)``, and their products with
            the layer's outputs ``(n * places, outputs)``.
        """
        outputs, inputs, places = self.kernel.shape
        if self.columns is None:
            before = first if self.root is None else first @ self.root
            own = before @ before.T
            products = torch.einsum("ojk,nj->nko", self.whitened, before)
            read = torch.kron(own, torch.eye(places, dtype=own.dtype))
            return read, products.reshape(-1, outputs)
        blocks = self.columns.view(inputs, places, -1)
        half = torch.einsum("ni,ikc->nkc", first, blocks).flatten(0, 1)
        read = torch.einsum("cjl,mj->cml", half.view(-1, inputs, places), first).flatten(1)
        return read, half @ self.kernel.flatten(1).T


def solved(squares: Tensor, products: Tensor) -> Tensor:
    """Least squares from moments: ``(n, n)`` and ``(n, targets)``."""
    return torch.cholesky_solve(products, root_of(squares))


def root_of(squares: Tensor) -> Tensor:
    """The Cholesky factor of a second moment ``(n, n)``, which may lack a little to have one."""
    ridge = _RIDGE * squares.diagonal().mean()
    factor: Tensor = torch.linalg.cholesky(
        squares + ridge * torch.eye(len(squares), dtype=squares.dtype)
    )
    return factor
