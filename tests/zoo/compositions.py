"""Tiny modules, each of one way to put layers, inputs and outputs together."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class EinsumExcite(nn.Module):
    """Squeeze and excite, both written as einsums."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.squeeze = nn.Linear(8, 4)
        self.excite = nn.Linear(4, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        scale = self.squeeze(torch.einsum("nchw->nc", x) / 64).relu()
        x = torch.einsum("nchw,nc->nchw", x, torch.sigmoid(self.excite(scale)))
        return self.head(x.mean((2, 3)))


class SpatialAttention(nn.Module):
    """Pixels are scaled by what a convolution makes of their largest and mean channel (CBAM)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.scale = nn.Conv2d(3, 1, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        seen = [x.amax(1, keepdim=True), x.min(1, keepdim=True)[0], x.mean(1, keepdim=True)]
        return self.head((x * torch.sigmoid(self.scale(torch.cat(seen, 1)))).mean((2, 3)))


class Mixer(nn.Module):
    """Layers over steps and layers over channels in turn (MLP-mixer)."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.steps = nn.Sequential(nn.Linear(7, 10), nn.GELU(), nn.Linear(10, 7))
        self.channels = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.steps(x.transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(x)
        return self.head(x.mean(1))


class PaddedBlocks(nn.Module):
    """A residual block, then one that halves the image and pads its shortcut (CIFAR ResNets)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.first = self.branch(8, 8, 1)
        self.second = self.branch(8, 16, 2)
        self.head = nn.Linear(16, 5)

    @staticmethod
    def branch(width_in: int, width: int, stride: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(width_in, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.first(x)).relu()
        shortcut = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return self.head((self.second(x) + shortcut).relu().mean((2, 3)))


class Ensemble(nn.Module):
    """What two models say is averaged."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        self.second = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.first(x), self.second(x)]).mean(0)


class TwoTowers(nn.Module):
    """Two inputs, each through a tower of its own; the score is a dot product."""

    def __init__(self):
        super().__init__()
        self.user = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
        self.item = nn.Sequential(nn.Linear(5, 10), nn.ReLU(), nn.Linear(10, 4))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.user(user) * self.item(item)).sum(-1)


class CosineScores(nn.Module):
    """Classes are scored by the cosine of the angle to their prototypes."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.prototypes = nn.Parameter(torch.randn(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        return functional.cosine_similarity(self.stem(x)[:, None], self.prototypes, dim=-1)


class OuterProduct(nn.Module):
    """Every channel of one layer times every channel of another (bilinear pooling)."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 8), nn.Linear(6, 4)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.left(x)[:, :, None] * self.right(x)[:, None]).flatten(1))


class SeveralOutputs(nn.Module):
    """Two inputs; a dict with a tuple in it as the output."""

    def __init__(self):
        super().__init__()
        self.image = nn.Conv2d(3, 8, 3, padding=1)
        self.number = nn.Linear(4, 8)
        self.classes = nn.Linear(8, 5)
        self.box = nn.Linear(8, 4)

    def forward(self, image: Tensor, number: Tensor) -> dict[str, object]:
        x = self.image(image).relu().mean((2, 3)) + self.number(number)
        return {"classes": self.classes(x), "box": self.box(x).split(2, dim=-1)}


class NestedInputs(nn.Module):
    """A dict and a tuple as inputs."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.left, self.right = nn.Linear(4, 8), nn.Linear(3, 6)
        self.head = nn.Linear(14, 3)

    def forward(self, words: dict[str, Tensor], numbers: tuple[Tensor, Tensor]) -> Tensor:
        mask = words["mask"].unsqueeze(-1)
        text = (self.embed(words["tokens"]) * mask).sum(1) + self.left(numbers[0])
        return self.head(torch.cat([text, self.right(numbers[1])], dim=-1).relu())


class Branching(nn.Module):
    """A condition chooses between two layers; another layer stands apart from both."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(6, 8)
        self.out = nn.Linear(8, 4)
        self.positive = nn.Linear(4, 3)
        self.negative = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.out(self.hidden(x).relu())
        return torch.cond(x.sum() > 0, self.positive, self.negative, (x,))
