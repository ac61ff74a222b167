"""Importance by the size of the weights."""

from math import prod

import torch
from torch import Tensor
from torch.nn import Parameter

from worker.engine.criteria.subject import Subject
from worker.engine.program import attribute

_PART = 2**18  # Elements.


def magnitude(subject: Subject, *, p: float = 2.0) -> Tensor:
    """Score each channel by the sum of ``|w| ** p`` over every slice that goes with it.

    No p-th root is taken, so scores of coupled slices add: the score of a channel is that of all
    its weights laid side by side. Buffers are not weights and do not count.

    Args:
        subject: The channel group. Read, never written.
        p: Degree of the norm, > 0. 1 and 2 are the ones in the literature.

    Returns:
        float32, ``(channels,)``, non-negative, higher is more important, in units of
        weight ** p. Comparable between groups only after normalization.

    Raises:
        ValueError: ``p`` is not positive.

    Source: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017,
    https://arxiv.org/abs/1608.08710 (there p = 1, over a layer's own filters alone).
    """
    if p <= 0:
        raise ValueError(f"p must be > 0, got {p}")
    sums, channels = [torch.zeros(0)], [torch.zeros(0, dtype=torch.int64)]
    for member in subject.group.members:
        weight = attribute(subject.program.module, member.parameter)
        if isinstance(weight, Parameter):
            sums.append(_sums(weight.detach(), member.dim, p))
            channels.append(member.channels)
    place = subject.place[torch.cat(channels)]
    ours = place >= 0
    scores = torch.zeros(len(subject.group))
    return scores.index_add_(0, place[ours], torch.cat(sums)[ours])


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
