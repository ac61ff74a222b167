"""Write what a job delivers: programs and weights, never a pickled module."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.export.passes import move_to_device_pass

from worker.engine.program import Program

SPARSE_FORMAT = "secateur-sparse-1"

_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers by their bytes."""


def save_program(program: Program, path: Path) -> None:
    """Write a ``.pt2``, on the CPU whatever device the program is on."""
    exported = program.export()
    if program.device.type != "cpu":
        exported = move_to_device_pass(exported, "cpu")
    torch.export.save(exported, path)


def save_weights(program: Program, path: Path) -> None:
    """Write every parameter and buffer as safetensors under its original name.

    The format has no shared tensors: a tied weight is written once for each of its names.
    """
    weights = {name: _plain(tensor) for name, tensor in program.module.state_dict().items()}
    save_file(weights, path)


def save_sparse(program: Program, path: Path) -> None:
    """Write every parameter and buffer as safetensors, zeros in a bit each.

    A tensor for which that is smaller is two: ``NAME:bits``, uint8, one bit for each element in
    order, lowest bit first, set where it is not zero; and ``NAME:values``, those elements in order.
    The metadata has its shape under ``NAME``. All others are as in :func:`save_weights`.
    ``secateur.load_sparse`` reads it.
    """
    tensors: dict[str, Tensor] = {}
    shapes: dict[str, str] = {"format": SPARSE_FORMAT}
    for name, tensor in program.module.state_dict().items():
        dense = _plain(tensor)
        present = _present(dense)
        values, bits = dense[present], _packed(present.flatten())
        if values.nbytes + bits.nbytes < dense.nbytes:
            tensors[f"{name}:bits"], tensors[f"{name}:values"] = bits, values
            shapes[name] = json.dumps(list(dense.shape))
        else:
            tensors[name] = dense
    save_file(tensors, path, metadata=shapes)


def _present(tensor: Tensor) -> Tensor:
    """What is not zero, minus zero included: it is another number, bit for bit."""
    if tensor.is_floating_point():
        # As whole numbers: torch tells no signs of float8.
        tensor = tensor.view(_WHOLE[tensor.element_size()])
    return tensor != 0


def _packed(flags: Tensor) -> Tensor:
    """Eight flags in a byte, the first in its lowest bit; the last byte is filled with zeros."""
    padded = torch.zeros(-(-len(flags) // 8) * 8, dtype=torch.uint8)
    padded[: len(flags)] = flags
    powers = 2 ** torch.arange(8, dtype=torch.uint8)
    return (padded.view(-1, 8) * powers).sum(1, dtype=torch.uint8)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
