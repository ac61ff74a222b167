"""Three kinds of networks for scikit-learn's digits, trained in seconds, and their files.

All are wide enough that most of their files is weights.
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

TRAIN_ROWS = 1347


class Convolutional(nn.Module):
    """The demo's network, four times as wide or more, with batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 24, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(24)
        self.conv2 = nn.Conv2d(24, 64, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(64)
        self.conv3 = nn.Conv2d(64, 128, 3, padding=1)
        self.hidden = nn.Linear(128 * 4, 320)
        self.head = nn.Linear(320, 10)

    def forward(self, rows: Tensor) -> Tensor:
        x = functional.relu(self.norm1(self.conv1(rows.unsqueeze(1))))
        x = functional.max_pool2d(functional.relu(self.norm2(self.conv2(x))), 2)
        x = functional.max_pool2d(functional.relu(self.conv3(x)), 2)
        return self.head(functional.relu(self.hidden(x.flatten(1))))


class Recurrent(nn.Module):
    """An LSTM that reads an image row by row, and two linear layers on what it ends with."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 96, batch_first=True)
        self.wide = nn.Linear(96, 640)
        self.hidden = nn.Linear(640, 384)
        self.head = nn.Linear(384, 10)

    def forward(self, rows: Tensor) -> Tensor:
        x = functional.relu(self.wide(self.lstm(rows)[0][:, -1]))
        return self.head(functional.relu(self.hidden(x)))


class Transformer(nn.Module):
    """Two encoder layers over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 128)
        self.place = nn.Parameter(torch.randn(8, 128) * 0.1)
        layer = nn.TransformerEncoderLayer(128, 4, 384, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(128, 10)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(rows) + self.place).mean(1))


KINDS: dict[str, type[nn.Module]] = {
    "convolutional": Convolutional,
    "recurrent": Recurrent,
    "transformer": Transformer,
}


def make_files(folder: Path, kind: str) -> None:
    """Train a network, and write ``model.pt2``, ``train.npz`` and ``test.npz``."""
    data = load_digits()
    rows = torch.tensor(data.images, dtype=torch.float32) / 16
    targets = torch.tensor(data.target, dtype=torch.int64)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    rows, targets = rows[order], targets[order]
    network = _trained(kind, rows[:TRAIN_ROWS], targets[:TRAIN_ROWS])
    program = torch.export.export(
        network, (rows[:2].clone(),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(program, folder / "model.pt2")
    for name, part in (("train", slice(TRAIN_ROWS)), ("test", slice(TRAIN_ROWS, None))):
        np.savez(folder / f"{name}.npz", inputs=rows[part].numpy(), targets=targets[part].numpy())


def _trained(kind: str, rows: Tensor, targets: Tensor, epochs: int = 6) -> nn.Module:
    torch.manual_seed(0)
    network = KINDS[kind]()
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(rows)).split(32):
            optimizer.zero_grad()
            functional.cross_entropy(network(rows[batch]), targets[batch]).backward()
            optimizer.step()
    return network.eval()
