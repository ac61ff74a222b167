"""What training makes smaller, and what it is judged by."""

import torch
from torch import Tensor

from worker.engine import objective
from worker.engine.data import Batch, Rows, first_output
from worker.engine.errors import DataMismatchError
from worker.engine.program import Program


def predicted(program: Program, batch: Batch) -> Tensor:
    """The output that losses read: ``(count, ...)``."""
    return first_output(program, batch)


def label_loss(output: Tensor, batch: Batch, *, smoothing: float) -> Tensor:
    """The mean loss on a batch's targets, a scalar in float32.

    Args:
        output: From :func:`predicted`.
        batch: With targets.
        smoothing: Share of each class target that is spread evenly over all classes, after Szegedy
            et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016,
            https://arxiv.org/abs/1512.00567, section 7.
    """
    assert batch.targets is not None, "checked before training"
    hard = objective.loss(output, batch.targets)
    if not smoothing:
        return hard
    even = -output.float().log_softmax(dim=1).mean()
    return (1 - smoothing) * hard + smoothing * even


def check_labels(rows: Rows, *, smoothing: float) -> None:
    """Check that there are labels, and that they are classes if they are smoothed.

    Raises:
        DataMismatchError: They are not as needed.
    """
    if rows.targets is None:
        raise DataMismatchError("fine-tuning needs labels: the training data has no array targets")
    if smoothing and not rows.has_classes:
        raise DataMismatchError(
            f"label_smoothing spreads class targets, and these are {rows.targets.dtype}: leave it "
            "out",
            pointer="/label_smoothing",
        )


def right(output: Tensor, batch: Batch) -> tuple[int, int] | None:
    """How many predictions are right, of how many; None where targets are no classes."""
    targets = batch.targets
    if targets is None or targets.is_floating_point():
        return None
    found = objective.classes(output)
    return int((found == targets).sum()), targets.numel()


def divergence(output: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """How far class probabilities are from a teacher's, averaged over rows (and places).

    Args:
        output: ``(n, classes, ...)`` logits.
        teacher: The same shape.
        temperature: Both are divided by it; the divergence is multiplied by its square, so that
            gradients have the size of those on labels.

    Returns:
        A scalar in float32: the Kullback-Leibler divergence in nats, times ``temperature ** 2``.

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015,
    https://arxiv.org/abs/1503.02531, section 2.
    """
    ours = (output.float() / temperature).log_softmax(dim=1)
    theirs = (teacher.float() / temperature).log_softmax(dim=1)
    each = torch.nn.functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)
    return each.mean() * temperature**2
