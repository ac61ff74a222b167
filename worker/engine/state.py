"""What a program writes while it runs: caches, counters, its own inputs."""

from dataclasses import dataclass

from torch.fx import Graph

from worker.engine.arguments import memory_of, written_by


@dataclass(frozen=True)
class Written:
    """What a call changes: tensors of the module by name, and flat inputs by place."""

    tensors: frozenset[str]
    inputs: frozenset[int]


def written_in(graph: Graph) -> Written:
    """What running a graph changes, by itself or by a view of it."""
    bases = {memory_of(node) for call in graph.nodes for node in written_by(call)}
    places = {node: at for at, node in enumerate(graph.find_nodes(op="placeholder"))}
    return Written(
        frozenset(str(node.target) for node in bases if node.op == "get_attr"),
        frozenset(places[node] for node in bases if node in places),
    )
