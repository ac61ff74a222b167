"""Look-ups by computed or constant places."""

import torch
from torch import Tensor
from torch.fx import Node

from worker.engine.arguments import argument
from worker.engine.graph.labels import Value
from worker.engine.graph.registry import Call, Resizing, resize, rule
from worker.engine.program import attribute

aten = torch.ops.aten

LOOKUPS = (aten.index.Tensor, aten.index_select.default)
PASSING = (
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.detach_.default,
    aten.lift_fresh_copy.default,
    aten.to.device,
    aten.to.dtype,
    aten.to.dtype_layout,
)
"""They give the places that they read."""


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
    return _looked_up(call, _indices(call.node))


@rule(aten.index.Tensor)
def indexed(call: Call) -> Value:
    """Couple ``self[indices]``: what is looked up stays, unless one constant says what is read."""
    return _looked_up(call, _indices(call.node))


def _indices(node: Node) -> dict[int, Node]:
    """What a look-up reads places from, by dimension."""
    if node.target == aten.index_select.default:
        rank = len(argument(node, "self").meta["val"].shape)
        return {argument(node, "dim") % rank: argument(node, "index")}
    return {at: index for at, index in enumerate(argument(node, "indices")) if index is not None}


def _looked_up(call: Call, indices: dict[int, Node]) -> Value:
    source = call.value("self")
    (first, *others) = indices
    places = None if others else _constant(call, indices[first])
    if places is None:
        return _anything_looked_up(call, source, indices)
    places = places % source.shape[first]
    planes = [
        plane.index_select(first, places) if plane.shape[first] > 1 else plane
        for plane in source.planes
    ]
    shape = [len(places) if at == first else size for at, size in enumerate(source.shape)]
    moved = call.labels.settled(shape, planes)
    own = call.of(indices[first])
    line = [len(places) if at == first else 1 for at in range(len(moved.shape))]
    read = Value(tuple(line), tuple(plane.reshape(line) for plane in own.planes))
    return call.coupler.broadcast(moved, read, output=call.output)


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


def _constant(call: Call, index: Node) -> Tensor | None:
    """Places that stand in the file, a list that look-ups alone read; or None."""
    origin = _origin(index)
    if origin.op != "get_attr":
        return None
    places = attribute(call.program.module, str(origin.target))
    if not isinstance(places, Tensor) or places.dim() != 1:
        return None
    if places.dtype == torch.bool or not _rewritten_as_one(call, _readers(origin)):
        return None
    return places.detach().cpu()


def _rewritten_as_one(call: Call, readers: list[Node]) -> bool:
    """Let all that look up the same places lose the same of what they look through."""
    if len(readers) == 1:
        return True
    if any(reader.target not in LOOKUPS or len(_indices(reader)) > 1 for reader in readers):
        return False
    sources = [(argument(reader, "self"), *_indices(reader)) for reader in readers]
    if len({call.program.shape(source)[dim] for source, dim in sources}) > 1:
        return False
    lines = [_line(call, call.of(source), dim) for source, dim in sources if source in call.values]
    call.coupler.broadcast(*lines, output=lines[0].shape)
    return True


def _line(call: Call, value: Value, dim: int) -> Value:
    """One dimension of a value; fixed where it is not for itself."""
    vector = value.vector(dim)
    if vector is not None:
        return Value((value.shape[dim],), (vector,))
    for plane in value.along(dim):
        call.labels.fix(plane)
    return Value((value.shape[dim],))


def _origin(index: Node) -> Node:
    """What the file holds, behind copies and conversions of it."""
    while index.target in PASSING:
        index = index.all_input_nodes[0]
    return index


def _readers(node: Node) -> list[Node]:
    """The calls that read a node, or a copy of it, to make something of its values."""
    found = []
    for user in node.users:
        if user.target in PASSING:
            found += _readers(user)
        elif user.target != aten._assert_tensor_metadata.default:
            found.append(user)
    return found


@resize(*LOOKUPS)
def resized_index(resizing: Resizing) -> None:
    """Write down where each place has moved to; places that are gone leave with their slice."""
    node = resizing.node
    source = argument(node, "self")
    (dim, index), *others = _indices(node).items()
    size = resizing.before[source][dim]
    if others or size == resizing.after[source][dim]:
        return
    name = str(_origin(index).target)
    places = attribute(resizing.module, name)
    assert isinstance(places, Tensor)
    moved = [resizing.kept_before(source, dim, place % size) for place in places.tolist()]
    resizing.constants[name] = places.new_tensor(moved)
