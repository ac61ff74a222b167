"""A program's graph to train with, beside the one that is kept."""

from collections.abc import Sequence

import torch
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from worker.engine.program import Program

aten = torch.ops.aten

_ASSERTIONS = (aten._assert_tensor_metadata.default,)  # noqa: SLF001 (public by its schema)


def twin(program: Program, *, also: Sequence[Node] = ()) -> Program:
    """The same program with a graph of its own, and the very same tensors.

    What is trained in one is trained in the other, and the other stays in evaluation mode. The
    twin asserts no dtypes: computing in another precision is what it may be for.

    Args:
        program: Not changed.
        also: Nodes of its graph whose tensors are outputs too, after all others.
    """
    graph = program.copied_graph()
    copies = dict(zip(program.graph.nodes, list(graph.nodes), strict=True))
    if also:
        _give(graph, [copies[node] for node in also])
    for node in copies.values():
        if node.target in _ASSERTIONS:
            graph.erase_node(node)
    return program.with_module(program.module_with(graph))


def _give(graph: Graph, nodes: list[Node]) -> None:
    output = graph.output_node()
    (before,) = output.args
    leaves = [*pytree.tree_leaves(before), *nodes]
    output.args = (tuple(leaves),)
    # The graph's code puts outputs into the structure that the model had: from here on, a list.
    generator = graph._codegen  # noqa: SLF001 (there is no public way to the structure)
    structure = pytree.tree_structure([0] * len(leaves))
    generator.pytree_info = generator.pytree_info._replace(out_spec=structure)  # type: ignore[attr-defined]
