"""Programs of one layer, and rows for them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.zoo.exported import export
from worker.engine.config import FactorizeConfig
from worker.engine.data import Rows
from worker.engine.factorize.layers import Layer, layers_of
from worker.engine.program import Program


class Calling(nn.Module):
    """One weight, and what is done with it."""

    def __init__(self, weight: Tensor, call: Callable[..., Tensor], bias: Tensor | None = None):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.added = None if bias is None else nn.Parameter(bias)
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        if self.added is None:
            return self.call(x, self.weight)
        return self.call(x, self.weight, self.added)


def program_of(module: nn.Module, *shape: int, rows: int = 3) -> Program:
    example = torch.randn(rows, *shape, generator=torch.Generator().manual_seed(1))
    return Program.from_exported(export(module.eval(), example))


def rows_of(*shape: int, count: int = 96, mean: float = 0.5) -> Rows:
    """Rows whose numbers vary together, and not around 0."""
    draw = np.random.default_rng(0)
    size = int(np.prod(shape))
    mixed = draw.normal(size=(count, size)) @ (draw.normal(size=(size, size)) / size**0.5)
    return Rows(((mixed + mean).reshape(count, *shape).astype(np.float32),), None)


def layer_of(program: Program, method: str = "svd") -> Layer:
    """The one layer of a program."""
    [found] = layers_of(program, FactorizeConfig(method=method), sparse=())
    assert isinstance(found, Layer), found
    return found


def outputs(program: Program, rows: Rows) -> Tensor:
    leaves: list[Any] = [torch.from_numpy(np.asarray(array)) for array in rows.inputs]
    with torch.no_grad():
        return program.run(leaves)[0]


def lost(after: Program, before: Program, rows: Rows) -> float:
    """Root of the mean square of the outputs' change, over that of the outputs."""
    found, expected = outputs(after, rows).double(), outputs(before, rows).double()
    return float((found - expected).norm() / expected.norm())
