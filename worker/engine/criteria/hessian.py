"""Importance by the second-order change of the loss (optimal brain damage)."""

from torch import Tensor

from worker.engine.criteria.gradients import Elements, averaged, curvatures, weights
from worker.engine.criteria.slices import summed
from worker.engine.criteria.subject import Slice, Subject


def hessian(subject: Subject, *, sample_count: int, batch_size: int, targets: str) -> list[Slice]:
    """Score each channel by ``sum(w ** 2 * h) / 2``, ``h`` being the Hessian's diagonal.

    The diagonal is estimated by Hutchinson's method, one product of the Hessian with a draw of
    signs for each batch.

    Args:
        subject: The program, with training rows.
        sample_count: Rows to measure on.
        batch_size: Rows per batch: one draw each.
        targets: ``labels``, or ``outputs`` for the distance to the outputs as they are, whose
            Hessian has no negative part.

    Returns:
        One slice for each dimension of a weight; higher is more important, in units of the loss:
        comparable between groups. Sums below zero, where the loss would fall, count as zero.

    Raises:
        CriterionError: An operator of the model has no second derivative.

    Source: LeCun et al., "Optimal Brain Damage", NeurIPS 1989 (there of single weights).
    """

    def not_below_zero(sums: Tensor) -> Tensor:
        return sums.clamp_min(0)

    return summed(
        subject,
        _terms(subject, sample_count=sample_count, batch_size=batch_size, targets=targets),
        not_below_zero,
    )


def hessian_of_weights(
    subject: Subject, *, sample_count: int, batch_size: int, targets: str
) -> Elements:
    """``w ** 2 * h / 2`` of every weight, not below zero, by name, in its shape."""
    terms = _terms(subject, sample_count=sample_count, batch_size=batch_size, targets=targets)
    return {name: term.clamp_min(0) for name, term in terms.items()}


def _terms(subject: Subject, *, sample_count: int, batch_size: int, targets: str) -> Elements:
    found = curvatures(subject, sample_count=sample_count, batch_size=batch_size, targets=targets)
    own = weights(subject)
    return {name: own[name].square() * mean / 2 for name, mean in averaged(found).items()}
