"""Tiny modules, each of one way to move channels about."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class PaddedChannels(nn.Module):
    """Zero channels are added at the end, before a sum (PyramidNet)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 6, 3, padding=1)
        self.wide = nn.Conv2d(6, 12, 3, padding=1)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        wide = self.wide(self.inner(x).relu())
        x = wide + functional.pad(x, (0, 0, 0, 0, 0, 4))
        return self.head(x.relu().mean((2, 3)))


class PaddedPlanes(nn.Module):
    """Images are mirrored and repeated at their edges."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.middle = nn.Conv2d(8, 6, 3)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(functional.pad(x, (1, 1, 1, 1), mode="reflect")).relu()
        x = self.middle(functional.pad(x, (1, 1, 1, 1), mode="replicate"))
        return self.head(functional.pad(x, (1, 2, 0, 1)).mean((2, 3)))


class PixelsToChannels(nn.Module):
    """Four pixels become four channels."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.unshuffle = nn.PixelUnshuffle(2)
        self.middle = nn.Conv2d(24, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.unshuffle(self.stem(x).relu())).mean((2, 3)))


class ShuffledByStack(nn.Module):
    """Two halves of the channels are dealt out in turn by chunk, stack and flatten."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.stem(x).chunk(2, dim=1)
        x = torch.stack([first, second], dim=2).flatten(1, 2)
        return self.head(self.grouped(x).relu().mean((2, 3)))


class ShuffledByModule(nn.Module):
    """Conv groups, and a shuffle of channels between them, each one operator (ShuffleNet)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.first = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.second = nn.Conv2d(8, 12, 3, padding=1, groups=4)
        self.shuffles = nn.ModuleList([nn.ChannelShuffle(2), nn.ChannelShuffle(4)])
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.shuffles
        x = second(self.second(first(self.first(self.stem(x).relu())).relu()))
        return self.head(x.mean((2, 3)))


class FoldedPatches(nn.Module):
    """Patches become columns, go through a layer, and become an image again."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.mix = nn.Linear(24, 24)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        columns = functional.unfold(self.stem(x), 2, stride=2)
        columns = self.mix(columns.transpose(1, 2)).relu().transpose(1, 2)
        return self.head(functional.fold(columns, (6, 6), 2, stride=2))


class Permuted(nn.Module):
    """Channels are put in another order that the file holds."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.mix = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 5)
        self.register_buffer("order", torch.tensor([3, 0, 7, 1, 6, 2, 5, 4]))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.index_select(self.stem(x).relu(), 1, self.order)
        return self.head(self.mix(x).mean((2, 3)))


class PermutedTwice(nn.Module):
    """One order is applied to two tensors, another stands in the code."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.other = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(4, 5)
        self.register_buffer("order", torch.tensor([3, 0, 7, 6]))

    def forward(self, x: Tensor) -> Tensor:
        x, y = self.stem(x)[:, self.order], self.other(x).index_select(-3, self.order.int())
        return self.head((x * y.sigmoid())[:, [3, 1, 0, 2]].mean((2, 3)))


class Emptied(nn.Module):
    """Slices without an element: one of channels, and one of rows, as wide as those."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.middle = nn.Linear(8, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x).relu()
        return self.head(self.middle(torch.cat([x, x[:, :0]], dim=1))), self.head.weight[:0].exp()


class Gathered(nn.Module):
    """Some steps are picked, by places that the file holds."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(5, 8)
        self.head = nn.Linear(8, 3)
        self.register_buffer("places", torch.tensor([4, 0, 6]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        index = self.places.view(1, 3, 1).expand(x.shape[0], 3, 8)
        return self.head(torch.gather(x, 1, index))


class Masked(nn.Module):
    """Constant masks over places and over channels, by masked_fill and by where."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(5, 8)
        self.middle = nn.Linear(8, 6)
        self.head = nn.Linear(6, 3)
        self.register_buffer("steps", torch.tensor([0, 1, 0, 0, 1, 0, 1], dtype=torch.bool))
        self.register_buffer("channels", torch.tensor([1, 0, 1, 1, 0, 1], dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).masked_fill(self.steps[:, None], 0.25)
        x = self.middle(x)
        return self.head(torch.where(self.channels, x, -x.abs()))


class UnequalParts(nn.Module):
    """Unequal parts of one layer are put together in another order, and stacked."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 12)
        self.middle = nn.Linear(12, 8)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        one, two, three = torch.split(self.stem(x), [2, 7, 3], dim=-1)
        x = self.middle(torch.cat([three, one, two.relu()], dim=-1))
        return self.head(torch.stack([x[:, :4], x[:, 4:]], dim=1).amax(1))


class Flipped(nn.Module):
    """Channels and steps in reverse, beside what they were."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(5, 8)
        self.middle = nn.Linear(8, 6)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.stem(x).flip(-1)).relu()
        return self.head(torch.cat([x, x.flip(1)], dim=-1))


class Repeated(nn.Module):
    """Channels are copied as a block, and each on its own."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.middle = nn.Linear(16, 6)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.stem(x).repeat(1, 2).relu())
        return self.head(x.repeat_interleave(2, dim=-1))


class ComputedSizes(nn.Module):
    """Rows and steps are one dimension for a while, of a size that is computed."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(5, 8)
        self.middle = nn.Linear(8, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        x = self.stem(x.reshape(n * t, c)).relu()
        x = self.middle(x.view(n, t, 8)).view(n * t * 2, 3).tanh()
        return self.head(x.view(n, t, -1))
