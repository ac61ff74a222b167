"""How far what a program says is from what its teacher says."""

from torch import Tensor
from torch.nn import functional


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
    each = functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)
    return each.mean() * temperature**2
