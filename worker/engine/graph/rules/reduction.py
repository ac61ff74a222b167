"""Reductions over dimensions."""

import torch

from worker.engine.graph.arguments import argument, has_argument
from worker.engine.graph.labels import Value
from worker.engine.graph.registry import Call, Refusal, rule

aten = torch.ops.aten


def _reduce(call: Call, *, exact: bool) -> Value:
    """Couple a reduction. Only a sum stays the same when silenced channels leave it."""
    source = call.value("self")
    rank = len(source.shape)
    dims = call.argument("dim") if has_argument(call.node, "dim") else None
    if dims is None:
        raise Refusal("a reduction over all dimensions")
    dims = {dim % rank for dim in ([dims] if isinstance(dims, int) else dims)} or set(range(rank))
    keeps = has_argument(call.node, "keepdim") and argument(call.node, "keepdim")
    before = [f"d{at}" for at in range(rank)]
    after = [name if at not in dims else "*" for at, name in enumerate(before)]
    if not keeps:
        after = [name for at, name in enumerate(before) if at not in dims]
    return call.coupler.equate(
        f"{' '.join(before)} -> {' '.join(after)}",
        source,
        output=call.output,
        fixed=() if exact else tuple(before[dim] for dim in dims),
    )


@rule(aten.sum.dim_IntList)
def total(call: Call) -> Value:
    """Couple a sum: a silenced channel adds nothing, so it may leave."""
    return _reduce(call, exact=True)


@rule(aten.mean.dim, aten.amax.default, aten.amin.default, aten.var.correction, aten.prod.dim_int)
def other(call: Call) -> Value:
    """Couple a reduction that a silenced channel would still take part in."""
    return _reduce(call, exact=False)
