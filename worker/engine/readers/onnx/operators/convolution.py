"""Convolutions."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (as everywhere in PyTorch)
from torch import Tensor

from worker.engine.readers.onnx.operators.windows import (
    are_same,
    extents,
    for_pad,
    pads,
    per_axis,
)
from worker.engine.readers.onnx.registry import Call, Unmet, operator

_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}
_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "Relu": lambda x, _: F.relu(x),
    "Tanh": lambda x, _: torch.tanh(x),
    "Sigmoid": lambda x, _: torch.sigmoid(x),
    "LeakyRelu": lambda x, p: F.leaky_relu(x, p[0]),
    "Clip": lambda x, p: x.clamp(p[0], p[1]),
}


@operator("Conv")
def conv(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``conv1d`` to ``conv3d``, over padded space where its sides get different pads."""
    rank = _rank(x, _CONV)
    stride, dilation = per_axis(call, "strides", rank), per_axis(call, "dilations", rank)
    extent = extents(weight.shape[2:], dilation)
    before, after = pads(call, x.shape[2:], extent, stride)
    if not are_same(before, after):
        x = F.pad(x, for_pad(before, after))
        before = [0] * rank
    groups = call.get("group", 1)
    return _CONV[rank](x, weight, bias, stride, before, dilation, groups)


@operator("com.microsoft::FusedConv")
def fused_conv(
    call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None, added: Tensor | None = None
) -> Tensor:
    """Compute a convolution, what is added to it, and an activation of both."""
    result = conv(call, x, weight, bias)
    result = result if added is None else result + added
    name = call.get("activation", "")
    if name and name not in _ACTIVATIONS:
        raise Unmet(f"its activation is {name!r}")
    return _ACTIVATIONS[name](result, call.get("activation_params", [])) if name else result


@operator("ConvTranspose")
def conv_transpose(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``conv_transpose1d`` to ``3d``; uneven pads are cut off its result."""
    rank = _rank(x, _TRANSPOSED)
    stride, dilation = per_axis(call, "strides", rank), per_axis(call, "dilations", rank)
    groups = call.get("group", 1)
    added = list(call.get("output_padding", [0] * rank))
    before, after = _cut_off(call, x, extents(weight.shape[2:], dilation), stride, added)
    # PyTorch adds at the end at most what a stride leaves undecided.
    is_little = all(a < max(s, d) for a, s, d in zip(added, stride, dilation, strict=True))
    if is_little and are_same(before, after) and all(n >= 0 for n in before):
        return _TRANSPOSED[rank](x, weight, bias, stride, before, added, groups, dilation)
    full = _TRANSPOSED[rank](x, weight, None, stride, 0, 0, groups, dilation)
    outward = [a - cut for a, cut in zip(added, after, strict=True)]
    full = F.pad(full, for_pad([-n for n in before], outward))
    return full if bias is None else full + bias.reshape(-1, *[1] * rank)


def _cut_off(
    call: Call, x: Tensor, extent: Sequence[int], stride: Sequence[int], added: Sequence[int]
) -> tuple[list[Any], list[Any]]:
    """What is cut off the full result, before and after each axis."""
    rank = len(extent)
    wanted = call.get("output_shape")
    mode = call.get("auto_pad", "NOTSET")
    sizes: Sequence[Any] = x.shape[2:]
    if wanted is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * step for size, step in zip(sizes, stride, strict=True)]
    if wanted is None:
        written = [0] * 2 * rank if mode == "VALID" else list(call.get("pads", [0] * 2 * rank))
        return written[:rank], written[rank:]
    before, after = [], []
    rows = zip(list(wanted)[-rank:], sizes, extent, stride, added, strict=True)
    for out, size, reach, step, more in rows:
        total = (size - 1) * step + more + reach - out
        if isinstance(total, int) and total < 0:
            # More than there is: what is added lies at the end.
            before.append(0)
            after.append(total)
            continue
        less = total // 2
        before.append(less if mode == "SAME_UPPER" else total - less)
        after.append(total - less if mode == "SAME_UPPER" else less)
    return before, after


def _rank(x: Tensor, functions: dict[int, Any]) -> int:
    rank = x.dim() - 2
    if rank not in functions:
        raise Unmet(f"it works on {rank} axes of space, not on 1 to 3")
    return rank


@operator("CausalConvWithState")
def causal_conv(
    call: Call,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    past: Tensor | None = None,
) -> list[Tensor]:
    """Convolve each channel over itself and what came before it, and give what comes next."""
    reach = weight.shape[-1] - 1
    whole = F.pad(x, [reach, 0]) if past is None else torch.cat([past, x], dim=-1)
    result = F.conv1d(whole, weight, bias, groups=weight.shape[0])
    activation = call.get("activation", "none")
    if activation not in ("none", "silu", "swish"):
        raise Unmet(f"its activation is {activation!r}")
    made = result if activation == "none" else F.silu(result)
    return [made, whole.narrow(-1, whole.shape[-1] - reach, reach)]
