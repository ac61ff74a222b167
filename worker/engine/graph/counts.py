"""What a program costs: parameters, multiply-accumulates and bytes, before or after a cut."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from worker.engine.arguments import argument
from worker.engine.graph.coupling import Coupling, Kept
from worker.engine.graph.equation import einsum_terms
from worker.engine.packed import Packed

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
    kept = coupling.kept(coupling.everything() if keep is None else keep)
    module = coupling.program.module
    trained = {id(parameter) for parameter in module.parameters()}
    parameters = size_bytes = 0
    for name, tensor in coupling.tensors:
        elements = prod(kept.parameter_shape(name) or tensor.shape)
        parameters += elements if id(tensor) in trained else 0
        size_bytes += elements * tensor.element_size()
    return Counts(parameters, _macs(kept), size_bytes)


def with_packed(counts: Counts, packed: Packed) -> Counts:
    """The same, of a program that makes weights from codes: their elements are parameters still."""
    return replace(counts, parameters=counts.parameters + packed.parameters)


def count_macs(coupling: Coupling, keep: Tensor) -> int:
    """Multiply-accumulates of every operator that multiplies and sums, at the example inputs."""
    return _macs(coupling.kept(keep))


def _macs(kept: Kept) -> int:
    return sum(
        MACS[node.target](node, kept.shapes)
        for node in kept.coupling.program.graph.nodes
        if node.target in MACS and node not in kept.gone
    )


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


def _bilinear(node: Node, shapes: Shapes) -> int:
    rows = prod(shapes(node)[0][:-1])
    outputs, first, second = shapes(argument(node, "weight"))[0]
    return rows * outputs * (first * second + second)


def _attention(node: Node, shapes: Shapes) -> int:
    query, key, value = (shapes(argument(node, n))[0] for n in ("query", "key", "value"))
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent(node: Node, shapes: Shapes) -> int:
    source = shapes(argument(node, "input"))[0]
    weights = [shapes(weight)[0] for weight in argument(node, "params")]
    return prod(source[:-1]) * sum(prod(weight) for weight in weights if len(weight) == 2)


def _cell(node: Node, shapes: Shapes) -> int:
    rows = prod(shapes(argument(node, "input"))[0][:-1])
    return rows * sum(prod(shapes(argument(node, name))[0]) for name in ("w_ih", "w_hh"))


def _einsum(node: Node, shapes: Shapes) -> int:
    """Operands meet from left to right; a step that sums over nothing is elementwise."""
    operands = [shapes(operand)[0] for operand in argument(node, "tensors")]
    terms, output = einsum_terms(argument(node, "equation"))
    sizes: dict[str, int] = {}
    factors = [_factors(term, shape, sizes) for term, shape in zip(terms, operands, strict=True)]
    result = set(_factors(output, shapes(node)[0], {}))
    macs = 0
    seen = set(factors[0])
    for at, more in enumerate(factors[1:], start=1):
        seen |= set(more)
        needed = result.union(*factors[at + 1 :])
        macs += prod(sizes[name] for name in seen) if seen - needed else 0
        seen &= needed
    return macs


def _factors(term: list[str], shape: tuple[int, ...], sizes: dict[str, int]) -> list[str]:
    """A name for each dimension of an operand; those of ``...`` count from the right."""
    extra = len(shape) - len(term) + 1
    names = []
    for letter in term:
        if letter == "...":
            names += [f"...{extra - at}" for at in range(extra)]
        else:
            names.append(letter)
    for name, size in zip(names, shape, strict=True):
        sizes[name] = max(size, sizes.get(name, 1))
    return names


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
    aten.einsum.default: _einsum,
    aten.linear.default: _product("input"),
    aten.matmul.default: _product("self"),
    aten.mm.default: _product("self"),
    aten.mv.default: _product("self"),
    aten.dot.default: _product("self"),
    aten.vdot.default: _product("self"),
    aten.bilinear.default: _bilinear,
    aten.bmm.default: _product("self"),
    aten.addmm.default: _product("mat1"),
    aten.baddbmm.default: _product("batch1"),
    aten.scaled_dot_product_attention.default: _attention,
    aten.lstm.input: _recurrent,
    aten.gru.input: _recurrent,
    aten.rnn_tanh.input: _recurrent,
    aten.rnn_relu.input: _recurrent,
    aten.lstm_cell.default: _cell,
    aten.gru_cell.default: _cell,
    aten.rnn_tanh_cell.default: _cell,
    aten.rnn_relu_cell.default: _cell,
}
"""How each operator's multiply-accumulates follow from shapes."""
