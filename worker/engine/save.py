"""Write what a job delivers: programs and weights, never a pickled module."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.export.passes import move_to_device_pass

from worker.engine.program import Program


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


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
