"""The calls that multiply an activation with a weight: convolutions and linear layers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch.fx import Node
from torch.nn import Parameter

from worker.engine.arguments import argument
from worker.engine.program import Program, attribute

aten = torch.ops.aten


@dataclass(frozen=True)
class WeightCall:
    """One such call.

    Attributes:
        node: The call.
        parameter: Its weight, by name.
        source: What the weight is multiplied with.
        source_dim: The dimension of ``source`` that is summed over.
        weight_dim: The dimension of the weight that is; of a grouped convolution as long as one
            group.
    """

    node: Node
    parameter: str
    source: Node
    source_dim: int
    weight_dim: int


_CONVOLUTION = ("input", 1, "weight", 1)
_LINEAR = ("input", -1, "weight", -1)
_CALLS: dict[Any, tuple[str, int, str, int]] = {
    aten.conv1d.default: _CONVOLUTION,
    aten.conv2d.default: _CONVOLUTION,
    aten.conv3d.default: _CONVOLUTION,
    aten.conv1d.padding: _CONVOLUTION,
    aten.conv2d.padding: _CONVOLUTION,
    aten.conv3d.padding: _CONVOLUTION,
    aten.linear.default: _LINEAR,
    aten.matmul.default: ("self", -1, "other", -2),
    aten.mm.default: ("self", -1, "mat2", -2),
    aten.addmm.default: ("mat1", -1, "mat2", -2),
}
"""For each operator: what is multiplied, along which dimension, with what, along which."""


_TRANSPOSES = (
    aten.t.default,
    aten.numpy_T.default,
    aten.permute.default,
    aten.transpose.int,
)


def weight_calls(
    program: Program, made: Mapping[Node, str] = MappingProxyType({})
) -> Iterator[WeightCall]:
    """In the order of the program; those whose weight is a parameter as it is, or transposed.

    Args:
        program: Whose calls.
        made: Nodes that stand for a parameter, and its name: where weights are made from codes.
    """
    for node in program.graph.nodes:
        if node.target not in _CALLS:
            continue
        name, dim, weight_name, weight_dim = _CALLS[node.target]
        source, weight = argument(node, name), argument(node, weight_name)
        while weight not in made and weight.target in _TRANSPOSES:
            if len(program.shape(weight)) != 2:
                break  # Of more dimensions, transposing may keep their order.
            weight, weight_dim = weight.args[0], -3 - weight_dim
        parameter = made.get(weight) or _parameter(program, weight)
        rank = len(program.shape(weight))
        if parameter is not None and rank > 1 and source.op != "get_attr":
            source_dim = dim % len(program.shape(source))
            yield WeightCall(node, parameter, source, source_dim, weight_dim % rank)


def _parameter(program: Program, node: Node) -> str | None:
    """The name of the parameter that a node is; None where it is none."""
    if node.op != "get_attr":
        return None
    name = str(node.target)
    return name if isinstance(attribute(program.module, name), Parameter) else None


def bias_of(node: Node) -> Node | None:
    """What a weight call adds to its product."""
    if node.target in (aten.matmul.default, aten.mm.default):
        return None
    found = argument(node, "self" if node.target == aten.addmm.default else "bias")
    assert found is None or isinstance(found, Node)
    return found
