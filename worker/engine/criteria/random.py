"""A random order: the yardstick for every other criterion."""

import torch
from torch import Tensor

from worker.engine.criteria.subject import Slice, Subject


def random(subject: Subject) -> list[Slice]:
    """Draw a score for each channel, uniform in [0, 1); the same for the same seed."""
    return [
        Slice(group.channels, torch.rand(len(group), generator=subject.generator))
        for group in subject.groups
    ]


def random_weights(subject: Subject) -> dict[str, Tensor]:
    """Draw a score for each weight, uniform in [0, 1), by name; the same for the same seed."""
    return {
        name: torch.rand(weight.shape, generator=subject.generator)
        for name, weight in subject.program.module.named_parameters()
    }
