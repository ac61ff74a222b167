"""Improve the map of channels before a kernel, once whole columns are weighed."""

import torch
from torch import Tensor

from worker.engine.factorize.channels import Weighed, solved

_TURNS = 8
# Of what is kept, by which a turn has to be better for another.
_ENOUGH = 1e-4
# Each turn needs a better map, not the best one.
_STEPS = 10


def refined(weighed: Weighed, first: Tensor, outputs: int) -> Tensor:
    """Alternate between the map and what stands behind it, each the best for the other.

    Args:
        weighed: With the moments of whole columns.
        first: Where to begin: ``(n, inputs)``, independent rows.
        outputs: The rank of what the layer gives.

    Returns:
        A map of the same shape, its rows orthonormal.
    """
    assert weighed.columns is not None
    _, inputs, places = weighed.kernel.shape
    products = weighed.kernel.flatten(1) @ weighed.columns
    before = 0.0
    for _ in range(_TURNS):
        last, core, kept = best_behind(weighed, first, outputs)
        if kept - before < _ENOUGH * kept:
            break
        before = kept
        kernel = core.view(outputs, len(first), places)
        target = (last.T @ products).view(outputs, inputs, places)
        first = _descended(kernel, weighed.columns, target, first)
        # The same space; its rows apart, so that what is solved next is well posed.
        first = torch.linalg.qr(first.T)[0].T
    return first


def best_behind(weighed: Weighed, first: Tensor, outputs: int) -> tuple[Tensor, Tensor, float]:
    """The kernel and the outputs' basis that lose least behind a map of channels.

    By least squares, and the eigenvectors of what these give.

    Returns:
        The basis, ``(outputs of the layer, outputs)`` and orthonormal; the kernel, ``(outputs, n *
        places)``; and the energy that stays.
    """
    read, products = weighed.behind(first)
    core = solved(read, products).T
    values, vectors = torch.linalg.eigh(core @ read @ core.T)
    last = vectors.flip(1)[:, :outputs]
    return last, last.T @ core, float(values.flip(0)[:outputs].sum())


def _descended(kernel: Tensor, columns: Tensor, target: Tensor, start: Tensor) -> Tensor:
    """A few steps of conjugate gradients on the map: ``(n, inputs)``."""

    def behind(maps: Tensor) -> Tensor:
        whole = torch.einsum("onk,ni->oik", kernel, maps)
        given = (whole.flatten(1) @ columns).view_as(whole)
        return torch.einsum("onk,oik->ni", kernel, given)

    found = start
    rest = torch.einsum("onk,oik->ni", kernel, target) - behind(start)
    way = rest
    size = rest.square().sum()
    for _ in range(_STEPS):
        ahead = behind(way)
        bend = (way * ahead).sum()
        if not bend > 0:
            break
        found = found + size / bend * way
        rest = rest - size / bend * ahead
        smaller = rest.square().sum()
        way = rest + smaller / size * way
        size = smaller
    return found
