"""Residual blocks: a branch whose result is added to what it read, and that can be left out."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch.fx import Graph, Node

from worker.engine.arguments import memory_of, written_by
from worker.engine.program import Program, tensor_value

aten = torch.ops.aten
ADDITIONS = (aten.add.Tensor, aten.add_.Tensor)


@dataclass(frozen=True)
class Block:
    """``sum = kept + branch``, where the nodes of ``body`` compute ``branch`` and nothing else.

    What two branches read belongs to neither, and goes with the last of them. ``parameters`` are
    those that the body reads, in that order; another block may read them too.
    """

    sum: Node
    kept: Node
    branch: Node
    body: frozenset[Node]
    parameters: tuple[str, ...]

    @property
    def name(self) -> str:
        """The module that holds its parameters, and the first and the last of them."""
        owners = [parameter.split(".")[:-1] for parameter in self.parameters]
        shared = [len(set(parts)) == 1 for parts in zip(*owners, strict=False)]
        depth = [*shared, False].index(False)
        common = owners[0][:depth]
        first, last = (".".join(owners[at][depth:]) for at in (0, -1))
        span = first if first == last or not last else f"{first or 'itself'} to {last}"
        return f"{'.'.join(common)} ({span})".lstrip() if span else ".".join(common)


def find_blocks(program: Program, *, exclude: frozenset[str] = frozenset()) -> tuple[Block, ...]:
    """The innermost residual blocks of a program, in its order.

    Args:
        program: Read, never written.
        exclude: Names of parameters that have to stay: their blocks do.
    """
    found: list[Block] = []
    ancestry = _Ancestry(program.graph)
    for node in program.graph.nodes:
        block = _block_at(program, node, ancestry)
        if block is None or exclude & set(block.parameters):
            continue
        if not any(inner.sum in block.body for inner in found):
            found.append(block)
    return tuple(found)


def unused_without(graph: Graph, gone: Iterable[Node]) -> set[Node]:
    """The nodes that nobody needs once these are gone, themselves included."""
    unused = set(gone)
    for node in reversed(graph.nodes):
        if node.op == "placeholder" or not node.users:
            continue
        if all(user in unused for user in node.users):
            unused.add(node)
    return unused


class _Ancestry:
    """Which nodes each node depends on, as bits of one number."""

    def __init__(self, graph: Graph) -> None:
        self.nodes = list(graph.nodes)
        self.place = {node: at for at, node in enumerate(self.nodes)}
        self.of: dict[Node, int] = {}
        for node in self.nodes:
            bits = 0
            for source in node.all_input_nodes:
                bits |= self.of[source] | (1 << self.place[source])
            self.of[node] = bits

    def depends(self, node: Node, on: Node) -> bool:
        return bool(self.of[node] >> self.place[on] & 1)

    def between(self, start: Node, end: Node) -> Iterator[Node]:
        """The nodes through which ``end`` depends on ``start``, ``end`` included."""
        for node in self.nodes[self.place[start] + 1 : self.place[end] + 1]:
            if self.depends(node, start) and (node is end or self.depends(end, node)):
                yield node


def _block_at(program: Program, node: Node, ancestry: _Ancestry) -> Block | None:
    """The block that ends with this addition."""
    operands = node.all_input_nodes
    if node.target not in ADDITIONS or len(operands) != 2 or node.kwargs.get("alpha", 1) != 1:
        return None
    if any(not _alike(program, operand, node) for operand in operands):
        return None
    for kept, branch in (operands, operands[::-1]):
        start = next((at for at in _trunk(kept) if ancestry.depends(branch, at)), None)
        if start is not None:
            body = _own(ancestry.between(start, branch), node)
            written = [tensor for inner in body for tensor in written_by(inner)]
            if branch in body and all(memory_of(tensor) in body for tensor in written):
                return _block(node, kept, branch, body)
    return None


def _alike(program: Program, one: Node, other: Node) -> bool:
    """Whether two nodes make tensors of one shape and dtype."""
    first, second = tensor_value(one), tensor_value(other)
    if first is None or second is None or first.dtype != second.dtype:
        return False
    return program.shape(one) == program.shape(other)


def _trunk(node: Node) -> Iterator[Node]:
    """A node, and what it was before branches were added to it: these may run in parallel."""
    waiting, seen = deque([node]), {node}
    while waiting:
        node = waiting.popleft()
        yield node
        if node.target in ADDITIONS:
            for source in node.all_input_nodes:
                if source not in seen:
                    seen.add(source)
                    waiting.append(source)


def _own(between: Iterable[Node], end: Node) -> frozenset[Node]:
    """What a branch alone needs: what another reads too, as a norm for two branches, is not its.

    With the assertions about it: they have no result.
    """
    own: set[Node] = set()
    for node in reversed(list(between)):
        checks = {user for user in node.users if not user.users and user.op != "output"}
        if all(user in own or user in checks or user is end for user in node.users):
            own |= {node, *checks}
    return frozenset(own)


def _block(end: Node, kept: Node, branch: Node, body: frozenset[Node]) -> Block | None:
    """The block, if it has weights: a part of a norm or of an activation has none."""
    behind = unused_without(end.graph, body) - body
    read = [
        source
        for node in end.graph.nodes
        if node in body or node in behind
        for source in node.all_input_nodes
        if source.op == "get_attr"
    ]
    if not any(_is_matrix(node) for node in read):
        return None
    names = dict.fromkeys(str(node.target) for node in read)
    return Block(end, kept, branch, body, tuple(names))


def _is_matrix(node: Node) -> bool:
    value = tensor_value(node)
    return value is not None and sum(size > 1 for size in value.shape) > 1
