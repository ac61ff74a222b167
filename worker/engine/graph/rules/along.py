"""Operators that work along some dimensions and leave the others alone: sums, scans, sorts."""

from collections.abc import Sequence

import torch

from worker.engine.arguments import argument, has_argument
from worker.engine.graph.labels import Value
from worker.engine.graph.registry import Call, Refusal, rule

aten = torch.ops.aten


def _along(
    call: Call, dims: Sequence[int], *, keeps: bool = True, fixed: bool = True, windows: int = 0
) -> Value:
    """Couple what passes by: the dimensions that the operator does not work along.

    Args:
        call: Its first operand is worked on.
        dims: Worked along.
        keeps: Whether these are in the result, of whatever size.
        fixed: Whether these keep all their indices.
        windows: How many dimensions the result has more, at the end.
    """
    source = call.of(call.node.all_input_nodes[0])
    rank = len(source.shape)
    worked = {dim % rank for dim in dims} if rank else set()
    before = [f"d{at}" for at in range(rank)]
    after = [f"o{at}" if at in worked else name for at, name in enumerate(before)]
    if not keeps:
        after = [name for at, name in enumerate(before) if at not in worked]
    after += [f"w{at}" for at in range(windows)]
    return call.coupler.equate(
        f"{' '.join(before)} -> {' '.join(after)}",
        source,
        output=call.first_output,
        fixed=[before[at] for at in worked] if fixed else (),
    )


def _reduce(call: Call, *, fixed: bool) -> Value:
    keeps = has_argument(call.node, "keepdim") and argument(call.node, "keepdim")
    return _along(call, _reduced(call), keeps=keeps, fixed=fixed)


def _reduced(call: Call) -> Sequence[int]:
    """The dimensions that a reduction runs over; all of them where none is named."""
    named = call.argument("dim") if has_argument(call.node, "dim") else None
    dims = [named] if isinstance(named, int) else named
    return dims or range(len(call.value("self").shape))


@rule(aten.sum.default, aten.sum.dim_IntList)
def total(call: Call) -> Value:
    """Couple a sum: a silenced channel adds nothing, so it may leave."""
    return _reduce(call, fixed=False)


@rule(aten.linalg_vector_norm.default)
def vector_norm(call: Call) -> Value:
    """Couple a norm: where its order is positive, a silenced channel adds nothing."""
    if call.argument("ord") <= 0:
        raise Refusal("a norm whose order is not positive")
    return _reduce(call, fixed=False)


@rule(
    aten.mean.default,
    aten.mean.dim,
    aten.std.correction,
    aten.std.default,
    aten.std.dim,
    aten.var.correction,
    aten.var.default,
    aten.var.dim,
)
def statistic(call: Call) -> Value:
    """Couple an average: it is taken over what is left, as a normalization's is."""
    return _statistic(call)


def _statistic(call: Call) -> Value:
    call.normalizes("self", _reduced(call))
    return _reduce(call, fixed=False)


@rule(
    aten.std_mean.correction,
    aten.std_mean.default,
    aten.std_mean.dim,
    aten.var_mean.correction,
    aten.var_mean.default,
    aten.var_mean.dim,
)
def statistics(call: Call) -> list[Value]:
    """Couple two averages over the same dimensions."""
    value = _statistic(call)
    return [value, value]


@rule(aten.amax.default, aten.amin.default, aten.max.default, aten.min.default)
def extreme(call: Call) -> Value:
    """Couple an extreme value: it is that of what is left, as an average is."""
    return _statistic(call)


@rule(aten.max.dim, aten.min.dim)
def extreme_and_place(call: Call) -> list[Value]:
    """Couple an extreme value, and where it was found: where that is read, all places stay."""
    places_read = any(user.args[1] == 1 and user.users for user in call.node.users)
    value = _reduce(call, fixed=True) if places_read else _statistic(call)
    return [value, value]


@rule(
    aten.all.dim,
    aten.any.dim,
    aten.argmax.default,
    aten.argmin.default,
    aten.logsumexp.default,
    aten.prod.dim_int,
)
def reduction(call: Call) -> Value:
    """Couple a reduction in which a silenced channel would still take part: it keeps them all."""
    return _reduce(call, fixed=True)


@rule(
    aten.cumprod.default,
    aten.cumsum.default,
    aten.log_softmax.int,
    aten.softmax.int,
    aten._log_softmax.default,
    aten._softmax.default,
)
def mixed(call: Call) -> Value:
    """Couple an operator that mixes what lies along a dimension: that keeps its size."""
    return _along(call, [call.argument("dim")])


@rule(aten.sort.default, aten.topk.default)
def ordered(call: Call) -> list[Value]:
    """Couple a sorting: the values, and the places where they were."""
    value = _along(call, [call.argument("dim")])
    return [value, value]


@rule(aten.diff.default)
def differences(call: Call) -> Value:
    """Couple the differences of neighbors."""
    if argument(call.node, "prepend") is not None or argument(call.node, "append") is not None:
        raise Refusal("differences of several tensors put together")
    return _along(call, [call.argument("dim")])


@rule(aten.roll.default)
def rolled(call: Call) -> Value:
    """Couple a roll: what goes round a dimension keeps its places."""
    if not call.argument("dims"):
        raise Refusal("a roll over all dimensions at once")
    return _along(call, call.argument("dims"))


@rule(aten.unfold.default)
def windows(call: Call) -> Value:
    """Couple sliding windows over a dimension; what is in a window becomes the last one."""
    return _along(call, [call.argument("dimension")], windows=1)
