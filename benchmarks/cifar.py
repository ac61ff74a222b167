"""ResNet-20 for CIFAR-10 (He et al. 2016, section 4.2, n = 3), its weights and its images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)

TUNING: Mapping[str, Any] = {
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "weight_decay": 5e-4,
    "batch_size": 128,
    "augment": ("flip", "crop"),
    "keep": "last",
}
"""How the network is trained on, whatever was done to it."""


class Block(nn.Module):
    """Two convolutions; a shortcut that changes shape has no parameters (option A)."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        stride = width // width_in
        self.pad = (width - width_in) // 2
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        if self.pad:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return (branch + x).relu()


class ResNet20(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16), Block(16, 16), Block(16, 16))
        self.layer2 = nn.Sequential(Block(16, 32), Block(32, 32), Block(32, 32))
        self.layer3 = nn.Sequential(Block(32, 64), Block(64, 64), Block(64, 64))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def resnet20(weights: Path) -> ResNet20:
    """The network with its trained weights, in evaluation mode."""
    network = ResNet20()
    network.load_state_dict(load_file(weights))
    return network.eval()


@dataclass(frozen=True)
class Images:
    """float32 ``(n, 3, 32, 32)``, normalized as the weights expect, and int64 ``(n,)``."""

    inputs: np.ndarray
    targets: np.ndarray


def images(path: Path) -> Images:
    """Read ``inputs``, uint8 ``(n, 32, 32, 3)``, and ``targets`` from an ``.npz`` file."""
    with np.load(path) as arrays:
        pixels, targets = arrays["inputs"], arrays["targets"]
    scaled = pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255
    shape = (1, 3, 1, 1)
    normalized = (scaled - np.reshape(_MEAN, shape)) / np.reshape(_DEVIATION, shape)
    return Images(normalized.astype(np.float32), targets)


def exported(network: nn.Module, inputs: np.ndarray) -> torch.export.ExportedProgram:
    """With a dynamic batch."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    example = (torch.from_numpy(inputs[:2].copy()),)
    return torch.export.export(network, example, dynamic_shapes=({0: batch},))
