"""Tensors made of one number: they are as wide as their users need."""

import torch
from torch.fx import Node

from worker.engine.arguments import argument, set_argument
from worker.engine.graph.labels import Value
from worker.engine.graph.registry import Call, Refusal, Resizing, resize, rule

aten = torch.ops.aten

FACTORIES = (
    aten.zeros.default,
    aten.ones.default,
    aten.full.default,
    aten.empty.memory_format,
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
)


@rule(*FACTORIES)
def constant(call: Call) -> Value:
    """Give each written size labels of its own; sizes that the graph computes are fixed."""
    written = argument(call.node, "size")
    free = [at for at, size in enumerate(written) if not isinstance(size, Node)]
    return call.labels.fresh(call.output, free)


@resize(*FACTORIES)
def smaller(resizing: Resizing) -> None:
    """Write the new sizes."""
    node = resizing.node
    new = resizing.sized(argument(node, "size"), resizing.after[node], resizing.before[node])
    set_argument(node, "size", new)


@rule(aten.sym_size.int)
def size_of(call: Call) -> Value:
    """Couple nothing: a size may be read, unless the dimension could lose channels."""
    source = call.value("self")
    if source.along(call.argument("dim")):
        raise Refusal("its size is used as a number")
    return source


@rule(aten.arange.default, aten.arange.start, aten.arange.start_step)
def counted(call: Call) -> Value:
    """Fix what is numbered: its place is its meaning."""
    return Value(call.output)
