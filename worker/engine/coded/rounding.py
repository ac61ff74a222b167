"""Rounded activations, found in a program by the names of their buffers.

How they are told in a graph is said in :mod:`worker.engine.packed`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.fx import Node

from worker.engine.program import Program, attribute

_BACK_TO_QUOTIENT = 4
"""From what is subtracted the zero point of: clamp, add, round, div."""


@dataclass(frozen=True)
class Rounded:
    """A value that is rounded to 256 levels.

    Attributes:
        name: What the names of its buffers begin with.
        source: What is rounded.
        result: What takes its place.
        scale: Of one level; None where each call has its own.
        zero_point: The code of zero, in [-128, 127]; None as well.
    """

    name: str
    source: Node
    result: Node
    scale: float | None = None
    zero_point: int | None = None

    @property
    def is_dynamic(self) -> bool:
        """Whether each call has a range of its own."""
        return self.scale is None


def rounded_activations(program: Program) -> Iterator[Rounded]:
    """All of a program, those with fixed ranges first."""
    held = {str(node.target): node for node in program.graph.find_nodes(op="get_attr")}
    for name in program.packed.static:
        divided, multiplied = held[f"{name}_scale"].users
        source = divided.args[0]
        assert isinstance(source, Node)
        scale = _number(program, f"{name}_scale")
        zero_point = round(_number(program, f"{name}_zero_point"))
        yield Rounded(name, source, multiplied, scale, zero_point)
    for name in program.packed.dynamic:
        [scale_node] = held[f"{name}_least"].users
        *_, multiplied = scale_node.users
        quotient = multiplied.args[0]
        for _ in range(_BACK_TO_QUOTIENT):
            assert isinstance(quotient, Node)
            quotient = quotient.args[0]
        assert isinstance(quotient, Node)
        source = quotient.args[0]
        assert isinstance(source, Node)
        yield Rounded(name, source, multiplied)


def _number(program: Program, name: str) -> float:
    found = attribute(program.module, name)
    assert isinstance(found, Tensor)
    return float(found)
