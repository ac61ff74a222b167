"""Layers as least-squares problems: what they read, and what they should give for it."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.fx import Node

from worker.engine.arguments import argument
from worker.engine.criteria.columns import columns_of, groups_of, is_convolution
from worker.engine.graph.blocks import ADDITIONS
from worker.engine.graph.rules.recurrent import GATES
from worker.engine.graph.weights import WeightCall, bias_of, weight_calls
from worker.engine.program import Program, attribute, set_attribute
from worker.engine.recovery.lockstep import Lockstep
from worker.engine.recovery.remaining import Remaining

aten = torch.ops.aten

PASSES = (aten.alias.default, aten.dropout.default, aten.dropout_.default)
"""What changes nothing in evaluation."""


class Layer(Protocol):
    """A call whose weights can be solved for."""

    @property
    def node(self) -> Node: ...

    @property
    def twin(self) -> Node:
        """The same call in the reference."""

    @property
    def parameter(self) -> str:
        """The weight, by name."""

    @property
    def start(self) -> Tensor:
        """The weight as it is: float64, ``(problems, n, outputs)``."""

    @property
    def has_offset(self) -> bool:
        """Whether a number can be added to each output."""

    @property
    def scale(self) -> Tensor:
        """What each output is multiplied with where it counts: float64, ``(outputs in all,)``."""

    def columns(self, values: Mapping[Node, Any]) -> Tensor:
        """What is multiplied with the weight: ``(rows, problems, n)``."""

    def targets(self, reference: Lockstep, ours: Lockstep) -> Iterator[Tensor]:
        """What should come out, times the scale, batch by batch: ``(rows, outputs in all)``.

        Runs the reference up to the twin and through it.
        """

    def write(self, weight: Tensor, offset: Tensor) -> None:
        """Take a solution: as ``start``, and ``(outputs in all,)``, both without the scale."""


def solvable(
    program: Program, reference: Program, remaining: Remaining, *, but: Collection[str]
) -> list[Layer]:
    """The layers of a program that read something else than in the reference, in its order.

    Args:
        program: What is left after a cut.
        reference: What there was before.
        remaining: Which indices of the reference's parameters the program has.
        but: Names of parameters to leave alone.
    """
    ours = {layer.parameter: layer for layer in layers_of(program)}
    twins = {layer.parameter: layer.node for layer in layers_of(reference)}
    changed = _changed(program, remaining)
    order = {node: at for at, node in enumerate(program.graph.nodes)}
    found: list[Layer] = []
    for name, layer in ours.items():
        if name in twins and name not in but and layer.source in changed:
            found.append(layer.beside(reference, twins[name], remaining))
    return sorted(found, key=lambda layer: order[layer.node])


def layers_of(program: Program) -> Iterator["_Product | _Recurrent"]:
    """Those whose weight and bias nobody else reads."""
    readers = Counter(
        id(attribute(program.module, str(node.target)))
        for node in program.graph.find_nodes(op="get_attr")
        for _ in node.users
    )

    def is_own(node: object) -> bool:
        """Whether a value is a tensor as it is held, which has one reader, by whatever name."""
        if not isinstance(node, Node) or node.op != "get_attr":
            return False
        return readers[id(attribute(program.module, str(node.target)))] == 1

    yield from _products(program, is_own)
    yield from _recurrent(program, is_own)


def _changed(program: Program, remaining: Remaining) -> set[Node]:
    """The values that are not what they are in the reference."""
    if remaining.has_lost_blocks:
        return set(program.graph.nodes)
    found: set[Node] = set()
    for node in program.graph.nodes:
        is_cut = node.op == "get_attr" and str(node.target) in remaining.indices
        if is_cut or found.intersection(node.all_input_nodes):
            found.add(node)
    return found


def _tensor(program: Program, node: Node) -> Tensor:
    found = attribute(program.module, str(node.target))
    assert isinstance(found, Tensor)
    return found.detach()


def _put(program: Program, name: str, value: Tensor) -> None:
    """Give a parameter or buffer another value, and leave the tensor that it was to others."""
    before = attribute(program.module, name)
    assert isinstance(before, Tensor)
    after = value.to(before.dtype).contiguous()
    if isinstance(before, torch.nn.Parameter):
        after = torch.nn.Parameter(after, requires_grad=before.requires_grad)
    set_attribute(program.module, name, after)


def _products(program: Program, is_own: Callable[[object], bool]) -> Iterator["_Product"]:
    for call in weight_calls(program):
        node, weight = call.node, attribute(program.module, call.parameter)
        assert isinstance(weight, Tensor)
        dims = len(program.shape(call.source))
        is_batched = dims == weight.dim() if is_convolution(node) else dims > 1
        bias = bias_of(node)
        norm = _norm_behind(node)
        place = argument(norm, "running_mean") if bias is None and norm is not None else bias
        is_plain = bias is None or (is_own(bias) and len(program.shape(bias)) == 1)
        if is_batched and is_plain and is_own(_held(node, call)) and weight.is_floating_point():
            yield _Product(program, call, norm, place if is_own(place) else None)


def _held(node: Node, call: WeightCall) -> Node | None:
    """The weight as the module holds it."""
    graph = node.graph
    named = (each for each in graph.find_nodes(op="get_attr") if each.target == call.parameter)
    return next(named, None)


def _norm_behind(node: Node) -> Node | None:
    """The batch norm with running statistics that alone reads a call's output."""
    if len(node.users) != 1:
        return None
    [reader] = node.users
    if reader.target != aten.batch_norm.default:
        return None
    return reader if argument(reader, "running_mean") is not None else None


@dataclass(frozen=True)
class _Product:
    """A convolution or linear layer."""

    program: Program
    call: WeightCall
    norm: Node | None
    offset: Node | None
    """Where an offset can be put: a bias, or the mean that the batch norm subtracts."""
    twin_node: Node | None = None
    kept: Tensor | None = None

    def beside(self, reference: Program, twin: Node, remaining: Remaining) -> "_Product":
        del reference
        size = self._weight.shape[self._output_dim]
        kept = remaining.along(self.parameter, self._output_dim, size)
        return replace(self, twin_node=twin, kept=kept.to(self.program.device))

    @property
    def node(self) -> Node:
        return self.call.node

    @property
    def twin(self) -> Node:
        assert self.twin_node is not None
        return self.twin_node

    @property
    def parameter(self) -> str:
        return self.call.parameter

    @property
    def source(self) -> Node:
        return self.call.source

    @property
    def _weight(self) -> Tensor:
        found = attribute(self.program.module, self.parameter)
        assert isinstance(found, Tensor)
        return found.detach()

    @property
    def _output_dim(self) -> int:
        return 0 if is_convolution(self.node) else 1 - self.call.weight_dim

    @property
    def start(self) -> Tensor:
        weight = self._weight.double()
        lines = weight if self._output_dim == 0 else weight.T
        groups = groups_of(self.node)
        return lines.reshape(groups, len(lines) // groups, -1).mT

    @property
    def has_offset(self) -> bool:
        return self.offset is not None

    @property
    def scale(self) -> Tensor:
        outputs = self._weight.shape[self._output_dim]
        if self.norm is None:
            return torch.ones(outputs, dtype=torch.float64, device=self.program.device)
        variance = _tensor(self.program, argument(self.norm, "running_var")).double()
        scale: Tensor = (variance + argument(self.norm, "eps")).rsqrt()
        if (weight := argument(self.norm, "weight")) is not None:
            scale = scale * _tensor(self.program, weight).double()
        return scale

    def columns(self, values: Mapping[Node, Any]) -> Tensor:
        columns = columns_of(self.call, values[self.source], self.program)
        return columns.view(len(columns), groups_of(self.node), -1)

    def targets(self, reference: Lockstep, ours: Lockstep) -> Iterator[Tensor]:
        outputs = list(reference.run_through(self.twin))
        drift = self._drift(reference, ours)
        for at, output in enumerate(outputs):
            target = self._lines(output)[:, self.kept] * self.scale
            yield target if drift is None else target + drift[at]

    def _drift(self, reference: Lockstep, ours: Lockstep) -> list[Tensor] | None:
        """What the other summand of a sum lacks by now, which this one can make up for."""
        found, twins = _other_summand(self.node), _other_summand(self.twin)
        if found is None or twins is None:
            return None
        now = ours.ahead(found)
        before = None if now is None else reference.ahead(twins)
        if now is None or before is None:
            return None
        return [
            (self._lines(was)[:, self.kept] - self._lines(value)).double()
            for was, value in zip(before, now, strict=True)
        ]

    def _lines(self, output: Tensor) -> Tensor:
        """Outputs with their channels last, all else as one."""
        moved = output.movedim(1, -1) if is_convolution(self.node) else output
        return moved.flatten(0, -2)

    def write(self, weight: Tensor, offset: Tensor) -> None:
        lines = weight.mT.flatten(0, 1)
        lines = lines if self._output_dim == 0 else lines.T
        _put(self.program, self.parameter, lines.reshape(self._weight.shape))
        if self.offset is None:
            return
        name = str(self.offset.target)
        is_mean = self.norm is not None and self.offset is argument(self.norm, "running_mean")
        value = _tensor(self.program, self.offset) - offset if is_mean else offset
        _put(self.program, name, value)


def _other_summand(node: Node) -> Node | None:
    """What a call's output is added to, behind its batch norm; of the same shape."""
    end = node
    while len(end.users) == 1:
        [reader] = end.users
        if reader.target in ADDITIONS:
            first, second = reader.args[:2]
            other = second if first is end else first
            if not isinstance(other, Node) or other is end or reader.kwargs:
                return None
            is_alike = tuple(other.meta["val"].shape) == tuple(node.meta["val"].shape)
            return other if is_alike else None
        if reader.target != aten.batch_norm.default and reader.target not in PASSES:
            return None
        end = reader
    return None


def _recurrent(program: Program, is_own: Callable[[object], bool]) -> Iterator["_Recurrent"]:
    """The weights by which the first layer of a recurrent call reads its input."""
    for node in program.graph.nodes:
        if node.target not in GATES:
            continue
        params = argument(node, "params")
        directions = 2 if argument(node, "bidirectional") else 1
        per_cell = len(params) // (directions * argument(node, "num_layers"))
        source = argument(node, "input")
        for cell in range(directions):
            weight = params[cell * per_cell]
            bias = params[cell * per_cell + 2] if argument(node, "has_biases") else None
            if is_own(weight) and len(program.shape(source)) == 3:
                yield _Recurrent(program, node, source, weight, bias if is_own(bias) else None)


@dataclass(frozen=True)
class _Recurrent:
    """What all gates of a recurrent layer read of its input, as one linear layer.

    What comes out of it cannot be seen in a graph: it is computed here.
    """

    program: Program
    node: Node
    source: Node
    weight: Node
    bias: Node | None
    reference: Program | None = None
    twin_node: Node | None = None
    kept: Tensor | None = None

    def beside(self, reference: Program, twin: Node, remaining: Remaining) -> "_Recurrent":
        size = len(_tensor(self.program, self.weight))
        kept = remaining.along(self.parameter, 0, size).to(self.program.device)
        return replace(self, reference=reference, twin_node=twin, kept=kept)

    @property
    def twin(self) -> Node:
        assert self.twin_node is not None
        return self.twin_node

    @property
    def parameter(self) -> str:
        return str(self.weight.target)

    @property
    def start(self) -> Tensor:
        return _tensor(self.program, self.weight).double().T[None]

    @property
    def has_offset(self) -> bool:
        return self.bias is not None

    @property
    def scale(self) -> Tensor:
        size = len(_tensor(self.program, self.weight))
        return torch.ones(size, dtype=torch.float64, device=self.program.device)

    def columns(self, values: Mapping[Node, Any]) -> Tensor:
        found: Tensor = values[self.source]
        return found.flatten(0, 1)[:, None]

    def targets(self, reference: Lockstep, ours: Lockstep) -> Iterator[Tensor]:
        del ours
        assert self.reference is not None
        weight = attribute(self.reference.module, self.parameter)
        assert isinstance(weight, Tensor)
        reference.run_to(self.twin)
        read = argument(self.twin, "input")
        for values in reference.values:
            yield values[read].flatten(0, 1) @ weight.detach()[self.kept].T

    def write(self, weight: Tensor, offset: Tensor) -> None:
        _put(self.program, self.parameter, weight[0].T)
        if self.bias is not None:
            _put(self.program, str(self.bias.target), _tensor(self.program, self.bias) + offset)
