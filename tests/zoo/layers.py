"""Tiny modules, each of one layer type: convolutions, products, norms, recurrent cells, weights."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm, weight_norm


class Convolution1d(nn.Module):
    """Convolutions over time, one of them dilated."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.dilated = nn.Conv1d(8, 6, 3, padding="same", dilation=2)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool1d(self.norm(self.stem(x)).relu(), 2)
        return self.head(functional.adaptive_avg_pool1d(self.dilated(x), 1).squeeze(2))


class Convolution3d(nn.Module):
    """Convolutions over video, and a transposed one."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv3d(2, 8, 3, padding=1)
        self.norm = nn.BatchNorm3d(8)
        self.up = nn.ConvTranspose3d(8, 6, 2, stride=2)
        self.head = nn.Conv3d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(functional.avg_pool3d(self.norm(self.stem(x)).relu(), 2)))


class GroupedTransposed(nn.Module):
    """A transposed convolution in groups, and a depthwise one behind it."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 12, 2, stride=2, groups=4)
        self.spread = nn.ConvTranspose2d(12, 12, 3, padding=1, groups=12)
        self.head = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.spread(self.up(self.stem(x).relu()).relu()))


class EinsumLayer(nn.Module):
    """Projections written as einsums, heads and head dimensions apart."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Parameter(torch.randn(6, 4, 3))
        self.outer = nn.Parameter(torch.randn(4, 3, 6))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("ntc,chd->nthd", x, self.inner).relu()
        return self.head(torch.einsum("nthd,hdc->ntc", x, self.outer).relu())


class AddedProducts(nn.Module):
    """A bias is added inside of a matrix product, plain and batched."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(8))
        self.weight = nn.Parameter(torch.randn(6, 8))
        self.biases = nn.Parameter(torch.randn(2, 1, 10))
        self.weights = nn.Parameter(torch.randn(2, 8, 10))
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.addmm(self.bias, x, self.weight).relu()
        both = torch.baddbmm(self.biases, x.expand(2, -1, -1), self.weights)
        return self.head(both[0] * torch.sigmoid(both[1]))


class InstanceNormalized(nn.Module):
    """Each channel of each image is normalized alone."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.InstanceNorm2d(8, affine=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x)).relu().amax((2, 3)))


class FusedRmsNorm(nn.Module):
    """A root mean square norm, as one operator."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.norm = nn.RMSNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x)))


class WrittenRmsNorm(nn.Module):
    """A root mean square norm, written out (LLaMA)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.scale = nn.Parameter(torch.ones(8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)
        return self.head(self.scale * x)


class ProjectedRecurrence(nn.Module):
    """An LSTM whose hidden units leave it through a projection."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(5, 6)
        self.lstm = nn.LSTM(6, 8, batch_first=True, proj_size=4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, (projected, _) = self.lstm(self.stem(x).relu())
        return self.head(x.amax(1) + projected[0])


class UnrolledLstm(nn.Module):
    """An LSTM cell is called at every step of a loop."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(5, 6)
        self.cell = nn.LSTMCell(6, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden, memory = self.cell(self.stem(x[:, 0]))
        for step in range(1, 3):
            hidden, memory = self.cell(self.stem(x[:, step]), (hidden, memory))
        return self.head(hidden + memory)


class UnrolledGru(nn.Module):
    """A GRU cell is called at every step, from a state that is learned."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(5, 8)
        self.state = nn.Parameter(torch.randn(1, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = self.state.expand(x.shape[0], -1)
        states = []
        for step in x.unbind(1):
            state = self.cell(step, state)
            states.append(state)
        return self.head(torch.stack(states, dim=1))


class OneGroup(nn.Module):
    """A group norm of one group before every block (PoolFormer)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first, self.second = nn.GroupNorm(1, 8), nn.GroupNorm(1, 8, affine=False)
        self.up, self.down = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + functional.avg_pool2d(self.first(x), 3, 1, 1)
        x = x + self.down(self.up(self.second(x)).relu())
        return self.head(x.mean((2, 3)))


class SummedRows(nn.Module):
    """Rows of a table, summed for each row of the input, and a part of them (DLRM)."""

    def __init__(self):
        super().__init__()
        self.table = nn.EmbeddingBag(11, 8, mode="sum")
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        return self.head(torch.cat([x, *x.tensor_split((2, 5), dim=1)], dim=1))


class TiedVocabulary(nn.Module):
    """The embedding is the output layer too: words stay, the width is pruned."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.middle = nn.Linear(8, 12)
        self.back = nn.Linear(12, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.head(x + self.back(self.middle(x).relu()))


class NormalizedWeights(nn.Module):
    """A weight is a direction and a length (weight norm)."""

    def __init__(self):
        super().__init__()
        self.stem = weight_norm(nn.Linear(6, 8))
        self.middle = weight_norm(nn.Linear(8, 10))
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.stem(x).relu()).relu())


class StandardizedByBatchNorm(nn.Module):
    """A convolution's weight goes through a batch norm first (NFNet, as timm writes it)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.conv.weight.reshape(1, 6, -1)
        normal = functional.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-6)
        weight = normal.reshape_as(self.conv.weight)
        x = functional.conv2d(self.stem(x).relu(), weight, self.conv.bias, padding=1)
        return self.head(x.relu().mean((2, 3)))


class StandardizedByHand(nn.Module):
    """A convolution's weight loses its mean and is divided by its deviation (BiT)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight
        mean = weight.mean((1, 2, 3), keepdim=True)
        variance = weight.var((1, 2, 3), keepdim=True, unbiased=False)
        weight = (weight - mean) / torch.sqrt(variance + 1e-5)
        x = functional.conv2d(self.stem(x).relu(), weight, self.conv.bias, padding=1)
        return self.head(x.relu().mean((2, 3)))


class Interpolated(nn.Module):
    """Images are made larger, bilinear and by nearest pixels."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.interpolate(self.stem(x), scale_factor=2, mode="bilinear")
        return self.head(functional.interpolate(self.middle(x.relu()), size=(5, 7)))


class SpectralNormalized(nn.Module):
    """A weight is divided by its largest singular value."""

    def __init__(self):
        super().__init__()
        self.stem = spectral_norm(nn.Linear(6, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).relu())


class BilinearLayer(nn.Module):
    """Each output is a product of two inputs with a matrix between them."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 8), nn.Linear(6, 4)
        self.product = nn.Bilinear(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(self.left(x), self.right(x))
