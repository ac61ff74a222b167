"""A random order: the yardstick for every other criterion."""

import torch
from torch import Tensor

from worker.engine.criteria.subject import Subject


def random(subject: Subject) -> Tensor:
    """Draw a score for each channel, uniform in [0, 1).

    Returns:
        float32, ``(channels,)``; the same for the same seed.
    """
    return torch.rand(len(subject.group), generator=subject.generator)
