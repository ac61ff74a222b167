"""Importance by the size of the weights."""

import torch
from torch import Tensor

from worker.engine.criteria.subject import Subject


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
    scores = torch.zeros(len(subject.group))
    weights = dict(subject.program.module.named_parameters(remove_duplicate=False))
    for member in subject.group.members:
        weight = weights.get(member.parameter)
        if weight is None:
            continue
        # float32 first: a sum of squares of float16 weights overflows at 65504.
        lines = weight.detach().float().movedim(member.dim, 0)
        sums = lines.reshape(len(lines), -1).abs().pow(p).sum(dim=1).cpu()
        place = subject.place[member.channels]
        ours = place >= 0
        scores.index_add_(0, place[ours], sums[ours])
    return scores
