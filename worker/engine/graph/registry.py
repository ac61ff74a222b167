"""The table of rules: one for each operator, each saying which labels are the same."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from worker.engine.arguments import argument
from worker.engine.graph.coupler import Coupler
from worker.engine.graph.labels import Labels, Value
from worker.engine.program import Program

Rule = Callable[["Call"], Value | list[Value]]
Resize = Callable[["Resizing"], None]

RULES: dict[Any, Rule] = {}
RESIZES: dict[Any, Resize] = {}


class Refusal(Exception):
    """Raised by a rule that cannot let this call lose channels. The message is the reason."""


@dataclass(frozen=True)
class Normalized:
    """A call whose statistics run over dimensions of what it reads."""

    node: Node
    source: Node
    dims: tuple[int, ...]


@dataclass
class Call:
    """One call of an operator, as its rule sees it."""

    node: Node
    program: Program
    labels: Labels
    coupler: Coupler
    values: Mapping[Node, Value | list[Value]]
    constants: set[Node]
    normalized: list[Normalized] = field(default_factory=list)

    def argument(self, name: str) -> Any:
        """An argument with every size of the graph replaced by its number."""
        return self.number(argument(self.node, name))

    def value(self, name: str) -> Value:
        """A tensor argument's value."""
        return self.of(argument(self.node, name))

    def optional(self, name: str) -> list[Value]:
        """A tensor argument's value, or nothing where the call has none."""
        given = argument(self.node, name)
        return [] if given is None else [self.of(given)]

    def tensors(self) -> list[Value]:
        """Every tensor that the call reads, in order, lists flattened."""
        return [
            value
            for node in self.node.all_input_nodes
            for value in _flat(self.values.get(node, []))
        ]

    def of(self, node: Node) -> Value:
        value = self.values[node]
        assert isinstance(value, Value)
        return value

    @property
    def output(self) -> tuple[int, ...]:
        """Shape of the result, where it is one tensor."""
        return self.program.shape(self.node)

    @property
    def first_output(self) -> tuple[int, ...]:
        """Shape of the result, or of the first of several."""
        made = self.node.meta["val"]
        first = made if isinstance(made, Tensor) else made[0]
        return tuple(self.program.size(size) for size in first.shape)

    def numbering(self, *factors: str) -> tuple[str, ...]:
        """The factors that number the heads of a product: none where an operand is a weight."""
        return () if self.constants.intersection(self.node.all_input_nodes) else factors

    def normalizes(self, name: str, dims: Sequence[int]) -> None:
        """Say that statistics run over these dimensions of an argument."""
        source = argument(self.node, name)
        rank = len(self.of(source).shape)
        over = tuple(dim % rank for dim in dims)
        self.normalized.append(Normalized(self.node, source, over))

    def number(self, value: Any) -> Any:
        """What the graph has as an argument, with every size replaced by its number."""
        if isinstance(value, Node):
            meta = value.meta.get("val")
            return self.program.size(meta) if isinstance(meta, int | torch.SymInt) else value
        if isinstance(value, list | tuple):
            return [self.number(item) for item in value]
        return value


@dataclass(frozen=True)
class Resizing:
    """One call whose written sizes must follow the channels that were removed.

    Attributes:
        node: The call, in the graph that is changed.
        before: Shapes of every node's tensors, a list of them where it makes several.
        after: The same, after the cut.
        kept_before: How many indices of a node's dimension stay below an index.
        module: The original. Read, never written.
        constants: Tensors to put in place of the module's, by name.
    """

    node: Node
    before: Mapping[Node, Any]
    after: Mapping[Node, Any]
    kept_before: Callable[[Node, int, int], int]
    module: GraphModule
    constants: dict[str, Tensor]

    def sized(self, written: Sequence[Any], new: Sequence[int], old: Sequence[int]) -> list[Any]:
        """Sizes as written, except where they changed.

        A number becomes the new number. A size that the graph computes becomes -1: in a view the
        other sizes tell it, in an expansion it means that the dimension stays as it is.
        """
        result: list[Any] = []
        for size, fresh, stale in zip(written, new, old, strict=True):
            if fresh == stale or (isinstance(size, int) and size == -1):
                result.append(size)
            else:
                result.append(fresh if isinstance(size, int) else -1)
        return result


def rule(*operators: Any) -> Callable[[Rule], Rule]:
    """Register how operators couple their dimensions."""

    def register(function: Rule) -> Rule:
        for operator in operators:
            if operator in RULES:
                raise ValueError(f"{operator} has two rules")
            RULES[operator] = function
        return function

    return register


def resize(*operators: Any) -> Callable[[Resize], Resize]:
    """Register how the sizes that a call spells out follow a cut."""

    def register(function: Resize) -> Resize:
        for operator in operators:
            if operator in RESIZES:
                raise ValueError(f"{operator} is resized twice")
            RESIZES[operator] = function
        return function

    return register


def _flat(value: Value | list[Value]) -> list[Value]:
    return [value] if isinstance(value, Value) else value
