"""Run a program node by node on many batches, holding no more than is still to be read."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from worker.engine.arguments import constants, written_by
from worker.engine.batch import computing_with_data
from worker.engine.dynamic import placeholders
from worker.engine.program import Program, tensor_value


class Lockstep:
    """A program on several batches at once: every batch passes a node before any the next.

    Weights are read when a node needs them, so that they may change for nodes that have not run.

    Attributes:
        values: What is there of each batch, by node; no more than is still to be read.
    """

    def __init__(
        self,
        program: Program,
        batches: Sequence[Sequence[Any]],
        *,
        unready: Collection[Node] = (),
    ) -> None:
        """Begin before the first node.

        Args:
            program: What is run.
            batches: Flat inputs of each call, in the order of the graph's inputs.
            unready: Nodes whose values are not to be had before their turn: their weights change.
        """
        self._program = program
        self._runner = Interpreter(program.module)
        self._runner.extra_traceback = False  # It would be appended to messages that users read.
        self._nodes = list(program.graph.nodes)
        self._place = {node: at for at, node in enumerate(self._nodes)}
        self._at = 0
        self._constants = constants(program.graph)
        self._unread_after = _unread_after(self._nodes)
        self._unready = frozenset(unready)
        written = program.written.inputs
        self.values: list[dict[Node, Any]] = [
            {
                node: leaf.clone() if at in written else leaf
                for at, (node, leaf) in enumerate(
                    zip(placeholders(program.module), program.as_taken(leaves), strict=True)
                )
            }
            for leaves in batches
        ]

    def has_passed(self, node: Node) -> bool:
        return self._place[node] < self._at

    @torch.no_grad()
    def run_to(self, node: Node) -> None:
        """Run all nodes before this one, on every batch."""
        while self._at < self._place[node]:
            ahead = self._nodes[self._at]
            if ahead.op not in ("placeholder", "output") and ahead not in self._constants:
                for values in self.values:
                    self._run(ahead, values)
            self._pass(ahead)

    @torch.no_grad()
    def run_through(self, node: Node) -> Iterator[Any]:
        """Run all nodes before this one, and then it, batch by batch; gives its values."""
        self.run_to(node)
        for values in self.values:
            yield self._run(node, values)
        self._pass(node)

    @torch.no_grad()
    def ahead(self, node: Node) -> list[Any] | None:
        """The values of a node before its turn, for every batch.

        None where that cannot be told: it depends on what is unready, or on a write in place.
        """
        needed: set[Node] = set()
        asked = [node]
        while asked:
            each = asked.pop()
            if self.has_passed(each) or each in needed:
                continue
            if each in self._unready or written_by(each):
                return None
            needed.add(each)
            asked += each.all_input_nodes
        order = [each for each in self._nodes[self._at :] if each in needed]
        found = []
        for values in self.values:
            own = dict(values)
            for each in order:
                self._run(each, own)
            found.append(own[node])
        return found

    def _run(self, node: Node, values: dict[Node, Any]) -> Any:
        for read in node.all_input_nodes:
            if read in self._constants:
                self._run(read, values)
        if node.op == "get_attr" and str(node.target) in self._program.written.tensors:
            # What a call writes is its own: no batch finds what another left.
            if node not in values:
                values[node] = self._fetched(node).clone()
            return values[node]
        self._runner.env = values
        with computing_with_data():
            values[node] = self._runner.run_node(node)
        return values[node]

    def _fetched(self, node: Node) -> Tensor:
        found = self._runner.run_node(node)
        assert isinstance(found, Tensor)
        return found

    def _pass(self, node: Node) -> None:
        for values in self.values:
            for gone in self._unread_after[node]:
                values.pop(gone, None)
        self._at += 1


def _unread_after(nodes: Sequence[Node]) -> dict[Node, list[Node]]:
    """For each node the values that nobody reads after it."""
    last: dict[Node, Node] = {}
    for node in nodes:
        for read in (*node.all_input_nodes, node):
            last[read] = node
    gone: dict[Node, list[Node]] = {node: [] for node in nodes}
    for read, node in last.items():
        gone[node].append(read)
    return gone


def held_bytes(program: Program) -> int:
    """The most that is held at once of what one call with the example inputs computes."""
    nodes = list(program.graph.nodes)
    constant = constants(program.graph)
    unread = _unread_after(nodes)
    sizes = {node: 0 if node in constant else _size_bytes(program, node) for node in nodes}
    held = most = 0
    for node in nodes:
        held += sizes[node]
        most = max(most, held)
        held -= sum(sizes[each] for each in unread[node])
    return most


def _size_bytes(program: Program, node: Node) -> int:
    value = tensor_value(node)
    if value is None:
        return 0
    total = value.element_size()
    for size in program.shape(node):
        total *= size
    return total
