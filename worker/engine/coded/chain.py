"""Weights made from codes, in a program: put there, and found again.

How such a weight is told in a graph is said in :mod:`worker.engine.packed`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from worker.engine.coded.bits import packed_bits, unpacked_bits
from worker.engine.coded.grid import Grid
from worker.engine.draft import Draft
from worker.engine.packed import PackedWeight
from worker.engine.program import Program, attribute

aten = torch.ops.aten


@dataclass(frozen=True)
class Coded:
    """A weight as codes: ``codes`` is uint8, ``(sets, n)``; see :class:`Grid`."""

    about: PackedWeight
    grid: Grid
    codes: Tensor

    @property
    def weight(self) -> Tensor:
        """What the codes stand for, in the weight's own shape and dtype."""
        return placed(self.grid.decode(self.codes), self.about)

    @property
    def scale(self) -> Tensor:
        """Of a grid of integers: float32, ``(sets, 1)``."""
        assert self.grid.scale is not None
        return self.grid.scale

    @property
    def numbers(self) -> Tensor:
        """Codes as the whole numbers that they are: around zero as int8 where that is stored."""
        if not self.about.is_signed:
            return self.codes
        return (self.codes.int() - self.about.middle).to(torch.int8)

    def buffers(self) -> dict[str, Tensor]:
        """What is stored, by name."""
        about, grid = self.about, self.grid
        codes = self.numbers
        if about.bits < 8:
            codes = packed_bits(codes.cpu(), about.bits).to(codes.device)
        found = {about.codes: codes.contiguous()}
        if grid.levels is not None:
            return {**found, about.scale: grid.levels.contiguous()}
        assert grid.scale is not None
        assert grid.zero_point is not None
        found[about.scale] = grid.scale.contiguous()
        if about.has_zero_point:
            found[about.zero_point] = grid.zero_point.to(torch.uint8).contiguous()
        return found


def in_sets(weight: Tensor, about: PackedWeight) -> Tensor:
    """The weight as float32 ``(sets, n)``, NaN where the last group is filled up."""
    return matrix_in_sets(weight.detach().float().movedim(about.axis, 0).flatten(1), about)


def matrix_in_sets(matrix: Tensor, about: PackedWeight, *, filling: float = float("nan")) -> Tensor:
    """The same of ``(outputs, inputs)``, whatever its dtype."""
    missing = about.groups * about.group_size - matrix.shape[1] if about.group_size else 0
    if missing:
        matrix = torch.nn.functional.pad(matrix, (0, missing), value=filling)
    return matrix.reshape(about.sets)


def placed(sets: Tensor, about: PackedWeight) -> Tensor:
    """The other way: ``(sets, n)`` in the weight's own shape and dtype."""
    return shaped(sets, about).to(getattr(torch, about.dtype))


def shaped(sets: Tensor, about: PackedWeight) -> Tensor:
    """``(sets, n)`` of any dtype in the weight's own shape."""
    outputs_first = about.outputs_first
    matrix = sets.reshape(outputs_first[0], -1)[:, : prod(outputs_first[1:])]
    return matrix.reshape(outputs_first).movedim(0, about.axis).contiguous()


def with_codes(program: Program, weights: Mapping[str, Coded]) -> Program:
    """The same program, which makes weights from codes when it runs.

    Args:
        program: Holds the weights; it is not changed.
        weights: By the first of their names.

    Raises:
        ExportError: The result does not export.
    """
    draft = Draft(program)
    names = {name: each for each in weights.values() for name in each.about.names}
    made: dict[str, Node] = {}
    for node in list(draft.graph.find_nodes(op="get_attr")):
        found = names.get(str(node.target))
        if found is None:
            continue
        first = found.about.name
        if first not in made:
            with draft.graph.inserting_before(node):
                made[first] = _chain(draft, found)
        node.replace_all_uses_with(made[first])
    for name in names:
        draft.drop(name)
    return draft.exported()


def _chain(draft: Draft, weight: Coded) -> Node:
    """What is stored, and calls that make the weight of it."""
    about, graph = weight.about, draft.graph
    held = {name: draft.add(name, tensor) for name, tensor in weight.buffers().items()}
    codes = held[about.codes]
    if about.bits < 8:
        flat = unpacked_bits(graph, codes, bits=about.bits, count=prod(about.sets))
        codes = graph.call_function(aten.view.default, (flat, list(about.sets)))
    return made_of(graph, codes, about, held[about.scale], held.get(about.zero_point))


def made_of(
    graph: Graph, codes: Node, about: PackedWeight, scale: Node, zero_point: Node | None
) -> Node:
    """Calls that make the weight of codes: ``(sets, n)``, one in each element.

    How many calls follow the one with the scale is what `_placing` says: so they are found again.
    """
    call = graph.call_function
    if about.format == "codebook":
        places = call(aten.to.dtype, (codes, torch.int64))
        found = call(aten.gather.default, (scale, 1, places))
    else:
        found = call(aten.to.dtype, (codes, torch.float32))
        if zero_point is not None:
            zero = call(aten.to.dtype, (zero_point, torch.float32))
            found = call(aten.sub.Tensor, (found, zero))
        elif not about.is_signed:
            found = call(aten.sub.Scalar, (found, float(about.middle)))
        found = call(aten.mul.Tensor, (found, scale))
    for operator, arguments in _placing(about):
        found = call(operator, (found, *arguments))
    return found


def _placing(about: PackedWeight) -> list[tuple[Any, tuple[Any, ...]]]:
    """What brings ``(sets, n)`` into the weight's own shape and dtype, call by call."""
    outputs_first = about.outputs_first
    inputs = prod(outputs_first[1:])
    calls: list[tuple[Any, tuple[Any, ...]]] = []
    if about.groups * about.group_size > inputs:
        calls.append((aten.view.default, ([outputs_first[0], about.groups * about.group_size],)))
        calls.append((aten.slice.Tensor, (1, 0, inputs)))
        calls.append((aten.reshape.default, (list(outputs_first),)))
    else:
        calls.append((aten.view.default, (list(outputs_first),)))
    if about.axis:
        order = [*range(1, about.axis + 1), 0, *range(about.axis + 1, len(outputs_first))]
        calls.append((aten.permute.default, (order,)))
    if about.dtype != "float32":
        calls.append((aten.to.dtype, (getattr(torch, about.dtype),)))
    return calls


def made_at(program: Program, about: PackedWeight) -> Node:
    """The node that takes the weight's place in a program."""
    [scale] = [
        node for node in program.graph.find_nodes(op="get_attr") if node.target == about.scale
    ]
    node: Node
    [node] = scale.users
    for _ in _placing(about):
        [node] = node.users
    return node


def read_back(program: Program, about: PackedWeight) -> Coded:
    """The codes of a weight, from the buffers of a program."""
    scale = _buffer(program, about.scale)
    codes = unpacked_codes(_buffer(program, about.codes), about)
    if about.format == "codebook":
        return Coded(about, Grid(0, scale.shape[1] - 1, levels=scale), codes)
    if about.has_zero_point:
        zero = _buffer(program, about.zero_point).float()
    else:
        zero = torch.full_like(scale, about.middle)
    most = 2 if about.format == "ternary" else 2**about.bits - 1
    least = 1 if about.symmetric and about.format != "ternary" else 0
    return Coded(about, Grid(least, most, scale=scale, zero_point=zero), codes)


def unpacked_codes(stored: Tensor, about: PackedWeight) -> Tensor:
    """Codes as they are stored: uint8, ``(sets, n)``, from 0."""
    if about.is_signed:
        return (stored.int() + about.middle).to(torch.uint8)
    if about.bits == 8:
        return stored
    graph = Graph()
    flat = unpacked_bits(
        graph, graph.placeholder("packed"), bits=about.bits, count=prod(about.sets)
    )
    graph.output(flat)
    found: Tensor = GraphModule({}, graph)(stored)
    return found.view(about.sets)


def _buffer(program: Program, name: str) -> Tensor:
    found = attribute(program.module, name)
    assert isinstance(found, Tensor)
    return found
