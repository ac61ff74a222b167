"""Importance by magnitude, relative to all that is at least as large."""

import torch
from torch import Tensor

from worker.engine.criteria.aggregate import aggregate
from worker.engine.criteria.magnitude import magnitude
from worker.engine.criteria.subject import Slice, Subject


def lamp(subject: Subject) -> list[Slice]:
    """Score each channel by its squared weights over those of all channels not below it.

    The score of a group's most important channel is 1, so that a global ranking takes the last
    channel of no group before the others.

    Returns:
        One slice for each group; in [0, 1], higher is more important.

    Source: Lee et al., "Layer-Adaptive Sparsity for the Magnitude-Based Pruning", ICLR 2021,
    https://arxiv.org/abs/2010.07611 (there of the single weights of a layer).
    """
    sizes = aggregate(magnitude(subject), channel_count=subject.channel_count, how="sum")
    return [Slice(group.channels, _relative(sizes[group.channels])) for group in subject.groups]


def lamp_of_weights(subject: Subject) -> dict[str, Tensor]:
    """The same of single weights, each among those of its parameter; by name."""
    parameters = subject.program.module.named_parameters(remove_duplicate=False)
    return {
        name: _relative(weight.detach().float().square().flatten()).view_as(weight)
        for name, weight in parameters
    }


def _relative(sizes: Tensor) -> Tensor:
    """Each over the sum of all that are not less, itself included."""
    order = sizes.argsort(descending=True, stable=True)
    sums = sizes[order].double().cumsum(0)
    scores = torch.empty_like(sizes)
    tiny = torch.finfo(torch.float64).tiny
    scores[order] = (sizes[order].double() / sums.clamp_min(tiny)).float()
    return scores
