"""Small networks whose activations are rounded, as programs, with rows for them."""

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.exported import export, randomized
from worker.engine.config import QuantizeConfig
from worker.engine.data import Rows
from worker.engine.program import Program
from worker.engine.recovery.setting import Setting

SETTING = Setting(seed=0)


class Residual(nn.Module):
    """A convolutional network with two residual blocks, whose sums are made in place or not."""

    def __init__(self, *, inplace: bool = False):
        super().__init__()
        self.inplace = inplace
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(8)
        self.first = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.second_norm = nn.BatchNorm2d(8, affine=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem_norm(self.stem(x)), self.inplace)
        for layer, norm in ((self.first, self.first_norm), (self.second, self.second_norm)):
            made = norm(layer(x))
            made = made.add_(x) if self.inplace else made + x
            x = functional.relu(made, self.inplace)
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Sequence(nn.Module):
    """A recurrent classifier of tokens."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.recurrent = nn.LSTM(8, 12, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embedding(tokens))[0][:, -1])


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)
    )


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)


def program(module: nn.Module, *shape: int, dims: tuple[int, ...] = (0,)) -> Program:
    """A module with every number its own, exported with a dynamic batch."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, *shape, generator=generator)
    return Program.from_exported(export(randomized(module), inputs, dynamic_dims=dims))


@cache
def residual(*, inplace: bool = False) -> Program:
    return program(Residual(inplace=inplace), 3, 8, 8)


def normal(*shape: int, count: int = 48) -> Rows:
    draw = np.random.default_rng(0)
    return Rows((draw.normal(0.3, 1.0, (count, *shape)).astype(np.float32),), None)


def config(**options: object) -> QuantizeConfig:
    return QuantizeConfig(**{"sample_count": 48, "batch_size": 16, **options})


@torch.no_grad()
def outputs(found: Program, rows: Rows) -> list[Tensor]:
    return found.run([torch.from_numpy(np.asarray(array)) for array in rows.inputs])


def distance(found: Program, expected: Program, rows: Rows) -> float:
    """Mean of the squared difference of the outputs, relative to the outputs' own."""
    pairs = zip(outputs(found, rows), outputs(expected, rows), strict=True)
    return max(float((a - b).square().sum() / b.square().sum()) for a, b in pairs)


def tensors(found: Program) -> dict[str, Tensor]:
    """Copies of all that a program holds, by name."""
    return {name: tensor.clone() for name, tensor in found.module.state_dict().items()}
