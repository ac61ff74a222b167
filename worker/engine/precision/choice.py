"""Which calls of a program compute in float32, and which tensors are stored in few bits."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.fx import Node

from worker.engine.arguments import argument, constants, has_argument, memory_of, written_by
from worker.engine.precision.kinds import (
    Kind,
    float32_in,
    floats_read,
    is_bounded,
    is_statistic,
    kind_of,
)
from worker.engine.program import Program, attribute, tensor_value

SMALL = 4096
"""Elements up to which a tensor may stay float32 for the sake of what is computed with it."""

_NUMBERS = ("other", "value", "alpha", "fill_value", "min", "max", "scalar", "threshold")
"""Arguments that are numbers to compute with, and no sizes."""


@dataclass(frozen=True)
class Asked:
    """What a cast was asked for, and what has to be float32 for all that.

    Attributes:
        low: The type of fewer bits.
        cast_inputs: Whether inputs and outputs are of it too.
        kept: Names of parameters that stay float32.
        islands: Calls that compute in float32, and why.
    """

    low: torch.dtype
    cast_inputs: bool
    kept: frozenset[str]
    islands: Mapping[Node, str]


@dataclass(frozen=True)
class Choice:
    """What computes in float32 and what is stored in few bits.

    Attributes:
        wide: The calls whose floats are all float32.
        stored: Names of the tensors that are stored in few bits.
        shared: The nodes that made memory which is written in place: what shows it is of one type.
        widened: Those of them whose memory is float32 though they compute in few bits: what is
            written there needs it.
    """

    wide: frozenset[Node]
    stored: frozenset[str]
    shared: frozenset[Node]
    widened: frozenset[Node]


def choose(program: Program, asked: Asked) -> Choice:
    """Choose for a whole program: see the module's functions for the reasons."""
    return _Chooser(program, asked).choice()


class _Chooser:
    def __init__(self, program: Program, asked: Asked) -> None:
        self.program = program
        self.asked = asked
        self.nodes: list[Node] = list(program.graph.nodes)
        self.kinds = {n: kind_of(n) for n in self.nodes if n.op == "call_function"}
        self.shared = frozenset(memory_of(t) for node in self.nodes for t in written_by(node))
        self.wide: set[Node] = set(asked.islands)

    def choice(self) -> Choice:
        self.wide |= {n for n, kind in self.kinds.items() if kind is Kind.WIDE}
        self.wide |= {n for n in self.exact if self.kinds.get(n) is Kind.ELEMENTWISE}
        self.wide |= self.too_large()
        self.wide |= self.normalizing()
        writing = {memory_of(n) for n in self.wide if memory_of(n) in self.shared and written_by(n)}
        widened = frozenset(writing - self.wide)
        for node in reversed(self.nodes):
            if self.is_better_wide(node):
                self.wide.add(node)
        return Choice(frozenset(self.wide), self.stored(), self.shared, widened)

    @cached_property
    def exact(self) -> set[Node]:
        """Floats that come from whole numbers and small constants alone.

        Positions, their angles and masks are such: a position of 2001 is 2000 in bfloat16, and its
        sine another. They meet activations as float32, and are cast then.
        """
        found: set[Node] = set()
        for node in self.nodes:
            if not float32_in(node) or self.kinds.get(node, Kind.PRODUCT) is Kind.PRODUCT:
                continue
            if all(each in found or self.is_small_buffer(each) for each in floats_read(node)):
                found.add(node)
        return found

    def is_small_buffer(self, node: Node) -> bool:
        tensor = self.held(node)
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        return tensor is not None and not is_parameter and tensor.numel() <= SMALL

    def held(self, node: Node) -> Tensor | None:
        """The float32 tensor of the module that a node is; None if it is none."""
        if node.op != "get_attr":
            return None
        found = attribute(self.program.module, str(node.target))
        return found if isinstance(found, Tensor) and found.dtype == torch.float32 else None

    def too_large(self) -> set[Node]:
        """Calls on numbers that the type cannot hold, such as a mask's -1e9.

        They follow from what the graph spells out, and not from what data happens to be there: the
        data may have no row that is masked.
        """
        large: set[Node] = set()
        found: set[Node] = set()
        for node in self.nodes:
            kind = self.kinds.get(node)
            reads = large.intersection(node.all_input_nodes) or self.spells_out_large(node)
            if node.op == "get_attr" and self.holds_large(node):
                large.add(node)
            elif kind in (Kind.ELEMENTWISE, Kind.MOVEMENT) and reads and float32_in(node):
                if not (kind is Kind.MOVEMENT and not self.spells_out_large(node)):
                    found.add(node)
                if not is_bounded(node):
                    large.add(node)
            elif kind is Kind.WIDE and self.spells_out_large(node) and float32_in(node):
                large.add(node)  # As `full` is, which reads nothing.
        return found

    def holds_large(self, node: Node) -> bool:
        tensor = self.held(node)
        return tensor is not None and largest_finite(tensor) > torch.finfo(self.asked.low).max

    def spells_out_large(self, node: Node) -> bool:
        if node not in self.kinds or not isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001
            return False
        given = [argument(node, name) for name in _NUMBERS if has_argument(node, name)]
        numbers = [abs(each) for each in given if isinstance(each, int | float)]
        return any(math.isfinite(n) and n > torch.finfo(self.asked.low).max for n in numbers)

    def normalizing(self) -> set[Node]:
        """Norms that are written out: what many numbers' mean or deviation is taken from or by.

        With them what scales each channel after it, as in a norm that is one operator.
        """
        statistics: set[Node] = set()
        normed: set[Node] = set()
        for node in self.nodes:
            kind, read = self.kinds.get(node), floats_read(node)
            if kind not in (Kind.ELEMENTWISE, Kind.MOVEMENT) or not read:
                statistics |= {node} if is_statistic(node) else set()
            elif statistics.issuperset(read):
                statistics.add(node)
            elif kind is Kind.MOVEMENT:
                normed |= {node} if normed.issuperset(read) else set()
            elif tensor_value(node) is not None:
                by_few = any(self.is_smaller(each, node) for each in statistics.intersection(read))
                rest = [each for each in read if each not in normed]
                scales = len(rest) < len(read) and all(map(self.is_channel_scale, rest))
                normed |= {node} if by_few or scales else set()
        return {node for node in normed if self.kinds[node] is Kind.ELEMENTWISE}

    def is_smaller(self, one: Node, other: Node) -> bool:
        if tensor_value(one) is None:
            return False
        return math.prod(self.program.shape(one)) < math.prod(self.program.shape(other))

    def is_channel_scale(self, node: Node) -> bool:
        tensor = self.held(node)
        return tensor is not None and tensor.dim() == 1

    def is_better_wide(self, node: Node) -> bool:
        """Whether a call costs no more casts in float32, as all that reads it is float32 too."""
        if self.kinds.get(node) is not Kind.ELEMENTWISE or not float32_in(node):
            return False
        if memory_of(node) in self.shared or not all(map(self.wants_wide, node.users)):
            return False
        read = floats_read(node)
        if any(self.is_worth_storing(each) for each in read):
            return False  # It would have to be stored as float32.
        low = [each for each in read if not self.is_made_wide(each) and each.op != "get_attr"]
        return 2 * len(low) <= len(read) + 1 and bool(node.users)

    def wants_wide(self, reader: Node) -> bool:
        if reader.op == "output":
            return not self.asked.cast_inputs
        if self.kinds.get(reader) is Kind.MOVEMENT and reader not in self.wide:
            return bool(reader.users) and all(map(self.wants_wide, reader.users))
        return reader in self.wide

    def is_made_wide(self, node: Node) -> bool:
        if node.op == "placeholder":
            return not self.asked.cast_inputs
        if node not in self.wide and self.kinds.get(node) is Kind.MOVEMENT:
            return all(map(self.is_made_wide, floats_read(node)))
        return node in self.wide

    def is_worth_storing(self, node: Node) -> bool:
        """Whether a value is a tensor of the module that few bits make notably smaller."""
        while self.kinds.get(node) is Kind.MOVEMENT and floats_read(node):
            node = floats_read(node)[0]
        tensor = self.held(node)
        if tensor is None:
            return False
        is_weight = isinstance(tensor, torch.nn.Parameter) and tensor.dim() > 1
        return is_weight or tensor.numel() > SMALL

    def stored(self) -> frozenset[str]:
        """The tensors that nothing reads as float32 when the program runs.

        A weight that is computed from a parameter, as under a weight norm, is an exception: the
        parameter is stored in few bits, whatever it is computed with.
        """
        names: dict[int, set[str]] = {}
        refused: set[int] = set()
        constant = constants(self.program.graph)
        module = self.program.module
        tensors = (*module.named_parameters(remove_duplicate=False), *module.named_buffers())
        for name, tensor in tensors:
            if tensor.dtype == torch.float32:
                names.setdefault(id(tensor), set()).add(name)
                if name in self.asked.kept or name in self.program.written.tensors:
                    refused.add(id(tensor))
        for node in self.nodes:
            tensor_of_node = self.held(node)
            if tensor_of_node is None:
                continue
            names.setdefault(id(tensor_of_node), set()).add(str(node.target))
            readers = self.readers(node)
            as_float32 = {each for each in readers & self.wide if each not in constant}
            if as_float32 or readers & self.wide & self.exact or self.holds_large(node):
                refused.add(id(tensor_of_node))
        stored = (own for key, own in names.items() if key not in refused)
        return frozenset(name for own in stored for name in own)

    def readers(self, node: Node) -> set[Node]:
        """What computes with a value, by itself or after it was moved."""
        found: set[Node] = set()
        asked: list[Node] = list(node.users)
        while asked:
            reader = asked.pop()
            if self.kinds.get(reader) is Kind.MOVEMENT and reader not in self.wide:
                asked += reader.users
            else:
                found.add(reader)
        return found


def largest_finite(tensor: Tensor) -> float:
    """The largest absolute value that is no infinity; 0 where there is none."""
    tensor = tensor.detach()
    finite = torch.where(tensor.isfinite(), tensor, 0.0)
    return float(finite.abs().max()) if tensor.numel() else 0.0


def readers_of(program: Program, names: Collection[str]) -> set[Node]:
    """The calls that compute with tensors of some names, by themselves or after they were moved."""
    found: set[Node] = set()
    asked = [
        user
        for node in program.graph.find_nodes(op="get_attr")
        if str(node.target) in names
        for user in node.users
    ]
    while asked:
        reader = asked.pop()
        if reader.op == "call_function" and kind_of(reader) is Kind.MOVEMENT:
            asked += reader.users
        elif reader.op == "call_function":
            found.add(reader)
    return found
