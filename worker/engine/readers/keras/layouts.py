"""How PyTorch's recurrent operators hold what Keras has in other shapes.

Keras multiplies rows by a kernel, torch by its transpose; the gates of a GRU come in another order;
and torch has two biases where Keras has one.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Layout = Callable[[Sequence[Tensor]], Tensor]


def gates_swapped(rows: Tensor) -> Tensor:
    """Swap the first two of the three gates of a GRU: z r h (Keras), r z n (torch)."""
    z, r, n = rows.chunk(3)
    return torch.cat([r, z, n])


def _same(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0]


def _kernel(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0].t()


def _summed(tensors: Sequence[Tensor]) -> Tensor:
    """One bias out of the two of torch."""
    return tensors[0] + tensors[1]


def _gru_kernel(tensors: Sequence[Tensor]) -> Tensor:
    return gates_swapped(tensors[0]).t()


def _gru_biases(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([gates_swapped(tensor) for tensor in tensors])


LAYOUTS: dict[str, Layout] = {
    "same": _same,
    "kernel": _kernel,
    "summed": _summed,
    "gru_kernel": _gru_kernel,
    "gru_biases": _gru_biases,
}
"""From what the program has to what Keras has."""
