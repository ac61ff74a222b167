"""Zoo models as programs, exported once for a test run."""

import warnings
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from tests.zoo.patterns import PATTERNS, Pattern
from worker.engine.graph.coupling import Coupling, couple
from worker.engine.program import Program


def example(pattern: Pattern, rows: int = 2) -> torch.Tensor:
    """The input of a pattern that takes one tensor."""
    (made,) = examples(pattern, rows)
    return made


def examples(pattern: Pattern, rows: int = 2) -> tuple[Any, ...]:
    """The arguments of a pattern's module."""
    generator = torch.Generator().manual_seed(rows)
    if pattern.inputs is not None:
        return pattern.inputs(rows, generator)
    if pattern.takes_tokens:
        return (torch.randint(11, (rows, *pattern.input_shape), generator=generator),)
    return (torch.randn(rows, *pattern.input_shape, generator=generator),)


def randomized(module: nn.Module) -> nn.Module:
    """Every number its own: ones and zeros of a fresh norm would hide a wrong cut."""
    generator = torch.Generator().manual_seed(7)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            low = 0.5 if "running_var" in name else -0.5
            tensor.uniform_(low, low + 1, generator=generator)
    return module.eval()


def export(
    module: nn.Module, *inputs: Any, dynamic_dims: tuple[int, ...] = (0,)
) -> ExportedProgram:
    """Export with a dynamic batch, and with more dynamic dimensions if need be."""
    bounds = {0: Dim("batch", min=1, max=512), 1: Dim("length", min=2, max=32)}
    dynamic = {dim: bounds[dim] for dim in dynamic_dims}
    with warnings.catch_warnings():
        # torch 2.13 warns of the flat weights that its own nn.LSTM sets while it is exported.
        warnings.filterwarnings(
            "ignore", message=".*were assigned during export", category=UserWarning
        )
        shapes = pytree.tree_map(lambda _: dynamic, inputs)
        return torch.export.export(module, inputs, dynamic_shapes=shapes)


@cache
def pattern_program(name: str) -> Program:
    pattern = PATTERNS[name]
    torch.manual_seed(0)
    module = randomized(pattern.build())
    dims = pattern.dynamic_dims
    return Program.from_exported(export(module, *examples(pattern), dynamic_dims=dims))


@cache
def pattern_coupling(name: str) -> Coupling:
    return couple(pattern_program(name))
