"""The tensors of a program that training changes or carries along."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import Parameter

from worker.engine.program import Program


def parameters_of(program: Program) -> dict[str, Parameter]:
    """Every floating-point parameter once, by the first of its names, in the order of names."""
    named = program.module.named_parameters(remove_duplicate=False)
    found = _once((name, each) for name, each in named if each.is_floating_point())
    return {name: each for name, each in found.items() if isinstance(each, Parameter)}


def state_of(program: Program) -> dict[str, Tensor]:
    """Every parameter and buffer once, by the first of its names, in the order of names."""
    module = program.module
    return _once(
        [
            *module.named_parameters(remove_duplicate=False),
            *module.named_buffers(remove_duplicate=False),
        ]
    )


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@torch.no_grad()
def fill(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Write values into tensors of the same names and shapes, in place."""
    for name, value in values.items():
        tensors[name].copy_(value)


def _once(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    # By name: the order of a module's tensors need not survive a file, and sums of floats have one.
    first: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in sorted(named, key=lambda each: each[0]):
        first.setdefault(id(tensor), (name, tensor))
    return dict(first.values())
