"""In which type each operator computes: by what it does, not by where it stands."""

import operator
from enum import Enum
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Node

from worker.engine.arguments import shares_memory, written_by
from worker.engine.graph.counts import MACS

aten = torch.ops.aten


class Kind(Enum):
    """How an operator takes a type of fewer bits.

    * ``PRODUCT``: multiplies and sums; it is what few bits make fast.
    * ``ELEMENTWISE``: each number comes from few others; few bits do it no harm.
    * ``MOVEMENT``: moves numbers and computes nothing; it takes whatever type they have.
    * ``WIDE``: needs float32: sums of many numbers, powers, and all that is not known.
    """

    PRODUCT = "product"
    ELEMENTWISE = "elementwise"
    MOVEMENT = "movement"
    WIDE = "wide"


def _packets(names: str) -> frozenset[Any]:
    return frozenset(getattr(aten, name) for name in names.split())


_CONVERSIONS = _packets("to type_as _to_copy")
"""Change a type, and nothing else, unless it is a device."""

_MOVEMENTS = _packets(
    "clone dropout feature_dropout alpha_dropout feature_alpha_dropout repeat repeat_interleave "
    "index_select index gather flip roll rot90 pad constant_pad_nd reflection_pad1d "
    "reflection_pad2d replication_pad1d replication_pad2d tril triu im2col channel_shuffle "
    "pixel_shuffle pixel_unshuffle tile take_along_dim"
)

_SENSITIVE = _packets(
    "exp exp2 expm1 log log2 log10 log1p pow rsqrt sqrt reciprocal sin cos tan asin acos atan "
    "atan2 sinh cosh asinh acosh atanh lgamma digamma erfinv logaddexp logaddexp2 xlogy logit "
    "softplus square fmod remainder cumsum cumprod view_as_complex view_as_real"
)
"""Elementwise, as torch marks them, and yet of a range or slope that few bits do not hold."""

_LIKE_ELEMENTWISE = _packets(
    "hardswish hardswish_ prelu glu copy copy_ fill fill_ cat concat stack hstack vstack "
    "embedding embedding_bag max_pool1d max_pool2d max_pool3d max_pool2d_with_indices "
    "max_pool3d_with_indices adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
    "avg_pool1d avg_pool2d avg_pool3d upsample_nearest1d upsample_nearest2d upsample_nearest3d "
    "upsample_bilinear2d upsample_linear1d upsample_bicubic2d amax amin max min argmax argmin topk "
    "sort scatter index_put index_put_ slice_scatter select_scatter masked_scatter zero_ "
    "zeros_like ones_like full_like new_zeros new_ones new_full"
)
"""Not marked so by torch, and each number of them comes from few others all the same."""

_STATISTICS = _packets("mean var std rsqrt sqrt norm linalg_vector_norm")
"""One number of many, by which they are normalized."""

_BOUNDED = _packets("sigmoid tanh hardtanh hardsigmoid clamp relu6")
"""Whose values are within a range, whatever they read."""


def packet_of(node: Node) -> Any:
    """The operator that a node calls, whichever of its overloads; None if it is not one of ATen."""
    return node.target.overloadpacket if isinstance(node.target, OpOverload) else None


def kind_of(node: Node) -> Kind:
    """The kind of a call. What is in no table needs float32: that is safe."""
    packet = packet_of(node)
    if node.target in MACS or packet is aten.convolution:
        return Kind.PRODUCT
    if node.target is operator.getitem or packet in _MOVEMENTS:
        return Kind.MOVEMENT
    if packet is None or packet in _SENSITIVE or node.target == aten.view.dtype:
        return Kind.WIDE
    if packet in _LIKE_ELEMENTWISE:
        return Kind.ELEMENTWISE
    if shares_memory(node) and not written_by(node):
        return Kind.MOVEMENT
    assert isinstance(node.target, OpOverload)
    return Kind.ELEMENTWISE if torch.Tag.pointwise in node.target.tags else Kind.WIDE


def is_conversion(node: Node) -> bool:
    return packet_of(node) in _CONVERSIONS


def is_bounded(node: Node) -> bool:
    return packet_of(node) in _BOUNDED


def is_statistic(node: Node) -> bool:
    return packet_of(node) in _STATISTICS


def float32_in(node: Node) -> bool:
    """Whether a node makes float32: a tensor, or several of them."""
    made = node.meta.get("val")
    many = made if isinstance(made, list | tuple) else [made]
    return any(isinstance(each, torch.Tensor) and each.dtype == torch.float32 for each in many)


def floats_read(node: Node) -> list[Node]:
    """The nodes among what a node reads that make float32."""
    return [each for each in node.all_input_nodes if float32_in(each)]


def is_attention(node: Node) -> bool:
    return bool(node.target == aten.scaled_dot_product_attention.default)
