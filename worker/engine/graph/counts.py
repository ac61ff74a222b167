"""What a program costs: parameters, multiply-accumulates and bytes, before or after a cut."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from worker.engine.graph.arguments import argument
from worker.engine.graph.coupling import Coupling, kept_shape
from worker.engine.program import attribute

aten = torch.ops.aten

Shapes = Callable[[Node], list[tuple[int, ...]]]
"""Shapes of a node's tensors, after whatever cut is asked about."""


@dataclass(frozen=True)
class Counts:
    """Elements of parameters; MACs at the example inputs; bytes of all tensors that are stored."""

    parameters: int
    macs: int
    size_bytes: int

    def as_json(self) -> dict[str, int]:
        return {
            "parameters": self.parameters,
            "macs": self.macs,
            "size_bytes": self.size_bytes,
        }


def count(coupling: Coupling, keep: Tensor | None = None) -> Counts:
    """Count a program, as it is or as it would be with only the channels of ``keep``."""
    keep = coupling.everything() if keep is None else keep
    module = coupling.program.module
    trained = {id(parameter) for parameter in module.parameters()}
    parameters = size_bytes = 0
    for name, tensor in _tensors(coupling):
        value = coupling.propagation.parameters.get(name)
        shape = (
            tuple(tensor.shape)
            if value is None
            else kept_shape(value.shape, coupling.lines(value), keep)
        )
        parameters += prod(shape) if id(tensor) in trained else 0
        size_bytes += prod(shape) * tensor.element_size()
    return Counts(parameters, count_macs(coupling, keep), size_bytes)


def count_macs(coupling: Coupling, keep: Tensor) -> int:
    """Multiply-accumulates of every operator that multiplies and sums, at the example inputs."""

    def shapes(node: Node) -> list[tuple[int, ...]]:
        return coupling.shapes(node, keep)

    return sum(
        MACS[node.target](node, shapes)
        for node in coupling.program.graph.nodes
        if node.target in MACS
    )


def _tensors(coupling: Coupling) -> list[tuple[str, Tensor]]:
    """Parameters, buffers and constants that a file holds, each once, as a tied weight is."""
    module = coupling.program.module
    attributes = [str(n.target) for n in coupling.program.graph.nodes if n.op == "get_attr"]
    constants = [(name, attribute(module, name)) for name in attributes]
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in (*module.named_parameters(), *module.named_buffers(), *constants):
        if isinstance(tensor, Tensor):  # A subgraph is an attribute too.
            found.setdefault(id(tensor), (name, tensor))
    return list(found.values())


def _convolution(node: Node, shapes: Shapes) -> int:
    weight = shapes(argument(node, "weight"))[0]
    return prod(shapes(node)[0]) * prod(weight[1:])


def _transposed(node: Node, shapes: Shapes) -> int:
    weight = shapes(argument(node, "weight"))[0]
    return prod(shapes(argument(node, "input"))[0]) * prod(weight[1:])


def _product(first: str) -> Callable[[Node, Shapes], int]:
    """A matrix product: each element of the result sums over the last dimension of ``first``."""

    def macs(node: Node, shapes: Shapes) -> int:
        return prod(shapes(node)[0]) * shapes(argument(node, first))[0][-1]

    return macs


def _attention(node: Node, shapes: Shapes) -> int:
    query, key, value = (shapes(argument(node, n))[0] for n in ("query", "key", "value"))
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent(node: Node, shapes: Shapes) -> int:
    source = shapes(argument(node, "input"))[0]
    weights = [shapes(weight)[0] for weight in argument(node, "params")]
    return prod(source[:-1]) * sum(prod(weight) for weight in weights if len(weight) == 2)


MACS: dict[Any, Callable[[Node, Shapes], int]] = {
    aten.conv1d.default: _convolution,
    aten.conv2d.default: _convolution,
    aten.conv3d.default: _convolution,
    aten.conv1d.padding: _convolution,
    aten.conv2d.padding: _convolution,
    aten.conv3d.padding: _convolution,
    aten.conv_transpose1d.default: _transposed,
    aten.conv_transpose2d.input: _transposed,
    aten.conv_transpose3d.input: _transposed,
    aten.linear.default: _product("input"),
    aten.matmul.default: _product("self"),
    aten.mm.default: _product("self"),
    aten.bmm.default: _product("self"),
    aten.addmm.default: _product("mat1"),
    aten.baddbmm.default: _product("batch1"),
    aten.scaled_dot_product_attention.default: _attention,
    aten.lstm.input: _recurrent,
    aten.gru.input: _recurrent,
    aten.rnn_tanh.input: _recurrent,
    aten.rnn_relu.input: _recurrent,
}
"""How each operator's multiply-accumulates follow from shapes."""
