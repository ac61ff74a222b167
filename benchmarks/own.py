"""Small architectures written here, for what the libraries do not have."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.architecture import Architecture, Inputs, floats, image


class PaddedBlock(nn.Module):
    """A residual block whose shortcut has no parameters: every second pixel, and zeros."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.pad = (width - width_in) // 2
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.stride == 2:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return functional.relu(y + x)


class CifarResNet20(nn.Module):
    """The ResNet-20 for CIFAR-10, as first described."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        widths = [16, 16, 16, 32, 32, 32, 64, 64, 64]
        before = [16, *widths[:-1]]
        self.blocks = nn.Sequential(
            *(PaddedBlock(a, b, 1 if a == b else 2) for a, b in zip(before, widths, strict=True))
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(functional.relu(self.bn(self.conv(x)))).mean((2, 3)))


class LstmTagger(nn.Module):
    """A tag for each word: embedding, two layers of LSTM in both directions, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(199, 48)
        self.lstm = nn.LSTM(48, 64, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(128, 9)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(words))[0])


class GruClassifier(nn.Module):
    """A class for a text: embedding, GRU, two linear layers on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(199, 48)
        self.gru = nn.GRU(48, 64, batch_first=True)
        self.hidden = nn.Linear(64, 96)
        self.head = nn.Linear(96, 4)

    def forward(self, words: Tensor) -> Tensor:
        last = self.gru(self.embedding(words))[1][-1]
        return self.head(functional.relu(self.hidden(last)))


class LstmCellLoop(nn.Module):
    """A forecaster that calls an LSTM cell once for each step."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 32)
        self.cell = nn.LSTMCell(32, 48)
        self.head = nn.Linear(48, 2)

    def forward(self, series: Tensor) -> Tensor:
        state = (series.new_zeros(series.shape[0], 48), series.new_zeros(series.shape[0], 48))
        for step in range(6):
            state = self.cell(functional.relu(self.inner(series[:, step])), state)
        return self.head(state[0])


def _double(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width_in, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Down, up with transposed convolutions, and concatenations across."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.down3 = _double(3, 16), _double(16, 32), _double(32, 64)
        self.up2 = nn.ConvTranspose2d(64, 32, 2, stride=2)
        self.up1 = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.back2, self.back1 = _double(64, 32), _double(32, 16)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(functional.max_pool2d(one, 2))
        three = self.down3(functional.max_pool2d(two, 2))
        two = self.back2(torch.cat([two, self.up2(three)], 1))
        return self.head(self.back1(torch.cat([one, self.up1(two)], 1)))


class TiedAutoencoder(nn.Module):
    """The decoder is the encoder's weight, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(64, 48)
        self.inner = nn.Linear(48, 12)
        self.bias = nn.Parameter(torch.zeros(64))
        self.middle = nn.Parameter(torch.zeros(48))

    def forward(self, x: Tensor) -> Tensor:
        code = self.inner(torch.tanh(self.encoder(x)))
        back = torch.tanh(functional.linear(code, self.inner.weight.t(), self.middle))
        return functional.linear(back, self.encoder.weight.t(), self.bias)


class TwoTower(nn.Module):
    """Users and items, each through a tower of its own; the score is a scaled product."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(199, 32), nn.Embedding(199, 32)
        self.user_tower = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 24))
        self.item_tower = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 24))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        one = functional.normalize(self.user_tower(self.users(user)), dim=-1)
        other = functional.normalize(self.item_tower(self.items(item)), dim=-1)
        return (one * other).sum(-1)


class Ensemble(nn.Module):
    """The mean of three different networks over one trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU())
        self.plain = nn.Sequential(nn.Conv2d(24, 32, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.depthwise = nn.Sequential(
            nn.Conv2d(24, 24, 3, 2, groups=24), nn.Conv2d(24, 40, 1), nn.AdaptiveAvgPool2d(1)
        )
        self.pooled = nn.AdaptiveAvgPool2d(2)
        self.heads = nn.ModuleList([nn.Linear(32, 5), nn.Linear(40, 5), nn.Linear(96, 5)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)
        features = [self.plain(x), self.depthwise(x), self.pooled(x)]
        found = [head(f.flatten(1)) for head, f in zip(self.heads, features, strict=True)]
        return torch.stack(found).mean(0)


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 96), nn.GELU(), nn.Linear(96, 7)
    )


def espcn() -> nn.Module:
    """Super-resolution: convolutions, then channels become pixels."""
    return nn.Sequential(
        nn.Conv2d(1, 64, 5, padding=2),
        nn.Tanh(),
        nn.Conv2d(64, 32, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(32, 36, 3, padding=1),
        nn.PixelShuffle(3),
        nn.Conv2d(4, 1, 3, padding=1),
    )


def transformer_encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0)
    return nn.Sequential(
        nn.Linear(12, 64),
        nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
        nn.Linear(64, 5),
    )


def autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(24, 48, 3, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(48, 24, 2, 2),
        nn.ReLU(),
        nn.ConvTranspose2d(24, 3, 2, 2),
    )


def temporal() -> nn.Module:
    """A dilated convolutional network over time."""
    return nn.Sequential(
        nn.Conv1d(4, 32, 3, padding=1),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Conv1d(32, 64, 3, padding=2, dilation=2),
        nn.PReLU(64),
        nn.Conv1d(64, 64, 3, padding=4, dilation=4, groups=4),
        nn.GroupNorm(8, 64),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(64, 6),
    )


def _whole(*shape: int, count: int = 1) -> Callable[[], Inputs]:
    """Whole numbers below 199, by position."""

    def make() -> Inputs:
        generator = torch.Generator().manual_seed(1)
        return tuple(torch.randint(199, (2, *shape), generator=generator) for _ in range(count)), {}

    return make


OWN = [
    Architecture("own/mlp", "perceptron", mlp, floats(32)),
    Architecture("own/cifar_resnet20", "padded shortcuts", CifarResNet20, image(32)),
    Architecture("own/lstm_tagger", "recurrent", LstmTagger, _whole(10)),
    Architecture("own/gru_classifier", "recurrent", GruClassifier, _whole(10)),
    Architecture("own/lstm_cell_loop", "recurrent", LstmCellLoop, floats(6, 8)),
    Architecture("own/unet", "encoder-decoder", UNet, image(32)),
    Architecture("own/autoencoder", "encoder-decoder", autoencoder, image(32)),
    Architecture("own/tied_autoencoder", "tied weights", TiedAutoencoder, floats(64)),
    Architecture("own/espcn", "pixel shuffle", espcn, image(24, channels=1)),
    Architecture("own/two_tower", "two towers", TwoTower, _whole(count=2)),
    Architecture("own/ensemble", "ensemble", Ensemble, image(32)),
    Architecture("own/transformer_encoder", "attention", transformer_encoder, floats(10, 12)),
    Architecture("own/temporal", "convolution over time", temporal, floats(4, 32)),
]
