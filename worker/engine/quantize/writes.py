"""When a graph writes in place into the memory of a value."""

from torch.fx import Graph, Node

from worker.engine.arguments import memory_of, written_by


class Writes:
    """All writes in place of a graph, in its order."""

    def __init__(self, graph: Graph) -> None:
        self._order = {node: at for at, node in enumerate(graph.nodes)}
        self._into: dict[Node, list[int]] = {}
        for at, node in enumerate(graph.nodes):
            for tensor in written_by(node):
                self._into.setdefault(memory_of(tensor), []).append(at)

    def before(self, node: Node, *, into: Node) -> int:
        """How often the memory of a value is written before a node runs."""
        return sum(at < self._order[node] for at in self._into.get(memory_of(into), ()))

    def can_be_copied(self, node: Node) -> bool:
        """Whether all who read a node, by itself or by views, may read a copy of it instead.

        They may if its memory is not written any more, or if nobody can see that: whoever reads it
        later does so through what the node's one reader gives back.
        """
        last = max(self._into.get(memory_of(node), ()), default=-1)
        return last <= self._order[node] or is_seen_once(node)


def is_seen_once(node: Node) -> bool:
    """Whether a value, and what its memory held before it, is read by one node each."""
    while len(node.users) == 1:
        if memory_of(node) is node:
            return node.op == "call_function"
        if written_by(node) != [node.args[0]]:
            return False
        node = node.args[0]  # type: ignore[assignment]  # Written by it: a node.
    return False
