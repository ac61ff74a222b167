"""Importance by the diagonal of the Fisher information."""

import torch

from worker.engine.criteria.gradients import Elements, averaged, gradients, weights
from worker.engine.criteria.slices import summed
from worker.engine.criteria.subject import Slice, Subject


def fisher(subject: Subject, *, sample_count: int, batch_size: int, targets: str) -> list[Slice]:
    """Score each channel by ``sum(w ** 2 * mean(g ** 2))``, over batches.

    Args:
        subject: The program, with training rows.
        sample_count: Rows to measure on.
        batch_size: Rows per batch: one gradient each. With 1 it is the empirical Fisher
            information; with more, that of batches, which is faster and ranks much alike.
        targets: ``labels``, or ``outputs`` for the Fisher information of the outputs with normal
            noise, which needs none.

    Returns:
        One slice for each dimension of a weight; non-negative, higher is more important, in units
        of the loss squared: comparable between groups.

    Source: Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018,
    https://arxiv.org/abs/1801.05787.
    """
    return summed(
        subject,
        fisher_of_weights(
            subject, sample_count=sample_count, batch_size=batch_size, targets=targets
        ),
    )


def fisher_of_weights(
    subject: Subject, *, sample_count: int, batch_size: int, targets: str
) -> Elements:
    """``w ** 2 * mean(g ** 2)`` of every weight, by name, in its shape."""
    found = gradients(subject, sample_count=sample_count, batch_size=batch_size, targets=targets)
    own = weights(subject)
    squares = averaged(found, torch.Tensor.square)
    return {name: own[name].square() * mean for name, mean in squares.items()}
