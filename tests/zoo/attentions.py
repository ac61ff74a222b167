"""Tiny modules, each of one way to attend."""

import torch
from torch import Tensor, nn
from torch.nn import functional


def _heads(x: Tensor, count: int) -> Tensor:
    """``(n, t, heads * d)`` to ``(n, heads, t, d)``."""
    n, t, width = x.shape
    return x.view(n, t, count, width // count).transpose(1, 2)


def _merged(x: Tensor) -> Tensor:
    n, heads, t, d = x.shape
    return x.transpose(1, 2).reshape(n, t, heads * d)


class AttentionModule(nn.Module):
    """nn.MultiheadAttention, its averaged weights dropped."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 12)
        self.attend = nn.MultiheadAttention(12, 3, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(self.attend(x, x, x)[0])


class AveragedWeights(nn.Module):
    """nn.MultiheadAttention, its weights averaged over heads and returned."""

    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(12, 3, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.attend(x, x, x)


class GroupedQueries(nn.Module):
    """Two heads of the query share one of the key, inside of the fused operator."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 16)
        self.query = nn.Linear(16, 16)
        self.key_value = nn.Linear(16, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        query = _heads(self.query(x), 4)
        key, value = (_heads(part, 2) for part in self.key_value(x).chunk(2, dim=-1))
        x = functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        return self.head(_merged(x))


class RepeatedKeys(GroupedQueries):
    """Keys are copied for the heads of the query that share them (LLaMA)."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        query = _heads(self.query(x), 4)
        key, value = (_heads(part, 2) for part in self.key_value(x).chunk(2, dim=-1))
        n, _, t, d = key.shape
        key = key[:, :, None].expand(n, 2, 2, t, d).reshape(n, 4, t, d)
        value = value[:, :, None].expand(n, 2, 2, t, d).reshape(n, 4, t, d)
        return self.head(_merged(functional.scaled_dot_product_attention(query, key, value)))


class WindowAttention(nn.Module):
    """Shifted windows, a bias table for relative positions, patch merging (Swin)."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.qkv = nn.Linear(8, 24)
        self.table = nn.Parameter(torch.randn(9, 2))
        place = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij"))
        apart = place.flatten(1)[:, :, None] - place.flatten(1)[:, None, :] + 1
        self.register_buffer("index", apart[0] * 3 + apart[1])
        self.out = nn.Linear(8, 8)
        self.merge = nn.Linear(32, 12, bias=False)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        n, h, w, c = x.shape
        windows = torch.roll(x, (-1, -1), (1, 2)).view(n, h // 2, 2, w // 2, 2, c)
        windows = windows.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        qkv = self.qkv(windows).reshape(-1, 4, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]
        bias = self.table[self.index.view(-1)].view(4, 4, 2).permute(2, 0, 1).contiguous()
        scores = (query * 0.5) @ key.transpose(-2, -1) + bias.unsqueeze(0)
        windows = self.out((scores.softmax(-1) @ value).transpose(1, 2).reshape(-1, 4, c))
        windows = windows.view(n, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5)
        x = x + torch.roll(windows.reshape(n, h, w, c), (1, 1), (1, 2))
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.head(self.merge(torch.cat(corners, dim=-1)).mean((1, 2)))


class _Rotary(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 16)
        self.qkv = nn.Linear(16, 48)
        self.head = nn.Linear(16, 3)
        angles = torch.outer(torch.arange(7.0), torch.tensor([1.0, 0.1]))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        self.register_buffer("steps", torch.tensor([1.0, 0.1]))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (_heads(p, 4) for p in self.qkv(self.embed(x)).split(16, dim=-1))
        query, key = self.rotated(query), self.rotated(key)
        return self.head(_merged(functional.scaled_dot_product_attention(query, key, value)))


class RotaryHalves(_Rotary):
    """Rotary positions: the first half of a head turns with the second (LLaMA)."""

    def rotated(self, x: Tensor) -> Tensor:
        cos, sin = torch.cat([self.cos] * 2, -1), torch.cat([self.sin] * 2, -1)
        first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        return x * cos + torch.cat([-second, first], dim=-1) * sin


class RotaryPairs(_Rotary):
    """Rotary positions: neighbors turn together (GPT-J)."""

    def rotated(self, x: Tensor) -> Tensor:
        even, odd = x[..., ::2], x[..., 1::2]
        turned = (even * self.cos - odd * self.sin, even * self.sin + odd * self.cos)
        return torch.stack(turned, dim=-1).flatten(-2)


class RotaryComplex(_Rotary):
    """Rotary positions: neighbors are one complex number (Llama, as Meta wrote it)."""

    def rotated(self, x: Tensor) -> Tensor:
        angles = torch.arange(7)[:, None] * self.steps
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        turned = pairs * torch.polar(torch.ones_like(angles), angles)
        return torch.view_as_real(turned).flatten(3)


class RotaryFused(_Rotary):
    """Rotary positions that are computed, and one view of queries, keys and values (timm)."""

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.embed(x)).unflatten(-1, (3, 4, 4)).unbind(2)
        query, key = (self.rotated(part.transpose(1, 2)) for part in (query, key))
        x = functional.scaled_dot_product_attention(query, key, value.transpose(1, 2))
        return self.head(_merged(x))

    def rotated(self, x: Tensor) -> Tensor:
        angles = torch.arange(7)[:, None] * torch.cat([self.steps] * 2)
        first, second = x.chunk(2, dim=-1)
        return x * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()


class RotarySharedKeys(RotaryFused):
    """Two queries, their key and their value, side by side in each part of a view (InternLM)."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 32)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.embed(x)).unflatten(-1, (2, 4, 4))
        query = self.rotated(parts[..., :2, :].flatten(2, 3).transpose(1, 2))
        key = self.rotated(parts[..., 2, :].transpose(1, 2)).repeat_interleave(2, dim=1)
        value = parts[..., 3, :].transpose(1, 2).repeat_interleave(2, dim=1)
        return self.head(_merged(functional.scaled_dot_product_attention(query, key, value)))


class Temperature(nn.Module):
    """A learned number for each head scales its scores, another each channel of the result."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 12)
        self.qkv = nn.Linear(12, 36)
        self.temperature = nn.Parameter(torch.ones(3, 1, 1))
        self.layer_scale = nn.Parameter(torch.ones(12))
        self.sharpness = nn.Parameter(torch.ones(()))
        self.out = nn.Linear(12, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        query, key, value = (_heads(part, 3) for part in self.qkv(x).chunk(3, dim=-1))
        scores = (query * self.temperature) @ key.transpose(-2, -1) * self.sharpness
        x = x + self.layer_scale * self.out(_merged(scores.softmax(-1) @ value))
        return self.head(x)


class LinearBiases(nn.Module):
    """Each head looks less far by a slope of its own (ALiBi), and never ahead."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 16)
        self.qkv = nn.Linear(16, 48)
        self.head = nn.Linear(16, 3)
        place = torch.arange(7)
        self.register_buffer("slopes", torch.tensor([0.5, 0.25, 0.125, 0.0625]))
        self.register_buffer("distance", (place[None] - place[:, None]).float())
        self.register_buffer("ahead", place[None] > place[:, None])

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (_heads(p, 4) for p in self.qkv(self.embed(x)).chunk(3, dim=-1))
        scores = query @ key.transpose(-2, -1) * 0.5 + self.slopes.view(4, 1, 1) * self.distance
        weights = scores.masked_fill(self.ahead, float("-inf")).softmax(-1)
        return self.head(_merged(weights @ value))


class FoldedHeads(nn.Module):
    """Heads go into the batch: sizes are computed from the batch's."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 12)
        self.qkv = nn.Linear(12, 36)
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        n, t, _ = x.shape
        qkv = self.qkv(x).view(n, t, 3, 3, 4).permute(2, 0, 3, 1, 4)
        query, key, value = (part.reshape(n * 3, t, 4) for part in qkv)
        weights = torch.bmm(query, key.transpose(1, 2)).softmax(-1)
        x = torch.bmm(weights, value).view(n, 3, t, 4).transpose(1, 2).reshape(n * t, 12)
        return self.out(x).view(n, t, 3)


class CrossAttention(nn.Module):
    """A decoder looks at itself up to each word, then at what an encoder made of another input."""

    def __init__(self):
        super().__init__()
        self.words, self.answer = nn.Embedding(11, 12), nn.Embedding(11, 12)
        self.encoder = nn.MultiheadAttention(12, 3, batch_first=True)
        self.decoder = nn.MultiheadAttention(12, 3, batch_first=True)
        self.cross = nn.MultiheadAttention(12, 2, batch_first=True)
        self.head = nn.Linear(12, 11)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(4))

    def forward(self, words: Tensor, answer: Tensor) -> Tensor:
        memory, x = self.words(words), self.answer(answer)
        memory = memory + self.encoder(memory, memory, memory, need_weights=False)[0]
        x = x + self.decoder(x, x, x, attn_mask=self.mask, need_weights=False)[0]
        return self.head(x + self.cross(x, memory, memory, need_weights=False)[0])


class AnyLength(nn.Module):
    """Sequences of any length: positions are cut from a table, a mask is made on the way."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.position = nn.Embedding(32, 16)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        t = tokens.shape[1]
        x = self.embed(tokens) + self.position(torch.arange(t))
        query, key, value = (_heads(part, 4) for part in self.qkv(x).chunk(3, dim=-1))
        mask = torch.ones(t, t, dtype=torch.bool).tril()
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.head(x + self.out(_merged(attended)))
