"""Small networks whose graphs spell out what few bits do not hold."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.exported import export
from worker.engine.config import CastConfig
from worker.engine.precision import cast
from worker.engine.program import Program
from worker.engine.recovery.setting import Setting

LENGTH = 12


class Block(nn.Module):
    """Embeddings, one attention over what is no padding, and a head."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, 32)
        self.positions = nn.Parameter(torch.randn(LENGTH, 32))
        self.norm = nn.LayerNorm(32)
        self.project = nn.Linear(32, 96)
        self.merge = nn.Linear(32, 32)
        self.head = nn.Linear(32, 5)

    def attended(self, query: Tensor, key: Tensor, value: Tensor, tokens: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.positions
        query, key, value = (
            each.unflatten(-1, (4, 8)).transpose(1, 2)
            for each in self.project(self.norm(x)).chunk(3, -1)
        )
        x = x + self.merge(self.attended(query, key, value, tokens).transpose(1, 2).flatten(2))
        return self.head(self.norm(x))


class AddedMask(Block):
    def attended(self, query, key, value, tokens):
        mask = (1.0 - (tokens != 0).float())[:, None, None] * -1e9
        return ((query @ key.mT) / 8**0.5 + mask).softmax(-1) @ value


class FilledMask(Block):
    def attended(self, query, key, value, tokens):
        scores = query @ key.mT / 8**0.5
        lowest = torch.finfo(torch.float32).min
        return scores.masked_fill((tokens == 0)[:, None, None], lowest).softmax(-1) @ value


class WrittenMask(Block):
    def attended(self, query, key, value, tokens):
        scores = query @ key.mT
        scores.masked_fill_((tokens == 0)[:, None, None], -1e9)
        return scores.softmax(-1) @ value


class FusedMask(Block):
    def attended(self, query, key, value, tokens):
        lowest = torch.finfo(torch.float32).min
        mask = torch.zeros(tokens.shape).masked_fill(tokens == 0, lowest)[:, None, None]
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


MASKED = {each.__name__: each for each in (AddedMask, FilledMask, WrittenMask, FusedMask)}


class Convolutional(nn.Module):
    """Convolutions with batch norms and activations in place."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Recurrent(nn.Module):
    """A classifier that reads tokens one after another, from a state of zeros."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, 16)
        self.cells = nn.LSTM(16, 24, num_layers=2, batch_first=True)
        self.head = nn.Linear(24, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.cells(self.embed(tokens))[0][:, -1])


def tokens_of(rows: int = 2) -> Tensor:
    """Without padding, which is token 0."""
    generator = torch.Generator().manual_seed(rows)
    return torch.randint(1, 40, (rows, LENGTH), generator=generator)


def program_of(module: nn.Module, *inputs: Tensor) -> Program:
    return Program.from_exported(export(module.eval(), *inputs))


def changed(program: Program, dtype: str, rows=None, **asked):
    return cast(program, CastConfig(dtype, **asked), rows, Setting(seed=0))
