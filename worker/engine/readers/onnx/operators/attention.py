"""Attention, and the rotation of what it reads."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (as everywhere in PyTorch)
from torch import Tensor

from worker.engine.readers.onnx.host import is_symbol
from worker.engine.readers.onnx.registry import Call, Unmet, operator, torch_dtype

_INFINITE = float("-inf")


@operator("Attention")
def attention(
    call: Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
) -> list[Any]:
    """Compute ``scaled_dot_product_attention``; step by step where more is asked than it does."""
    is_flat = query.dim() == 3
    if is_flat:
        query = _heads(query, call.get("q_num_heads"))
        key, value = (_heads(each, call.get("kv_num_heads")) for each in (key, value))
    key = key if past_key is None else torch.cat([past_key, key], 2)
    value = value if past_value is None else torch.cat([past_value, value], 2)
    present = [key, value]
    if (call.get("left_window_size", -1), call.get("right_window_size", -1)) != (-1, -1):
        raise Unmet("it looks through a window")
    is_causal = bool(call.get("is_causal", 0))
    is_plain = past_key is None and lengths is None and mask is None
    softcap = call.get("softcap", 0.0)
    scale = call.get("scale")
    offset = None if past_key is None else past_key.shape[2]
    if softcap == 0.0 and not call.is_read(3) and "softmax_precision" not in call.attributes:
        bias = None
        if not (is_plain and is_causal):
            bias = _bias(query, key, mask, lengths, offset, is_causal)
        if bias is None or lengths is None:
            made = F.scaled_dot_product_attention(
                query,
                key,
                value,
                bias,
                is_causal=is_causal and is_plain,
                scale=scale,
                enable_gqa=query.shape[1] != key.shape[1],
            )
            return [_flat(made) if is_flat else made, *present]
    bias = _bias(query, key, mask, lengths, offset, is_causal)
    made, product = _by_steps(call, query, key, value, bias)
    return [_flat(made) if is_flat else made, *present, product]


def _heads(x: Tensor, count: int) -> Tensor:
    """Bring ``(n, l, heads * e)`` to ``(n, heads, l, e)``."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def _flat(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _bias(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    lengths: Tensor | None,
    offset: Any,
    is_causal: bool,
) -> Tensor | None:
    """What is added to the products: zero where a query may look, and minus infinity elsewhere."""
    wide, long = key.shape[2], query.shape[2]
    bias: Tensor | None = mask
    if bias is not None:
        missing = wide - bias.shape[-1]
        if not is_symbol(missing) and missing > 0:
            is_flags = bias.dtype == torch.bool
            bias = F.pad(bias, [0, missing], value=False if is_flags else _INFINITE)
        if bias.dtype == torch.bool and (is_causal or lengths is not None):
            bias = _as_bias(bias, query)
        if bias.dim() == 1:
            bias = bias.unsqueeze(0)
        if bias.dtype != torch.bool:
            bias = bias.to(query.dtype)
    if is_causal:
        rows, columns = torch.arange(long).unsqueeze(1), torch.arange(wide)
        if lengths is not None and offset is None:
            first = (lengths.reshape(-1, 1, 1, 1) - long).long()
            allowed = columns <= rows + first
        else:
            allowed = columns <= rows + (0 if offset is None else offset)
        seen = _as_bias(allowed, query)
        bias = seen if bias is None else bias + seen
    if lengths is not None:
        filled = torch.arange(wide) < lengths.reshape(-1, 1, 1, 1)
        seen = _as_bias(filled, query)
        bias = seen if bias is None else bias + seen
    return bias


def _as_bias(allowed: Tensor, like: Tensor) -> Tensor:
    zero = torch.zeros((), dtype=like.dtype)
    return torch.where(allowed, zero, torch.full((), _INFINITE, dtype=like.dtype))


def _by_steps(
    call: Call, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attention, and the product of query and key as far as it is asked for."""
    repeats = query.shape[1] // key.shape[1]
    if repeats != 1:
        key, value = (each.repeat_interleave(repeats, 1) for each in (key, value))
    scale = call.get("scale") or query.shape[3] ** -0.5
    product = torch.matmul(query, key.transpose(2, 3)) * scale
    softcap, mode = call.get("softcap", 0.0), call.get("qk_matmul_output_mode", 0)
    capped = product if softcap == 0.0 else torch.tanh(product / softcap) * softcap
    if bias is not None and bias.dtype == torch.bool:
        bias = _as_bias(bias, query)
    biased = capped if bias is None else capped + bias
    wide = biased
    if "softmax_precision" in call.attributes:
        wide = biased.to(torch_dtype(call.get("softmax_precision")))
    share = torch.softmax(wide, -1).to(query.dtype)
    if bias is not None:
        # A query that may look at nothing gets zeros.
        blind = (bias == _INFINITE).all(-1, keepdim=True)
        share = torch.where(blind, torch.zeros((), dtype=share.dtype), share)
    shown = [product, capped, biased, share][mode]
    return torch.matmul(share, value), shown.to(query.dtype)


@operator("RotaryEmbedding")
def rotary_embedding(
    call: Call, x: Tensor, cosines: Tensor, sines: Tensor, places: Tensor | None = None
) -> Tensor:
    """Rotate pairs of features by angles that depend on the place."""
    is_flat = x.dim() == 3
    if is_flat:
        x = _heads(x, call.get("num_heads"))
    if places is not None:
        cosines, sines = cosines[places.long()], sines[places.long()]
    cosines, sines = cosines.unsqueeze(1), sines.unsqueeze(1)
    width = call.get("rotary_embedding_dim", 0) or x.shape[-1]
    turned, rest = x[..., :width], x[..., width:]
    if call.get("interleaved", 0):
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = turned.chunk(2, -1)
    pair = [cosines * first - sines * second, sines * first + cosines * second]
    is_woven = bool(call.get("interleaved", 0))
    made = torch.stack(pair, -1).flatten(-2) if is_woven else torch.cat(pair, -1)
    whole = made if width == x.shape[-1] else torch.cat([made, rest], -1)
    return _flat(whole) if is_flat else whole
