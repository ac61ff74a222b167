"""Look-ups by computed or constant places."""

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from worker.engine.graph.arguments import argument
from worker.engine.graph.labels import Value
from worker.engine.graph.registry import Call, Resizing, resize, rule
from worker.engine.program import attribute

aten = torch.ops.aten


@rule(aten.gather.default)
def gathered(call: Call) -> Value:
    """Couple ``gather(self, dim, index)``: places along ``dim`` stay, the others go together."""
    source, index = call.value("self"), call.value("index")
    dim = call.argument("dim") % max(len(source.shape), 1)
    names = [f"d{at}" for at in range(len(source.shape))]
    # Where the index is shorter, only the first places are read: these stay as they are.
    longer = [at for at, size in enumerate(index.shape) if size != source.shape[at]]
    own = [f"s{at}" if at == dim or at in longer else name for at, name in enumerate(names)]
    return call.coupler.equate(
        f"{' '.join(own)}, {' '.join(names)} -> {' '.join(names)}",
        source,
        index,
        output=call.output,
        fixed=[own[at] for at in {dim, *longer}],
    )


@rule(aten.index_select.default)
def selected(call: Call) -> Value:
    """Couple ``index_select(self, dim, index)``."""
    dim = call.argument("dim") % len(call.value("self").shape)
    return _looked_up(call, {dim: argument(call.node, "index")})


@rule(aten.index.Tensor)
def indexed(call: Call) -> Value:
    """Couple ``self[indices]``: what is looked up stays, unless one constant says what is read."""
    return _looked_up(call, _indices(call.node))


def _indices(node: Node) -> dict[int, Node]:
    return {at: index for at, index in enumerate(argument(node, "indices")) if index is not None}


def _looked_up(call: Call, indices: dict[int, Node]) -> Value:
    source = call.value("self")
    (first, *others) = indices
    places = _constant(call.program.module, indices[first])
    if not others and places is not None:
        moved = call.labels.moved(source, lambda labels: labels.index_select(first, places))[0]
        own = call.of(indices[first])
        line = [len(places) if at == first else 1 for at in range(len(moved.shape))]
        read = Value(tuple(line), tuple(plane.reshape(line) for plane in own.planes))
        return call.coupler.broadcast(moved, read, output=call.output)
    return _anything_looked_up(call, source, indices)


def _anything_looked_up(call: Call, source: Value, indices: dict[int, Node]) -> Value:
    """Places that the program computes: every one may be asked for."""
    wide = torch.broadcast_shapes(*(call.of(index).shape for index in indices.values()))  # type: ignore[no-untyped-call]
    names = [f"d{at}" for at in range(len(source.shape))]
    looked = [f"i{at}" for at in range(len(wide))]
    first, last = min(indices), max(indices)
    together = last - first + 1 == len(indices)
    rest = [name for at, name in enumerate(names) if at not in indices]
    place = first if together else 0
    output = rest[:place] + looked + rest[place:]
    operands = [call.of(index) for index in indices.values()]
    written = [" ".join(looked[len(wide) - len(o.shape) :]) for o in operands]
    return call.coupler.equate(
        f"{', '.join([' '.join(names), *written])} -> {' '.join(output)}",
        source,
        *operands,
        output=call.output,
        fixed=[names[at] for at in indices],
    )


def _constant(module: GraphModule, index: Node) -> Tensor | None:
    """Places that stand in the file, for this call alone: a list of several, or None."""
    if index.op != "get_attr" or len(index.users) > 1:
        return None
    places = attribute(module, str(index.target))
    if not isinstance(places, Tensor) or places.dim() != 1 or len(places) < 2:
        return None
    return None if places.dtype == torch.bool else places.detach().cpu()


@resize(aten.index.Tensor, aten.index_select.default)
def resized_index(resizing: Resizing) -> None:
    """Write down where each place has moved to; places that are gone leave with their slice."""
    node = resizing.node
    source = argument(node, "self")
    by_list = node.target == aten.index.Tensor
    indices = _indices(node) if by_list else {argument(node, "dim"): argument(node, "index")}
    (dim, index), *others = indices.items()
    size = resizing.before[source][dim]
    if others or size == resizing.after[source][dim]:
        return
    name = str(index.target)
    places = attribute(resizing.module, name)
    assert isinstance(places, Tensor)
    moved = [
        resizing.kept_before(source, dim % len(resizing.before[source]), place % size)
        for place in places.tolist()
    ]
    resizing.constants[name] = places.new_tensor(moved)
