"""Which values of a program are rounded where activations are quantized once and for all."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from worker.engine.arguments import argument, constants
from worker.engine.criteria.columns import is_convolution
from worker.engine.draft import free_name
from worker.engine.graph.blocks import ADDITIONS
from worker.engine.graph.weights import WeightCall
from worker.engine.program import Program, attribute, module_path, tensor_value
from worker.engine.quantize.writes import Writes
from worker.engine.recovery.layers import PASSES

aten = torch.ops.aten

_ACTIVATIONS = (
    aten.relu.default,
    aten.relu_.default,
    aten.relu6.default,
    aten.relu6_.default,
    aten.hardtanh.default,
    aten.hardtanh_.default,
    aten.clamp.default,
    aten.clamp_.default,
    aten.clamp_min.default,
    aten.clamp_min_.default,
)
"""What an integer convolution does itself, by where its codes saturate."""

_MOVES = (
    *PASSES,
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.max_pool3d.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.reshape.default,
    aten.view.default,
    aten.permute.default,
    aten.transpose.int,
    aten.t.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.contiguous.default,
    aten.clone.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.expand.default,
)
"""What gives back numbers that it reads, and no other: rounded ones stay rounded."""

ENDINGS = ("", "_scale", "_zero_point", "_least")
"""What the names of a rounded value's tensors end with."""


@dataclass(frozen=True)
class Point:
    """A value that is rounded.

    Attributes:
        node: Whose value it is.
        name: What the names of its tensors begin with, such as ``conv1.input``.
    """

    node: Node
    name: str


def points_of(program: Program, calls: Sequence[WeightCall]) -> list[Point]:
    """The values to be rounded so that calls with weights in codes can compute with integers.

    An integer convolution wants codes at both ends, an integer addition as well; a matrix product
    is content with what it reads. So these are: the end of each convolution, behind the activation
    that alone reads it; the result of an addition of two rounded values; and what else a call
    reads. Pooling for the largest number, and what reshapes, gives back rounded numbers if it reads
    rounded ones: nothing is rounded behind it once more. Whatever is written in place later, is not
    floating or follows from constants alone is not rounded, nor is an end that is an output.

    Args:
        program: Read, never written.
        calls: Those of its weight calls whose weights become codes.

    Returns:
        In the order of the graph, each value once.
    """
    return _Search(program, calls).found()


class _Search:
    def __init__(self, program: Program, calls: Sequence[WeightCall]) -> None:
        self._program = program
        self._by_node = {call.node: call for call in calls}
        self._order = {node: at for at, node in enumerate(program.graph.nodes)}
        self._constants = constants(program.graph)
        self._writes = Writes(program.graph)
        self._wanted: dict[Node, str] = {}

    def found(self) -> list[Point]:
        # In the order of the graph: whether a sum has rounded summands is known by then.
        for node in self._program.graph.nodes:
            call = self._by_node.get(node)
            if call is not None:
                self._add_input(call)
                if is_convolution(node):
                    self._add_end(node, f"{_layer(call.parameter)}output")
            elif node.target in ADDITIONS and self._is_rounded_sum(node):
                self._add_end(node, _beside(self._program, module_path(node), "add"))
        return list(self._named())

    def _add_input(self, call: WeightCall) -> None:
        if not self._is_rounded(call.source):
            self._add(call.source, f"{_layer(call.parameter)}input")

    def _add_end(self, node: Node, name: str) -> None:
        end = node
        while len(end.users) == 1:
            [reader] = end.users
            if reader.target not in (*_ACTIVATIONS, *PASSES) or _is_training(reader):
                break
            end = reader
        if all(reader.op != "output" for reader in end.users):
            self._add(end, name)

    def _add(self, node: Node, name: str) -> None:
        value = tensor_value(node)
        if value is None or not value.is_floating_point() or node in self._constants:
            return
        if self._writes.can_be_copied(node):
            self._wanted.setdefault(node, name)

    def _is_rounded_sum(self, node: Node) -> bool:
        summands = node.args[:2]
        return (
            len(summands) == 2
            and not node.kwargs
            and all(isinstance(each, Node) and self._is_rounded(each) for each in summands)
        )

    def _is_rounded(self, node: Node) -> bool:
        """Whether all numbers of a value are rounded ones, or zeros."""
        while node not in self._wanted:
            is_padding = node.target == aten.pad.default and _pads_zeros(node)
            if not is_padding and (node.target not in _MOVES or _is_training(node)):
                return False
            source = node.args[0]
            assert isinstance(source, Node)
            node = source
        return True

    def _named(self) -> Iterator[Point]:
        taken: set[str] = set()
        for node in sorted(self._wanted, key=self._order.__getitem__):
            wanted = self._wanted[node]
            name = free_name(self._program.module, wanted, endings=ENDINGS, taken=taken)
            taken.add(name)
            yield Point(node, name)


def input_name(program: Program, call: WeightCall, taken: Collection[str]) -> str:
    """A name for what a call reads, that nothing else has."""
    wanted = f"{_layer(call.parameter)}input"
    return free_name(program.module, wanted, endings=ENDINGS, taken=set(taken))


def _layer(parameter: str) -> str:
    """What names of things about a layer begin with: ``conv1.`` for ``conv1.weight``."""
    owner, _, leaf = parameter.rpartition(".")
    if leaf.endswith("weight"):
        leaf = leaf[: -len("weight")].rstrip("_")
    return (f"{owner}." if owner else "") + (f"{leaf}_" if leaf else "")


def _beside(program: Program, path: str, leaf: str) -> str:
    """A name in the module at a path; in the innermost one that there is around it."""
    parts, rest = path.split(".") if path else [], [leaf]
    while parts:
        owner = ".".join(parts)
        try:
            found = attribute(program.module, owner)
        except AttributeError:
            found = None
        if isinstance(found, torch.nn.Module):
            break
        rest.insert(0, re.sub(r"\W", "_", parts.pop()))
    return ".".join([*parts, "_".join(rest)])


def _is_training(node: Node) -> bool:
    """Whether it is a dropout that drops."""
    return "dropout" in str(node.target) and bool(argument(node, "train"))


def _pads_zeros(node: Node) -> bool:
    return argument(node, "mode") == "constant" and argument(node, "value") in (None, 0)
