"""Elementwise operators: what is in the same place, after broadcasting, is one."""

from typing import Any

import torch

from worker.engine.graph.labels import Value
from worker.engine.graph.registry import Call, rule

aten = torch.ops.aten


def is_pointwise(operator: Any) -> bool:
    """Whether ATen itself declares the operator elementwise, in-place forms included."""
    return torch.Tag.pointwise in getattr(operator, "tags", ())


# These act on each element alone, and ATen does not tag them.
@rule(
    aten.__and__.Tensor,
    aten.__or__.Tensor,
    aten.alias.default,
    aten.alpha_dropout.default,
    aten.complex.default,
    aten.contiguous.default,
    aten.copy_.default,
    aten.detach.default,
    aten.detach_.default,
    aten.dropout.default,
    aten.dropout_.default,
    aten.empty_like.default,
    aten.expand_as.default,
    aten.feature_dropout.default,
    aten.fill_.Scalar,
    aten.fill_.Tensor,
    aten.floor_divide.default,
    aten.full_like.default,
    aten.hardswish.default,
    aten.hardswish_.default,
    aten.imag.default,
    aten.lift_fresh_copy.default,
    aten.masked_fill_.Scalar,
    aten.masked_fill_.Tensor,
    aten.ones_like.default,
    aten.polar.default,
    aten.real.default,
    aten.to.device,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.type_as.default,
    aten.where.Scalar,
    aten.where.ScalarOther,
    aten.where.ScalarSelf,
    aten.zero_.default,
    aten.zeros_like.default,
)
def pointwise(call: Call) -> Value:
    """Couple any number of operands of any broadcastable shapes."""
    return call.coupler.broadcast(*call.tensors(), output=call.output)


@rule(aten.prelu.default)
def prelu(call: Call) -> Value:
    """Couple ``prelu(x, weight)``: one slope for each channel, or one for all."""
    source, weight = call.value("self"), call.value("weight")
    if weight.shape == (1,) or not weight.shape or len(source.shape) < 2:
        return call.coupler.broadcast(source, output=call.output)
    stars = " *" * (len(source.shape) - 2)
    return call.coupler.equate(f"n c{stars}, c -> n c{stars}", source, weight, output=call.output)


@rule(aten.glu.default)
def glu(call: Call) -> Value:
    """Couple ``glu(x, dim)``: the first half of ``dim`` is gated by the second."""
    source, dim = call.value("self"), call.argument("dim")
    (first,) = call.labels.moved(source, lambda labels: labels.chunk(2, dim)[0])
    (second,) = call.labels.moved(source, lambda labels: labels.chunk(2, dim)[1])
    return call.coupler.broadcast(first, second, output=call.output)


@rule(aten._assert_scalar.default, aten._assert_tensor_metadata.default)
def assertion(call: Call) -> Value:
    """Couple nothing: an assertion reads and makes nothing."""
    return call.tensors()[0]
