"""A small transformer and an LSTM, trained in seconds on the digits that come with scikit-learn."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

_TRAIN_ROWS = 1347
_SIDE = 8
_WIDTH = 64


class Transformer(nn.Module):
    """An encoder of two layers over the rows of an image, norms in front."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(_SIDE, _WIDTH)
        self.position = nn.Parameter(torch.randn(_SIDE, _WIDTH) / 10)
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    _WIDTH, 4, 4 * _WIDTH, dropout=0.0, batch_first=True, norm_first=True
                )
                for _ in range(2)
            )
        )
        self.norm = nn.LayerNorm(_WIDTH)
        self.head = nn.Linear(_WIDTH, 10)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.norm(self.layers(self.embed(rows) + self.position)).mean(1))


class Recurrent(nn.Module):
    """Two layers of LSTM that read an image row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_SIDE, _WIDTH, 2, batch_first=True)
        self.head = nn.Linear(_WIDTH, 10)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.lstm(rows)[0][:, -1])


@dataclass(frozen=True)
class Digits:
    """Images float32 ``(n, 8, 8)`` in [0, 1], and their classes int64 ``(n,)``."""

    inputs: np.ndarray
    targets: np.ndarray


def digits() -> tuple[Digits, Digits]:
    """To train on, and 450 to test on."""
    data = load_digits()
    inputs = (data.images / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(inputs))
    train, test = order[:_TRAIN_ROWS], order[_TRAIN_ROWS:]
    return Digits(inputs[train], data.target[train]), Digits(inputs[test], data.target[test])


def trained(network: nn.Module, rows: Digits, *, epochs: int = 30) -> nn.Module:
    """Train with a seed of its own; gives the network, in evaluation mode."""
    inputs, targets = torch.from_numpy(rows.inputs), torch.from_numpy(rows.targets)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    steps = epochs * -(-len(inputs) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for part in torch.randperm(len(inputs), generator=generator).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(network(inputs[part]), targets[part]).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def exported(network: nn.Module, inputs: np.ndarray) -> torch.export.ExportedProgram:
    """With a dynamic batch."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    example = (torch.from_numpy(inputs[:2].copy()),)
    return torch.export.export(network, example, dynamic_shapes=({0: batch},))
