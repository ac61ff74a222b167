"""What right means: a loss and an accuracy, by the kind of targets."""

import torch
from torch import Tensor
from torch.nn import functional

from worker.engine.errors import DataMismatchError


def loss(output: Tensor, targets: Tensor) -> Tensor:
    """Mean loss over the rows: cross-entropy for class numbers, mean squared error for floats.

    Args:
        output: ``(n, classes, ...)`` logits for class targets, else the shape of the targets.
        targets: ``(n, ...)`` class numbers, or floats.

    Returns:
        A scalar in float32, with gradients.

    Raises:
        DataMismatchError: Shapes that do not go together, a class that the output lacks, or an
            output that is not floating point.
    """
    if not output.is_floating_point():
        raise DataMismatchError(
            f"the model's first output holds {str(output.dtype).removeprefix('torch.')}, and a "
            "loss needs floats: export the model with its logits or values first"
        )
    if targets.is_floating_point():
        if output.shape != targets.shape:
            raise DataMismatchError(
                f"targets have shape {tuple(targets.shape)}, the model's output "
                f"{tuple(output.shape)}: float targets need the output's own shape"
            )
        return functional.mse_loss(output.float(), targets.float())
    if output.dim() != targets.dim() + 1 or output.shape[2:] != targets.shape[1:]:
        raise DataMismatchError(
            f"class targets of shape {tuple(targets.shape)} need an output of shape "
            f"(rows, classes, ...), the model's is {tuple(output.shape)}"
        )
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= output.shape[1]:
        raise DataMismatchError(
            f"targets hold class {low if low < 0 else high}; the model's output has classes 0 to "
            f"{output.shape[1] - 1}"
        )
    return functional.cross_entropy(output.float(), targets.long())


def classes(output: Tensor) -> Tensor:
    """The predicted class of each row: ``(n, ...)``, int64."""
    return output.argmax(dim=1)


def equal_share(first: Tensor, second: Tensor) -> float:
    """Fraction of equal elements."""
    return float((first == second).double().mean()) if first.numel() else 0.0


def is_finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())
