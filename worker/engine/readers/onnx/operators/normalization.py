"""Normalizations."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (as everywhere in PyTorch)
from torch import Tensor

from worker.engine.readers.onnx.registry import Call, Unmet, operator


@operator("BatchNormalization")
def batch_norm(
    call: Call, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor | list[Tensor]:
    """Normalize by what the model has seen, or, in training mode, by what it reads.

    A model in evaluation mode may have one of the latter, over a weight that it standardizes.
    """
    if not call.get("spatial", 1):
        raise Unmet("it normalizes each place of space by itself")
    epsilon = call.get("epsilon", 1e-5)
    if call.get("training_mode", 0):
        made = F.batch_norm(x, None, None, weight, bias, training=True, eps=epsilon)
        return [made, *_seen(call, x, mean, variance)] if call.is_read(1) else made
    if x.dim() == 1 or not set(call.node.input[3:5]) <= call.buffers:
        # PyTorch's own is not differentiable in statistics that the model computes.
        view = [1, -1] + [1] * (x.dim() - 2) if x.dim() > 1 else [-1]
        mean, variance, weight, bias = (
            vector.reshape(view) for vector in (mean, variance, weight, bias)
        )
        return (x - mean) * torch.rsqrt(variance + epsilon) * weight + bias
    return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=epsilon)


def _seen(call: Call, x: Tensor, mean: Tensor, variance: Tensor) -> list[Tensor]:
    """The statistics after a step of training."""
    kept = call.get("momentum", 0.9)
    dims = [0, *range(2, x.dim())]
    own = [x.mean(dims), x.var(dims, correction=0)]
    return [old * kept + new * (1 - kept) for old, new in zip([mean, variance], own, strict=True)]


@operator("InstanceNormalization")
def instance_norm(call: Call, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Normalize each channel of each row by itself."""
    return F.instance_norm(x, weight=weight, bias=bias, eps=call.get("epsilon", 1e-5))


@operator("GroupNormalization")
def group_norm(call: Call, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute ``group_norm``; before opset 21 a group shared one scale and one bias."""
    groups = call.get("num_groups")
    if call.opset < 21:
        width = x.shape[1] // groups
        weight, bias = (each.repeat_interleave(width) for each in (weight, bias))
    return F.group_norm(x, groups, weight, bias, call.get("epsilon", 1e-5))


@operator("LayerNormalization")
def layer_norm(
    call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor | list[Any]:
    """Compute ``layer_norm``, and the statistics where they are read."""
    axis = call.get("axis", -1) % x.dim()
    epsilon = call.get("epsilon", 1e-5)
    shape = x.shape[axis:]
    if weight.shape == shape and (bias is None or bias.shape == shape):
        result = F.layer_norm(x, shape, weight, bias, epsilon)
    else:
        result = F.layer_norm(x, shape, None, None, epsilon) * weight
        result = result if bias is None else result + bias
    if not (call.is_read(1) or call.is_read(2)):
        return result
    dims = list(range(axis, x.dim()))
    mean = x.mean(dims, keepdim=True)
    variance = (x - mean).square().mean(dims, keepdim=True)
    return [result, mean, torch.rsqrt(variance + epsilon)]


@operator("RMSNormalization")
def rms_norm(call: Call, x: Tensor, weight: Tensor) -> Tensor:
    """Compute ``rms_norm``."""
    axis = call.get("axis", -1) % x.dim()
    shape = list(x.shape[axis:])
    epsilon = call.get("epsilon", 1e-5)
    if list(weight.shape) == shape:
        return F.rms_norm(x, shape, weight, epsilon)
    return F.rms_norm(x, shape, None, epsilon) * weight


@operator("SimplifiedLayerNormalization")
def simplified_layer_norm(call: Call, x: Tensor, weight: Tensor) -> Tensor:
    """Compute ``rms_norm``, as ONNX Runtime calls it."""
    return rms_norm(call, x, weight)


@operator("com.microsoft::SkipLayerNormalization")
def skip_layer_norm(
    call: Call,
    x: Tensor,
    skip: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    added: Tensor | None = None,
) -> list[Any]:
    """Compute ``layer_norm`` of a sum, and give the sum."""
    total = x + skip if added is None else x + skip + added
    epsilon = call.get("epsilon", 1e-5)
    return [F.layer_norm(total, total.shape[-1:], weight, bias, epsilon), None, None, total]


@operator("com.microsoft::SkipSimplifiedLayerNormalization")
def skip_rms_norm(
    call: Call, x: Tensor, skip: Tensor, weight: Tensor, added: Tensor | None = None
) -> list[Any]:
    """Compute ``rms_norm`` of a sum, and give the sum."""
    total = x + skip if added is None else x + skip + added
    epsilon = call.get("epsilon", 1e-5)
    return [F.rms_norm(total, total.shape[-1:], weight, epsilon), None, None, total]


@operator("LpNormalization")
def lp_normalization(call: Call, x: Tensor) -> Tensor:
    """Divide by the norm along an axis; what has none stays zero."""
    axis, order = call.get("axis", -1), call.get("p", 2)
    norm = torch.linalg.vector_norm(x, order, dim=axis, keepdim=True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


@operator("MeanVarianceNormalization")
def mean_variance_normalization(call: Call, x: Tensor) -> Tensor:
    """Subtract the mean and divide by the deviation, over some axes."""
    axes = list(call.get("axes", [0, 2, 3]))
    mean = x.mean(axes, keepdim=True)
    deviation = ((x * x).mean(axes, keepdim=True) - mean * mean).sqrt()
    return (x - mean) / (deviation + 1e-9)


@operator("LRN")
def local_response_norm(call: Call, x: Tensor) -> Tensor:
    """Divide by the sum of squares over neighboring channels."""
    size = call.get("size")
    before = (size - 1) // 2
    squares = F.pad(x.square().movedim(1, -1), [before, size - 1 - before])
    sums = squares.unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    base = call.get("bias", 1.0) + call.get("alpha", 1e-4) / size * sums
    return x / base.pow(call.get("beta", 0.75))


def _along_axis(call: Call, x: Tensor, compute: Any) -> Tensor:
    """Along one axis; before opset 13, along all from there on."""
    if call.opset >= 13:
        return compute(x, call.get("axis", -1))
    axis = call.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    if axis == x.dim() - 1:
        return compute(x, -1)
    return compute(x.flatten(axis), -1).reshape(x.shape)


@operator("Softmax")
def softmax(call: Call, x: Tensor) -> Tensor:
    """Compute ``softmax``."""
    return _along_axis(call, x, torch.softmax)


@operator("LogSoftmax")
def log_softmax(call: Call, x: Tensor) -> Tensor:
    """Compute ``log_softmax``."""
    return _along_axis(call, x, torch.log_softmax)


@operator("Hardmax")
def hardmax(call: Call, x: Tensor) -> Tensor:
    """Give one at the first of the largest, and zero elsewhere."""

    def compute(values: Tensor, axis: int) -> Tensor:
        places = values.argmax(axis, keepdim=True)
        return torch.zeros_like(values).scatter(axis, places, 1.0)

    return _along_axis(call, x, compute)
