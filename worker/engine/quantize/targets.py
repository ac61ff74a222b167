"""Which weights are quantized: those of products and tables, and why others are not."""

import operator
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor
from torch.fx import Node

from worker.engine.arguments import written_by
from worker.engine.changed import KEPT, LayerLine
from worker.engine.graph.counts import MACS
from worker.engine.graph.rules.convolution import TRANSPOSED
from worker.engine.graph.weights import WeightCall, weight_calls
from worker.engine.program import Program, named_parameters

aten = torch.ops.aten

_SHAPES = {
    aten.alias.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.expand.default,
    aten.permute.default,
    aten.reshape.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.squeeze.dim,
    aten.t.default,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.view.default,
}
"""What a weight goes through on its way to the product that it is for."""

_TABLES = {aten.embedding.default, aten.embedding_bag.default}


@dataclass(frozen=True)
class Target:
    """A weight that can be stored as codes.

    Attributes:
        names: Of the parameter: several where it is tied.
        weight: As it is.
        axis: The dimension of its outputs.
        calls: Convolutions and linear layers that multiply by it.
    """

    names: tuple[str, ...]
    weight: Tensor
    axis: int
    calls: tuple[WeightCall, ...]

    @property
    def name(self) -> str:
        return self.names[0]


def targets_of(
    program: Program, keep_float: Collection[str]
) -> tuple[list[Target], list[LayerLine], list[str]]:
    """The weights to quantize, a line for each that is kept, and warnings.

    Args:
        program: Whose weights.
        keep_float: Names or shell-style patterns of parameters that stay.
    """
    found: list[Target] = []
    kept: list[LayerLine] = []
    named = _named(program)
    readers = _readers(program)
    calls = list(weight_calls(program))
    for names, weight in named:
        reads = [reader for name in names for reader in readers.get(name, ())]
        own = tuple(call for call in calls if call.parameter in names)
        reason = _reason(names, reads, keep_float)
        if reason is None and not bool(weight.isfinite().all()):
            reason = "it holds NaN or infinity, for which there are no codes"
        if reason is not None:
            kept.append(LayerLine(names[0], KEPT, weight.nbytes, weight.nbytes, reason=reason))
        else:
            found.append(Target(names, weight, _axis(weight, reads, own), own))
    every = [name for names, _ in named for name in names]
    unmatched = [
        f"keep_float: nothing matches '{pattern}'"
        for pattern in keep_float
        if not any(fnmatchcase(name, pattern) for name in every)
    ]
    return found, kept, unmatched


def _named(program: Program) -> list[tuple[tuple[str, ...], Tensor]]:
    """Parameters of two dimensions or more, each once, with all of their names."""
    return [
        (names, parameter.detach())
        for names, parameter in named_parameters(program)
        if parameter.dim() > 1 and parameter.is_floating_point() and parameter.numel()
    ]


def _readers(program: Program) -> dict[str, list[Node]]:
    """What calculates with each parameter, behind views of it."""
    found: dict[str, list[Node]] = {}
    for held in program.graph.find_nodes(op="get_attr"):
        seen = {held}
        pending = list(held.users)
        while pending:
            node = pending.pop()
            if node in seen:
                continue
            seen.add(node)
            if node.target in _SHAPES or node.target is operator.getitem:
                pending += node.users
            else:
                found.setdefault(str(held.target), []).append(node)
    return found


def _reason(names: tuple[str, ...], reads: list[Node], keep_float: Collection[str]) -> str | None:
    """Why a weight stays as it is; None where it does not."""
    for pattern in keep_float:
        if any(fnmatchcase(name, pattern) for name in names):
            return f"keep_float has '{pattern}'"
    if not reads:
        return "nothing reads it"
    for reader in reads:
        if written_by(reader):
            return f"{reader.target} may write into it"
        if reader.target not in MACS and reader.target not in _TABLES:
            what = "the output" if reader.op == "output" else str(reader.target)
            return f"it is read by {what}, which is no product with a weight"
    return None


def _axis(weight: Tensor, reads: list[Node], calls: tuple[WeightCall, ...]) -> int:
    """The dimension of a weight's outputs."""
    if any(reader.target in TRANSPOSED for reader in reads):
        return 1
    if calls and weight.dim() == 2:
        return 1 - calls[0].weight_dim
    return 0
