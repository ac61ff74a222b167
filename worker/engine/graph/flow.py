"""Where channels come from, and who reads them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from worker.engine.arguments import constants
from worker.engine.graph.coupling import Coupling, Line
from worker.engine.program import attribute

aten = torch.ops.aten
_SHOWS = frozenset(
    {
        aten.alias.default,
        aten.clone.default,
        aten.contiguous.default,
        aten.detach.default,
        aten.expand.default,
        aten.mT.default,
        aten.movedim.int,
        aten.numpy_T.default,
        aten.permute.default,
        aten.reshape.default,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.swapaxes.default,
        aten.t.default,
        aten.to.dtype,
        aten.transpose.int,
        aten.unsqueeze.default,
        aten.view.default,
    }
)
"""Operators whose result has the numbers of their first argument, in whatever order."""


@dataclass(frozen=True)
class Place:
    """A dimension of a node's tensor, and the channel that each of its indices belongs to.

    ``counts`` are those of its indices that matter: bool, of the dimension's size.
    """

    node: Node
    dim: int
    line: Line
    counts: Tensor


@dataclass(frozen=True)
class Read:
    """A call that reads channels which its result has no longer: it mixes them.

    ``weights`` are the constant operands that hold the same channels: what they are multiplied
    with. A call that mixes without weights, such as a mean, has none.
    """

    node: Node
    source: Place
    weights: tuple[Place, ...]


@dataclass(frozen=True)
class Make:
    """A call whose result has channels that no activation it reads has: its weight makes them."""

    node: Node
    weight: Place


class Flow:
    """The reads and makes of a program, in its order."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self.constants = constants(coupling.program.graph)
        self._from_data = _from_data(coupling.program.graph)
        self._values: dict[Node, Any] = {}

    @cached_property
    def reads(self) -> list[Read]:
        return [read for node in self._calls() for read in self._reads_of(node)]

    @cached_property
    def makes(self) -> list[Make]:
        return [make for node in self._calls() for make in self._makes_of(node)]

    def value(self, node: Node) -> Tensor:
        """What a constant node holds. Read, never written."""
        found = self._evaluated(node)
        assert isinstance(found, Tensor)
        return found.detach()

    def _evaluated(self, node: Node) -> Any:
        """What a constant node makes: a tensor, or a list of them."""
        if node not in self._values:
            if node.op == "get_attr":
                self._values[node] = attribute(self.coupling.program.module, str(node.target))
            else:
                args, kwargs = torch.fx.map_arg((node.args, node.kwargs), self._evaluated)
                assert callable(node.target)
                self._values[node] = node.target(*args, **kwargs)
        return self._values[node]

    def parameter_of(self, place: Place) -> str | None:
        """The parameter that a constant shows with its indices in order, by name.

        Through views and permutations alone, so that what is added to the parameter is added to
        what is read.
        """
        node = place.node
        while node.op != "get_attr":
            if node.target not in _SHOWS:
                return None
            node = node.all_input_nodes[0]
        name = str(node.target)
        _, lines = self.coupling.parameter_lines.get(name, ((), ()))
        held = [dim for dim, line in lines if line.number == place.line.number]
        return name if len(held) == 1 else None

    def _calls(self) -> Iterator[Node]:
        for node in self.coupling.program.graph.nodes:
            is_call = node.op == "call_function" and node in self.coupling.node_lines
            if is_call and node not in self.constants:
                yield node

    def _places(self, node: Node) -> Iterator[tuple[int, Line]]:
        """The dimensions of a single tensor that have channels."""
        tensors = self.coupling.node_lines.get(node, [])
        if len(tensors) == 1:
            yield from tensors[0][1]

    def _made(self, node: Node) -> list[Line]:
        return [line for _, lines in self.coupling.node_lines[node] for _, line in lines]

    def _has(self, lines: Sequence[Line]) -> Tensor:
        """Which channels are in any of these lines: bool, ``(count + 1,)``, False for the fixed."""
        has = torch.zeros(self.coupling.channel_count + 1, dtype=torch.bool)
        for line in lines:
            has[line.channels] = True
        has[-1] = False
        return has

    def _reads_of(self, node: Node) -> Iterator[Read]:
        made = self._made(node)
        numbers = {line.number for line in made}
        for source in node.all_input_nodes:
            if source not in self._from_data:
                continue
            for dim, line in self._places(source):
                if line.number in numbers:
                    continue
                gone = (line.channels >= 0) & ~self._has(made)[line.channels]
                if bool(gone.any()):
                    place = Place(source, dim, line, gone)
                    yield Read(node, place, tuple(self._weights_with(node, place)))

    def _weights_with(self, node: Node, read: Place) -> Iterator[Place]:
        wanted = torch.zeros(self.coupling.channel_count + 1, dtype=torch.bool)
        wanted[read.line.channels[read.counts]] = True
        for operand in node.all_input_nodes:
            if operand in self.constants:
                for dim, line in self._places(operand):
                    counts = wanted[line.channels] & (line.channels >= 0)
                    if bool(counts.any()):
                        yield Place(operand, dim, line, counts)

    def _makes_of(self, node: Node) -> Iterator[Make]:
        made = self._made(node)
        if not made:
            return
        read = [
            line
            for source in node.all_input_nodes
            if source in self._from_data
            for _, lines in self.coupling.node_lines.get(source, [])
            for _, line in lines
        ]
        numbers = {line.number for line in read}
        for operand in node.all_input_nodes:
            if operand not in self.constants:
                continue
            for dim, line in self._places(operand):
                if line.number in numbers:
                    continue
                new = (self._has(made) & ~self._has(read))[line.channels] & (line.channels >= 0)
                if bool(new.any()):
                    yield Make(node, Place(operand, dim, line, new))


def _from_data(graph: Graph) -> set[Node]:
    """The tensors that depend on what the inputs hold, and not on their shapes alone.

    The first state of a recurrent network does not.
    """
    found: set[Node] = set()
    for node in graph.nodes:
        is_fed = node.op == "placeholder" or bool(found.intersection(node.all_input_nodes))
        if is_fed and isinstance(node.meta.get("val"), Tensor | list | tuple):
            found.add(node)
    return found
