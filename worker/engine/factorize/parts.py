"""The smaller layers that take a layer's place, one after another."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """One of them.

    Attributes:
        weight: float64, ``(outputs, inputs, *kernel)``, or ``(channels, 1, *kernel)`` where each
            channel is read by itself. The kernel is 1 along all axes that it does not slide along.
        axes: The dimensions of the kernel along which it slides, with the layer's stride, padding
            and dilation there.
        is_depthwise: Whether each channel is read by itself.
    """

    weight: Tensor
    axes: tuple[int, ...] = ()
    is_depthwise: bool = False


def product(parts: Sequence[Part]) -> Tensor:
    """The weight of the one layer that computes the same: ``(outputs, inputs, *kernel)``.

    No two parts slide along the same axis.
    """
    found = parts[0].weight
    for part in parts[1:]:
        if part.is_depthwise:
            found = part.weight * found
        else:
            found = torch.einsum("or...,ri...->oi...", part.weight, found)
    return found


def balanced(parts: Sequence[Part]) -> list[Part]:
    """The same product, each rank as large before it as behind it: gradients and codes fit both."""
    found = list(parts)
    for at in range(len(found) - 1):
        first, second = found[at].weight, found[at + 1].weight
        dim = 0 if found[at + 1].is_depthwise else 1
        before = first.flatten(1).norm(dim=1)
        behind = second.movedim(dim, 0).flatten(1).norm(dim=1)
        scale = (behind / before).sqrt()
        scale = torch.where(scale.isfinite() & (scale > 0), scale, 1.0)
        found[at] = replace(found[at], weight=first * _along(scale, 0, first))
        found[at + 1] = replace(found[at + 1], weight=second / _along(scale, dim, second))
    return found


def _along(scale: Tensor, dim: int, tensor: Tensor) -> Tensor:
    return scale.reshape([-1 if at == dim else 1 for at in range(tensor.dim())])
