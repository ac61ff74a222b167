"""One tiny module for each pattern that networks are made of, with example inputs.

Each must be pruned, run, and be exact. ``input_shape`` has no batch: the tests add a dynamic one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from tests.zoo import attentions, compositions, layers, movements


class Residual(nn.Module):
    """A block's output is added to its input: both lose the same channels."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 12, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.outer = nn.Conv2d(12, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        x = x + self.outer(functional.relu(self.norm(self.inner(x))))
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class PaddedShortcut(nn.Module):
    """A shortcut without parameters: every second pixel, zero channels around (CIFAR ResNets)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 16, 3, padding=1, stride=2)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        shortcut = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return self.head((self.down(x) + shortcut).relu().mean((2, 3)))


class Concatenation(nn.Module):
    """Channels of two producers lie side by side (DenseNet)."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 4, 3, padding=1)
        self.third = nn.Conv2d(12, 6, 1)
        self.head = nn.Linear(6 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x))
        x = torch.cat([x, self.second(x)], 1)
        return self.head(functional.max_pool2d(self.third(x), 2).flatten(1))


class Split(nn.Module):
    """Channels of one producer go to two consumers, in unequal parts."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.left = nn.Conv2d(4, 6, 3, padding=1)
        self.right = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).split([4, 6], dim=1)
        return self.head((self.left(left) * torch.sigmoid(self.right(right))).mean((2, 3)))


class Chunk(nn.Module):
    """One half gates the other: channels go in pairs."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 16)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.stem(x).chunk(2, dim=-1)
        return self.head(value * functional.silu(gate))


class GroupedAndDepthwise(nn.Module):
    """Conv groups go whole; a depthwise convolution loses what it reads."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=4)
        self.norm = nn.GroupNorm(4, 12)
        self.last = nn.Conv2d(12, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.hardswish(self.depthwise(self.stem(x)))
        return self.head(self.last(self.norm(self.grouped(x))).mean((2, 3)))


class SharedInputs(nn.Module):
    """Every conv group reads the same channels: each loses the same, and the groups stay."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.grouped = nn.Conv2d(12, 8, 3, padding=1, groups=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head(self.grouped(torch.cat([x, x], dim=1)).mean((2, 3)))


class WrittenInPlace(nn.Module):
    """Views of a tensor are written to, and the tensor is read after."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x[:, :4].relu_().add_(1.0)
        x.flatten(2).transpose(0, 1).mul_(2.0)
        return self.head(x.mean((2, 3)))


class NormalizedPlanes(nn.Module):
    """A layer norm over channels, rows and columns together."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.LayerNorm([8, 6, 6])
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x)).relu().amax((2, 3)))


class Constants(nn.Module):
    """Numbers that stand in the code and are neither parameters nor buffers."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x) * torch.tensor([1.0, -2.0, 3.0, 0.5]))


class SqueezeExcite(nn.Module):
    """Channels are scaled by what a small network makes of their means."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.squeeze = nn.Conv2d(8, 4, 1)
        self.excite = nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        scale = torch.sigmoid(self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()))
        return self.head((x * scale).mean((2, 3)))


class EncoderDecoder(nn.Module):
    """Down and up again, with a skip connection (U-Net)."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 12, 3, padding=1)
        self.up = nn.ConvTranspose2d(12, 8, 2, stride=2)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = functional.relu(self.down(x))
        x = self.up(functional.relu(self.middle(functional.avg_pool2d(skip, 2))))
        return self.head(torch.cat([skip, x], dim=1))


class SubPixel(nn.Module):
    """Channels become pixels: four channels that make one go together."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.head = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.shuffle(self.stem(x)).relu())


class Shuffled(nn.Module):
    """Channels are dealt out anew between conv groups (ShuffleNet)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.mix = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(self.mix(x).mean((2, 3)))


class Reused(nn.Module):
    """One layer is called twice: what it reads and what it writes are the same channels."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.twice = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head(self.twice(self.twice(x).relu()).relu())


class TiedWeights(nn.Module):
    """One tensor is two layers' weight."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(6, 8, bias=False)
        self.middle = nn.Linear(8, 8)
        self.decode = nn.Linear(6, 8, bias=False)
        self.decode.weight = self.encode.weight
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.middle(self.encode(x)), self.decode(x)], dim=-1))


class RecurrentStack(nn.Module):
    """A two-way LSTM of two layers, a GRU behind it, and the last step's output."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(5, 8, 2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(16, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.lstm(x)
        x, state = self.gru(x)
        return self.head(x[:, -1] + state[0])


class PlainRecurrence(nn.Module):
    """A tanh RNN without biases, time first."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(5, 8, bias=False, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0].sum(1))


class VisionTransformer(nn.Module):
    """A class token, a position table, pre-norm encoder layers."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 16)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 8, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        token = self.token.expand(x.shape[0], -1, -1)
        x = torch.cat([token, self.embed(x)], dim=1) + self.position
        return self.head(self.encoder(x)[:, 0])


class ManualAttention(nn.Module):
    """Attention written out: one projection for q, k and v, matmul, softmax, matmul."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 12)
        self.qkv = nn.Linear(12, 36)
        self.out = nn.Linear(12, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(q @ k.transpose(-2, -1) * 0.5, dim=-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(n, t, 12))
        return self.head(x.mean(1))


class PaddedTokens(nn.Module):
    """An encoder that looks past padding: one mask for all heads."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.encoder(self.embed(tokens), src_key_padding_mask=tokens == 10)
        return self.head(x.mean(1))


@dataclass(frozen=True)
class Pattern:
    """A module, what it takes, and whether a normalization runs over a dimension it may lose.

    ``inputs`` makes the arguments of a module that takes more than one tensor, for a number of
    rows. ``dynamic_dims`` are dynamic in every input.
    """

    build: Callable[[], nn.Module]
    input_shape: tuple[int, ...] = ()
    is_exempt: bool = False
    takes_tokens: bool = False
    inputs: Callable[[int, Generator], tuple[Any, ...]] | None = None
    dynamic_dims: tuple[int, ...] = (0,)


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.GELU(), nn.Dropout(), nn.Linear(12, 3)
    )


def post_norm_encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


def two_texts(rows: int, generator: Generator) -> tuple[Any, ...]:
    return tuple(torch.randint(11, (rows, t), generator=generator) for t in (6, 4))


def user_and_item(rows: int, generator: Generator) -> tuple[Any, ...]:
    return tuple(torch.randn(rows, width, generator=generator) for width in (6, 5))


def image_and_numbers(rows: int, generator: Generator) -> tuple[Any, ...]:
    image = torch.randn(rows, 3, 6, 6, generator=generator)
    return image, torch.randn(rows, 4, generator=generator)


def nested(rows: int, generator: Generator) -> tuple[Any, ...]:
    words = {
        "tokens": torch.randint(11, (rows, 6), generator=generator),
        "mask": torch.randint(2, (rows, 6), generator=generator).float(),
    }
    numbers = tuple(torch.randn(rows, width, generator=generator) for width in (4, 3))
    return words, numbers


PATTERNS: dict[str, Pattern] = {
    "mlp": Pattern(mlp, (6,)),
    "residual": Pattern(Residual, (3, 8, 8)),
    "padded_shortcut": Pattern(PaddedShortcut, (3, 8, 8)),
    "concatenation": Pattern(Concatenation, (3, 8, 8)),
    "split": Pattern(Split, (3, 8, 8)),
    "chunk": Pattern(Chunk, (6,)),
    "grouped_and_depthwise": Pattern(GroupedAndDepthwise, (3, 8, 8)),
    "shared_inputs": Pattern(SharedInputs, (3, 6, 6)),
    "written_in_place": Pattern(WrittenInPlace, (3, 6, 6)),
    "normalized_planes": Pattern(NormalizedPlanes, (3, 6, 6), is_exempt=True),
    "constants": Pattern(Constants, (6,)),
    "squeeze_excite": Pattern(SqueezeExcite, (3, 8, 8)),
    "encoder_decoder": Pattern(EncoderDecoder, (3, 8, 8)),
    "sub_pixel": Pattern(SubPixel, (3, 6, 6)),
    "shuffled": Pattern(Shuffled, (3, 6, 6)),
    "reused": Pattern(Reused, (6,)),
    "tied_weights": Pattern(TiedWeights, (6,)),
    "recurrent_stack": Pattern(RecurrentStack, (7, 5)),
    "plain_recurrence": Pattern(PlainRecurrence, (7, 5)),
    "vision_transformer": Pattern(VisionTransformer, (7, 5), is_exempt=True),
    "post_norm_encoder": Pattern(post_norm_encoder, (7, 16)),
    "padded_tokens": Pattern(PaddedTokens, (7,), is_exempt=True, takes_tokens=True),
    "manual_attention": Pattern(ManualAttention, (7,), takes_tokens=True),
    "convolution_1d": Pattern(layers.Convolution1d, (3, 8)),
    "convolution_3d": Pattern(layers.Convolution3d, (2, 4, 4, 4)),
    "grouped_transposed": Pattern(layers.GroupedTransposed, (3, 6, 6)),
    "einsum_layer": Pattern(layers.EinsumLayer, (7, 6)),
    "added_products": Pattern(layers.AddedProducts, (6,)),
    "instance_normalized": Pattern(layers.InstanceNormalized, (3, 6, 6)),
    "fused_rms_norm": Pattern(layers.FusedRmsNorm, (6,), is_exempt=True),
    "written_rms_norm": Pattern(layers.WrittenRmsNorm, (6,), is_exempt=True),
    "projected_recurrence": Pattern(layers.ProjectedRecurrence, (7, 5)),
    "unrolled_lstm": Pattern(layers.UnrolledLstm, (3, 5)),
    "unrolled_gru": Pattern(layers.UnrolledGru, (3, 5)),
    "one_group": Pattern(layers.OneGroup, (3, 6, 6), is_exempt=True),
    "summed_rows": Pattern(layers.SummedRows, (6,), takes_tokens=True),
    "tied_vocabulary": Pattern(layers.TiedVocabulary, (7,), takes_tokens=True),
    "normalized_weights": Pattern(layers.NormalizedWeights, (6,), is_exempt=True),
    "interpolated": Pattern(layers.Interpolated, (3, 4, 4)),
    "averaged_weights": Pattern(attentions.AveragedWeights, (7, 12), is_exempt=True),
    "grouped_queries": Pattern(attentions.GroupedQueries, (7, 5)),
    "repeated_keys": Pattern(attentions.RepeatedKeys, (7, 5)),
    "window_attention": Pattern(attentions.WindowAttention, (4, 4, 3)),
    "rotary_halves": Pattern(attentions.RotaryHalves, (7, 5)),
    "rotary_pairs": Pattern(attentions.RotaryPairs, (7, 5)),
    "rotary_complex": Pattern(attentions.RotaryComplex, (7, 5)),
    "rotary_fused": Pattern(attentions.RotaryFused, (7, 5)),
    "rotary_shared_keys": Pattern(attentions.RotarySharedKeys, (7, 5)),
    "temperature": Pattern(attentions.Temperature, (7, 5)),
    "linear_biases": Pattern(attentions.LinearBiases, (7, 5)),
    "folded_heads": Pattern(attentions.FoldedHeads, (7, 5)),
    "cross_attention": Pattern(attentions.CrossAttention, inputs=two_texts),
    "any_length": Pattern(attentions.AnyLength, (7,), takes_tokens=True, dynamic_dims=(0, 1)),
    "padded_channels": Pattern(movements.PaddedChannels, (3, 6, 6)),
    "padded_planes": Pattern(movements.PaddedPlanes, (3, 6, 6)),
    "pixels_to_channels": Pattern(movements.PixelsToChannels, (3, 6, 6)),
    "shuffled_by_stack": Pattern(movements.ShuffledByStack, (3, 6, 6)),
    "shuffled_by_module": Pattern(movements.ShuffledByModule, (3, 6, 6)),
    "folded_patches": Pattern(movements.FoldedPatches, (3, 6, 6)),
    "permuted": Pattern(movements.Permuted, (3, 6, 6)),
    "permuted_twice": Pattern(movements.PermutedTwice, (3, 6, 6)),
    "emptied": Pattern(movements.Emptied, (6,)),
    "gathered": Pattern(movements.Gathered, (7, 5)),
    "masked": Pattern(movements.Masked, (7, 5)),
    "unequal_parts": Pattern(movements.UnequalParts, (6,)),
    "flipped": Pattern(movements.Flipped, (7, 5)),
    "repeated": Pattern(movements.Repeated, (6,)),
    "computed_sizes": Pattern(movements.ComputedSizes, (7, 5)),
    "einsum_excite": Pattern(compositions.EinsumExcite, (3, 8, 8)),
    "spatial_attention": Pattern(compositions.SpatialAttention, (3, 8, 8), is_exempt=True),
    "mixer": Pattern(compositions.Mixer, (7, 5)),
    "padded_blocks": Pattern(compositions.PaddedBlocks, (3, 8, 8)),
    "ensemble": Pattern(compositions.Ensemble, (6,)),
    "two_towers": Pattern(compositions.TwoTowers, inputs=user_and_item),
    "several_outputs": Pattern(compositions.SeveralOutputs, inputs=image_and_numbers),
    "nested_inputs": Pattern(compositions.NestedInputs, inputs=nested),
    "attention_module": Pattern(attentions.AttentionModule, (7, 5)),
    "standardized_by_batch_norm": Pattern(
        layers.StandardizedByBatchNorm, (3, 6, 6), is_exempt=True
    ),
    "standardized_by_hand": Pattern(layers.StandardizedByHand, (3, 6, 6), is_exempt=True),
    "spectral_normalized": Pattern(layers.SpectralNormalized, (6,)),
    "bilinear_layer": Pattern(layers.BilinearLayer, (6,)),
    "cosine_scores": Pattern(compositions.CosineScores, (6,)),
    "outer_product": Pattern(compositions.OuterProduct, (6,)),
}
