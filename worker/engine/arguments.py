"""An operator's arguments by the names of its schema, wherever the graph wrote them."""

import operator
from functools import lru_cache
from typing import Any

from torch._ops import OpOverload
from torch.fx import Graph, Node


def argument(node: Node, name: str) -> Any:
    """The argument as the graph has it: a node, a number, a list; else the schema's default."""
    at, default = _place(operator_of(node), name)
    if name in node.kwargs:
        return node.kwargs[name]
    return node.args[at] if at < len(node.args) else default


def set_argument(node: Node, name: str, value: Any) -> None:
    """Write an argument where the schema has it; arguments before it get their defaults."""
    at, _ = _place(operator_of(node), name)
    if name in node.kwargs or at > len(node.args) or _schema(node).arguments[at].kwarg_only:
        node.kwargs = {**node.kwargs, name: value}
    elif at == len(node.args):
        node.args = (*node.args, value)
    else:
        node.args = (*node.args[:at], value, *node.args[at + 1 :])


def has_argument(node: Node, name: str) -> bool:
    """Whether the operator's schema declares an argument of this name."""
    return any(declared.name == name for declared in _schema(node).arguments)


def operator_of(node: Node) -> OpOverload[..., Any]:
    """The ATen operator that a node calls."""
    assert isinstance(node.target, OpOverload)
    return node.target


def shares_memory(node: Node) -> bool:
    """Whether the operator writes into what it reads, or returns a view of it."""
    return isinstance(node.target, OpOverload) and any(
        declared.alias_info is not None for declared in _schema(node).arguments
    )


def memory_of(node: Node) -> Node:
    """The node that made the memory which a node shows, through views and writes in place."""
    while shares_memory(node) or node.target is operator.getitem:
        source = node.args[0]
        if not isinstance(source, Node):
            break
        node = source
    return node


def written_by(node: Node) -> list[Node]:
    """The tensors that an operator writes in place."""
    if not isinstance(node.target, OpOverload):
        return []
    declared = [a.name for a in _schema(node).arguments if a.alias_info and a.alias_info.is_write]
    given = [argument(node, name) for name in declared]
    return [tensor for tensor in given if isinstance(tensor, Node)]


def needed_by(graph: Graph) -> set[Node]:
    """The nodes on which outputs depend, or what is written in place."""
    needed = {node for node in graph.nodes if node.op == "output" or written_by(node)}
    for node in reversed(graph.nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    return needed


def constants(graph: Graph) -> set[Node]:
    """The nodes that do not depend on the inputs."""
    found: set[Node] = set()
    for node in graph.nodes:
        made = node.op == "call_function" and found.issuperset(node.all_input_nodes)
        if made or node.op == "get_attr":
            found.add(node)
    return found


def _schema(node: Node) -> Any:
    return operator_of(node)._schema  # noqa: SLF001 (there is no public way to a schema)


@lru_cache(maxsize=4096)
def _place(called: OpOverload[..., Any], name: str) -> tuple[int, Any]:
    for at, declared in enumerate(called._schema.arguments):  # noqa: SLF001 (as above)
        if declared.name == name:
            return at, declared.default_value
    raise KeyError(f"{called} has no argument {name!r}")
