"""Importance by the size of the weights."""

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from worker.engine.criteria.slices import members
from worker.engine.criteria.subject import Slice, Subject
from worker.engine.graph.coupling import Line

_PART = 2**18  # Elements.
_DEGREES = {"l1": 1.0, "l2": 2.0}


def magnitude(subject: Subject, *, norm: str = "l2", slices: str = "coupled") -> list[Slice]:
    """Score each channel by its weights: the sum of ``|w|`` or ``w ** 2``, or the largest ``|w|``.

    No root is taken, so sums over coupled slices add: the score of a channel is that of all its
    weights laid side by side. Buffers are not weights and do not count.

    Args:
        subject: The program.
        norm: ``l1``, ``l2`` or ``linf``; by default the literature's most common.
        slices: ``coupled`` takes every slice that goes with a channel; ``producer`` the weights
            that make it (the filters of a convolution, the rows of a linear layer) alone.

    Returns:
        One slice for each dimension of a weight; non-negative, higher is more important.
        Comparable between groups only after normalization.

    Source: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017,
    https://arxiv.org/abs/1608.08710 (there L1, over a layer's own filters alone).
    """
    found = []
    for weight, dim, line in _weights(subject, slices):
        if norm == "linf":
            largest = _largest(weight, dim)
            found.append(subject.gathered(line, largest, "amax"))
        else:
            found.append(subject.gathered(line, _sums(weight, dim, _DEGREES[norm])))
    return found


def magnitude_of_weights(
    subject: Subject, *, norm: str = "l2", slices: str = "coupled"
) -> dict[str, Tensor]:
    """``|w|`` of every weight, by name: the same order for every norm, and for all slices."""
    del norm, slices
    parameters = subject.program.module.named_parameters(remove_duplicate=False)
    return {name: weight.detach().abs().float() for name, weight in parameters}


def _weights(subject: Subject, slices: str) -> Iterator[tuple[Tensor, int, Line]]:
    if slices == "coupled":
        for member, weight in members(subject):
            yield weight.detach(), member.dim, member.line
    else:
        for make in subject.flow.makes:
            yield subject.flow.value(make.weight.node), make.weight.dim, make.weight.line


def _largest(weight: Tensor, dim: int) -> Tensor:
    others = [at for at in range(weight.dim()) if at != dim]
    sizes = weight.abs().float()
    if not weight.numel():
        return torch.zeros(weight.shape[dim])
    return (sizes.amax(others) if others else sizes).cpu()


def _sums(weight: Tensor, dim: int, p: float) -> Tensor:
    """Sum ``|w| ** p`` over all dimensions but one: float32, ``(weight.shape[dim],)``."""
    if not weight.numel():
        return torch.zeros(weight.shape[dim])
    # At least float32, for a sum of squares of float16 weights overflows at 65504.
    dtype = torch.promote_types(weight.dtype, torch.float32)
    lines = weight.reshape(prod(weight.shape[:dim]), weight.shape[dim], -1)
    # Parts that fit into a cache: several times faster than passes over the whole weight. And a
    # norm over what lies side by side in memory is ten times faster than one over what does not.
    parts = torch.split(lines, max(1, _PART // lines[0].numel()))
    norms = (torch.linalg.vector_norm(part, p, dim=2, dtype=dtype) for part in parts)
    first, *others = [norm.pow(p).sum(0) for norm in norms]
    total: Tensor = sum(others, start=first)
    return total.float().cpu()
