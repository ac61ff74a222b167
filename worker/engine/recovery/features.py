"""Inner activations that a compressed program shares with its original."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from worker.engine.arguments import constants
from worker.engine.graph.blocks import ADDITIONS
from worker.engine.program import Program, module_path, tensor_value
from worker.engine.recovery.twin import twin

Place = tuple[str, int]
"""A sum: the path of the module that it is in, and how many sums are in there before it."""


@dataclass(frozen=True)
class Tapped(Program):
    """A twin of a program that keeps some activations of its last run in ``seen``."""

    seen: list[Tensor]
    count: int

    def run(self, leaves: Sequence[Any]) -> list[Tensor]:
        outputs = super().run(leaves)
        at = len(outputs) - self.count
        self.seen[:] = outputs[at:]
        return outputs[:at]


def shared_sums(program: Program, original: Program) -> list[Place]:
    """Where both add two activations, and get one shape: the residual stream, where it is whole.

    A cut renames nodes and keeps modules and their order; a sum whose block was dropped is missed
    in its module alone.
    """
    theirs = dict(_sums(original))
    return [
        place
        for place, node in _sums(program)
        if place in theirs and program.shape(node) == original.shape(theirs[place])
    ]


def tapped(program: Program, places: Sequence[Place]) -> Tapped:
    """A twin that keeps what it computes at some sums, in their order.

    What an operator changes in place after the sum is kept as changed.
    """
    sums = dict(_sums(program))
    module = twin(program, also=[sums[place] for place in places]).module
    own = {each.name: getattr(program, each.name) for each in fields(Program)}
    return Tapped(**{**own, "module": module}, seen=[], count=len(places))


def difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """The mean over places of the squared difference, in parts of the squared activation.

    Args:
        ours: Activations, each of any shape and floating dtype.
        theirs: The same of the original.

    Returns:
        A scalar in float32, 0 where all are equal, about 1 where they have nothing in common.

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015,
    https://arxiv.org/abs/1412.6550, without a regressor: the shapes are equal.
    """
    parts = [
        (one.float() - other.float()).square().mean()
        / other.float().square().mean().clamp_min(torch.finfo(torch.float32).tiny)
        for one, other in zip(ours, theirs, strict=True)
    ]
    return torch.stack(parts).mean()


def _sums(program: Program) -> Iterator[tuple[Place, Node]]:
    fixed = constants(program.graph)
    found: Counter[str] = Counter()
    for node in program.graph.nodes:
        if node.target in ADDITIONS and _adds_activations(program, node, fixed):
            path = module_path(node)
            yield (path, found[path]), node
            found[path] += 1


def _adds_activations(program: Program, node: Node, fixed: set[Node]) -> bool:
    operands = node.args[:2]
    tensors = [
        value
        for each in operands
        if isinstance(each, Node) and each not in fixed
        for value in [tensor_value(each)]
        if value is not None and value.is_floating_point()
    ]
    if len(tensors) != 2:
        return False
    return len({tuple(program.size(size) for size in value.shape) for value in tensors}) == 1
