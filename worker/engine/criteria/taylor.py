"""Importance by the first-order change of the loss."""

from worker.engine.criteria.gradients import gradients, weights
from worker.engine.criteria.slices import mean_of, summed
from worker.engine.criteria.subject import Slice, Subject


def taylor(subject: Subject, *, sample_count: int, batch_size: int, targets: str) -> list[Slice]:
    """Score each channel by ``sum(w * g) ** 2``, averaged over batches.

    The sum is the change of a batch's loss, to first order, if the slice were zero. Of single
    weights it is ``(w * g) ** 2``: the same as
    :func:`worker.engine.criteria.fisher.fisher_of_weights`.

    Args:
        subject: The program, with training rows.
        sample_count: Rows to measure on.
        batch_size: Rows per batch: one gradient each.
        targets: ``labels``, or ``outputs`` for the squared change of the outputs themselves.

    Returns:
        One slice for each dimension of a weight; non-negative, higher is more important, in units
        of the loss squared: comparable between groups.

    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019,
    https://arxiv.org/abs/1906.10771.
    """
    own = weights(subject)
    return mean_of(
        summed(subject, {name: own[name] * g for name, g in found.items()}, lambda s: s.square())
        for found in gradients(
            subject, sample_count=sample_count, batch_size=batch_size, targets=targets
        )
    )
