"""Importance by connection sensitivity."""

from worker.engine.criteria.gradients import Elements, averaged, gradients, weights
from worker.engine.criteria.slices import summed
from worker.engine.criteria.subject import Slice, Subject


def snip(subject: Subject, *, sample_count: int, batch_size: int, targets: str) -> list[Slice]:
    """Score each channel by ``sum(|w * g|)``, with the gradient of all rows together.

    Args:
        subject: The program, with training rows.
        sample_count: Rows to measure on.
        batch_size: Rows per batch; gradients are averaged over batches.
        targets: ``labels``, or ``outputs`` for the gradient of the outputs along a random draw.

    Returns:
        One slice for each dimension of a weight; non-negative, higher is more important, in units
        of the loss: comparable between groups.

    Source: Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity",
    ICLR 2019, https://arxiv.org/abs/1810.02340 (there of single weights, before training).
    """
    return summed(
        subject,
        snip_of_weights(subject, sample_count=sample_count, batch_size=batch_size, targets=targets),
    )


def snip_of_weights(
    subject: Subject, *, sample_count: int, batch_size: int, targets: str
) -> Elements:
    """``|w * mean(g)|`` of every weight, by name, in its shape."""
    found = gradients(subject, sample_count=sample_count, batch_size=batch_size, targets=targets)
    own = weights(subject)
    return {name: (own[name] * mean).abs() for name, mean in averaged(found).items()}
