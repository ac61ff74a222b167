"""Zoo models as programs, exported once for a test run."""

import warnings
from functools import cache

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from tests.zoo.patterns import PATTERNS, Pattern
from worker.engine.graph.coupling import Coupling, couple
from worker.engine.program import Program


def example(pattern: Pattern, rows: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    if pattern.takes_tokens:
        return torch.randint(11, (rows, *pattern.input_shape), generator=generator)
    return torch.randn(rows, *pattern.input_shape, generator=generator)


def randomized(module: nn.Module) -> nn.Module:
    """Every number its own: ones and zeros of a fresh norm would hide a wrong cut."""
    generator = torch.Generator().manual_seed(7)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            low = 0.5 if "running_var" in name else -0.5
            tensor.uniform_(low, low + 1, generator=generator)
    return module.eval()


def export(module: nn.Module, *inputs: torch.Tensor) -> ExportedProgram:
    """Export with a dynamic batch."""
    batch = Dim("batch", min=1, max=512)
    with warnings.catch_warnings():
        # torch 2.13 warns of the flat weights that its own nn.LSTM sets while it is exported.
        warnings.filterwarnings(
            "ignore", message=".*were assigned during export", category=UserWarning
        )
        return torch.export.export(module, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))


@cache
def pattern_program(name: str) -> Program:
    pattern = PATTERNS[name]
    torch.manual_seed(0)
    return Program.from_exported(export(randomized(pattern.build()), example(pattern)))


@cache
def pattern_coupling(name: str) -> Coupling:
    return couple(pattern_program(name))
