"""The demo's network and data, as anybody would have them before meeting the service."""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

EPOCHS = 10
_TRAIN_ROWS = 1347


class SmallCnn(nn.Module):
    """Three 3x3 convolutions, 1-6-16-32, and two linear layers, on images of 1x14x14."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3)
        self.conv2 = nn.Conv2d(6, 16, 3)
        self.conv3 = nn.Conv2d(16, 32, 3)
        self.hidden = nn.Linear(32 * 3 * 3, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.relu(self.conv1(images))
        x = functional.relu(self.conv2(x))
        x = functional.max_pool2d(x, 2)
        x = functional.relu(self.conv3(x))
        x = functional.relu(self.hidden(x.flatten(1)))
        return self.head(x)


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Handwritten digits that ship with scikit-learn, resized from 8x8 to 14x14.

    Returns:
        Training images float32 ``(1347, 1, 14, 14)`` in [0, 1] and classes int64 ``(1347,)``; then
        450 of each for testing.
    """
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    images = functional.interpolate(images, (14, 14), mode="bilinear")
    targets = torch.tensor(data.target, dtype=torch.int64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:_TRAIN_ROWS], order[_TRAIN_ROWS:]
    return images[train], targets[train], images[test], targets[test]


def train(images: Tensor, targets: Tensor) -> SmallCnn:
    """Train for ten epochs."""
    torch.manual_seed(1)
    model = SmallCnn()
    batches = [len(batch) for batch in torch.arange(len(images)).split(16)]
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=4e-3, epochs=EPOCHS, steps_per_epoch=len(batches)
    )
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(16):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[rows]), targets[rows]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def accuracy(model: nn.Module, images: Tensor, targets: Tensor) -> float:
    """Fraction of images classified rightly."""
    with torch.no_grad():
        return float((model(images).argmax(1) == targets).double().mean())


def save(model: nn.Module, images: Tensor, path: Path) -> None:
    """Export with a dynamic batch: this is all that a user's own code has to do."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(model, (images[:2].clone(),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)


def save_rows(images: Tensor, targets: Tensor, path: Path) -> None:
    """Write a data set as the service takes it."""
    np.savez(path, inputs=images.numpy(), targets=targets.numpy())
