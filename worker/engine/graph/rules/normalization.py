"""Normalizations: over the batch, over features, over groups of channels."""

import torch

from worker.engine.arguments import argument, has_argument, set_argument
from worker.engine.graph.labels import Value
from worker.engine.graph.registry import Call, Resizing, resize, rule

aten = torch.ops.aten


@rule(aten.batch_norm.default, aten.instance_norm.default)
def batch_norm(call: Call) -> Value:
    """Couple a norm of each channel, by its running statistics or by those of what it reads.

    A standardized weight is a batch norm over the weight that trains for ever: its statistics run
    over input channels too, and over those that are left once some are gone.
    """
    source = call.value("input")
    running = [v for name in ("running_mean", "running_var") for v in call.optional(name)]
    vectors = [v for name in ("weight", "bias") for v in call.optional(name)] + running
    space = " ".join(f"s{at}" for at in range(len(source.shape) - 2))
    is_batch = call.node.target == aten.batch_norm.default
    if not is_batch or not running or call.argument("training"):
        call.normalizes("input", [0] * is_batch + [*range(2, len(source.shape))])
    equation = f"n c {space}{', c' * len(vectors)} -> n c {space}"
    return call.coupler.equate(equation, source, *vectors, output=call.output)


@rule(aten._weight_norm.default)
def weight_norm(call: Call) -> Value:
    """Couple ``_weight_norm(v, g, dim)``: all dimensions but one make one number of length ``g``.

    The length is taken over the inputs that are left once some are gone.
    """
    direction = call.value("v")
    rank = len(direction.shape)
    call.normalizes("v", [dim for dim in range(rank) if dim != call.argument("dim") % rank])
    return call.coupler.broadcast(direction, call.value("g"), output=call.output)


@rule(aten.layer_norm.default, aten.rms_norm.default)
def layer_norm(call: Call) -> Value:
    """Couple ``layer_norm``: weight and bias go with the features that are normalized.

    Statistics run over the features, so a pruned one changes the others: exact by no means, and
    the verification says so.
    """
    rank = len(call.argument("normalized_shape"))
    features = " ".join(f"c{at}" for at in range(rank))
    vectors = [
        value
        for name in ("weight", "bias")
        if has_argument(call.node, name)
        for value in call.optional(name)
    ]
    call.normalizes("input", range(-rank, 0))
    equation = f"... {features}{f', {features}' * len(vectors)} -> ... {features}"
    return call.coupler.equate(equation, call.value("input"), *vectors, output=call.output)


@resize(aten.layer_norm.default, aten.rms_norm.default)
def fewer_features(resizing: Resizing) -> None:
    """Write the new normalized shape."""
    node = resizing.node
    written = argument(node, "normalized_shape")
    source = argument(node, "input")
    rank = len(written)
    new = resizing.sized(written, resizing.after[source][-rank:], resizing.before[source][-rank:])
    set_argument(node, "normalized_shape", new)


@rule(aten.group_norm.default)
def group_norm(call: Call) -> Value:
    """Couple ``group_norm``: a group of channels shares its statistics, so it goes whole.

    A single group is a layer norm over channels and space: its statistics are of what is left.
    """
    source = call.value("input")
    vectors = [value for name in ("weight", "bias") for value in call.optional(name)]
    if call.argument("num_groups") == 1:
        call.normalizes("input", range(1, len(source.shape)))
        space = " ".join(f"s{at}" for at in range(len(source.shape) - 2))
        equation = f"n c {space}{', c' * len(vectors)} -> n c {space}"
        return call.coupler.equate(equation, source, *vectors, output=call.output)
    stars = " *" * (len(source.shape) - 2)
    equation = f"n (g c){stars}{', (g c)' * len(vectors)} -> n (g c){stars}"
    groups = call.argument("num_groups")
    return call.coupler.equate(
        equation,
        source,
        *vectors,
        output=call.output,
        sizes={"g": groups, "c": source.shape[1] // groups},
        whole=("c",),
    )


@resize(aten.group_norm.default)
def fewer_groups(resizing: Resizing) -> None:
    """Groups go whole, so their number shrinks as the channels do; a single one stays."""
    node = resizing.node
    source, groups = argument(node, "input"), argument(node, "num_groups")
    old, new = resizing.before[source][1], resizing.after[source][1]
    if old != new and groups > 1:
        set_argument(node, "num_groups", groups * new // old)
