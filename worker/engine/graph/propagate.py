"""Walk the graph once and couple: from a program to its channels."""

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from worker.engine.arguments import constants
from worker.engine.errors import EngineError
from worker.engine.graph.coupler import Coupler
from worker.engine.graph.labels import FIXED, Hold, Labels, Value, compressed
from worker.engine.graph.registry import RULES, Call, Normalized, Refusal
from worker.engine.graph.rules import load_rules
from worker.engine.graph.rules.pointwise import is_pointwise, pointwise
from worker.engine.program import Program, attribute, module_path, stored_at, tensor_value

load_rules()


@dataclass(frozen=True)
class Frozen:
    """A call that may not lose channels, and why."""

    node: str
    operator: str
    module: str
    reason: str


@dataclass(frozen=True)
class Propagation:
    """What the walk found: planes of every node, and which labels are one."""

    values: dict[Node, Value | list[Value]]
    parameters: dict[str, Value]
    roots: Tensor
    frozen: list[Frozen]
    normalized: list[Normalized]
    attended: list[tuple[Value, frozenset[int]]]


class _Walk:
    def __init__(self, program: Program, *, within_heads: bool = False) -> None:
        self.program = program
        self.constants = constants(program.graph)
        self.labels = Labels()
        self.coupler = Coupler(self.labels, within_heads=within_heads)
        self.values: dict[Node, Value | list[Value]] = {}
        self.parameters: dict[str, Value] = {}
        self.frozen: list[Frozen] = []
        self.normalized: list[Normalized] = []
        self.holds: list[tuple[Node | None, Tensor]] = []
        self.is_read: dict[int, bool] = {}
        self._by_storage: dict[tuple[object, ...], Value] = {}

    def visit(self, node: Node) -> None:
        match node.op:
            case "get_attr":
                self._visit_attribute(node)
            case "placeholder":
                if tensor_value(node) is not None:
                    self.values[node] = Value(self.program.shape(node))
            case "output":
                self._fix_inputs(node)
            case _:
                self._visit_call(node)

    def _visit_attribute(self, node: Node) -> None:
        name = str(node.target)
        tensor = attribute(self.program.module, name)
        if not isinstance(tensor, Tensor):
            return  # A subgraph of a control-flow operator.
        # A tied weight is one tensor under two names: it has one set of labels.
        place = stored_at(tensor)
        if place not in self._by_storage:
            self._by_storage[place] = self.labels.fresh(tensor.shape)
        value = self._by_storage[place]
        self.is_read[id(value)] = self.is_read.get(id(value), False) or bool(node.users)
        self.values[node] = self.parameters[name] = value

    def _visit_call(self, node: Node) -> None:
        meta = node.meta.get("val")
        if node.target is operator.getitem and isinstance(node.args[0], Node):
            parts = self.values.get(node.args[0])
            if isinstance(parts, list):
                assert isinstance(node.args[1], int)
                self.values[node] = parts[node.args[1]]
            return
        if not _makes_tensors(meta) and not any(s in self.values for s in node.all_input_nodes):
            return  # Shape arithmetic.
        found = RULES.get(node.target)
        if found is None and is_pointwise(node.target):
            found = pointwise
        if found is None:
            self._freeze(node, f"no rule for {_name(node)}")
            return
        call = Call(
            node,
            self.program,
            self.labels,
            self.coupler,
            self.values,
            self.constants,
            self.normalized,
        )
        before = len(self.labels.holds)
        try:
            result = found(call)
        except Refusal as refusal:
            self._freeze(node, str(refusal))
            return
        except EngineError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is, the rest of the program stays)
            self._freeze(node, f"its rule does not cover this call ({type(error).__name__})")
            return
        if _makes_tensors(meta):
            self.values[node] = result
        self._note_holds(node, self.labels.holds[before:])

    def _note_holds(self, node: Node, holds: Sequence[Hold]) -> None:
        """Remember what a call runs over in activations: of weights, nobody expects it to go."""
        if not holds:
            return
        read = [source for source in node.all_input_nodes if source not in self.constants]
        planes = [plane.flatten() for part in self._parts(read) for plane in part.planes]
        for hold in holds:
            if hold.run_over and planes:
                own = hold.labels[torch.isin(hold.labels, torch.cat(planes))]
                self.holds.append((node if len(own) else None, own))
            else:
                self.holds.append((None, hold.labels))

    def _freeze(self, node: Node, reason: str) -> None:
        if self._fix_inputs(node):
            self.frozen.append(Frozen(node.name, _name(node), module_path(node), reason))
        meta = node.meta.get("val")
        if isinstance(meta, Tensor):
            self.values[node] = Value(self.program.shape(node))
        elif isinstance(meta, list | tuple):
            self.values[node] = [
                Value(tuple(self.program.size(size) for size in part.shape))
                if isinstance(part, Tensor)
                else Value(())
                for part in meta
            ]

    def _fix_inputs(self, node: Node) -> bool:
        """Let nothing that a node reads lose channels; whether any of it could have."""
        parts = self._parts(node.all_input_nodes)
        for part in parts:
            self.labels.fix_value(part)
        return any(part.planes for part in parts)

    def _parts(self, nodes: Iterable[Node]) -> list[Value]:
        """The values of nodes, those of lists each."""
        values = [self.values.get(node, []) for node in nodes]
        return [p for value in values for p in ([value] if isinstance(value, Value) else value)]

    def settle(self) -> Tensor:
        """Make every plane depend on one dimension only, so that tensors stay rectangular."""
        for value in self.parameters.values():
            if not self.is_read[id(value)]:  # Under none of its names.
                self.labels.fix_value(value)
        planes = [p for p in self._planes() if sum(size > 1 for size in p.shape) > 1]
        while True:
            roots = self.labels.roots()
            changed = False
            for plane in planes:
                changed |= self._settle_plane(compressed(roots[plane]))
            if not changed:
                return self._without_empty(roots)

    def found(self) -> Propagation:
        """What the walk found, settled."""
        roots = self.settle()
        frozen = [*self.frozen, *self._holding()]
        attended = self.coupler.attended
        return Propagation(self.values, self.parameters, roots, frozen, self.normalized, attended)

    def _holding(self) -> Iterator[Frozen]:
        """For each channel of a parameter that nothing but an equation fixes, the call that does.

        The first one: what comes behind it has the dimension in full, and so holds it too.
        """
        planes = [plane.flatten() for value in self.parameters.values() for plane in value.planes]
        if not any(node for node, _ in self.holds) or not planes:
            return
        free = self.labels.roots(released=True)
        channels = set(free[torch.cat(planes)].tolist()) - {FIXED}
        for node, labels in self.holds:
            found = channels.intersection(free[labels].tolist())
            channels -= found
            if node and found:
                yield Frozen(node.name, _name(node), module_path(node), "it runs over channels")

    def _without_empty(self, roots: Tensor) -> Tensor:
        """Fix what fills a dimension alone: without it the tensor would be empty."""
        planes = self._planes()
        if not planes:
            return roots
        of_all = roots[torch.cat([plane.flatten() for plane in planes])].numpy()
        starts = np.cumsum([0, *(plane.numel() for plane in planes[:-1])])
        lowest, highest = np.minimum.reduceat(of_all, starts), np.maximum.reduceat(of_all, starts)
        self.labels.fix(torch.from_numpy(lowest[lowest == highest]))
        return self.labels.roots()

    def _planes(self) -> list[Tensor]:
        """Every plane of every value, once."""
        found: dict[int, Tensor] = {}
        for value in (*self.values.values(), self.labels.inner):
            for part in [value] if isinstance(value, Value) else value:
                found.update((id(plane), plane) for plane in part.planes)
        return list(found.values())

    def _settle_plane(self, plane: Tensor) -> bool:
        varying = [dim for dim in range(plane.dim()) if plane.shape[dim] > 1]
        if len(varying) < 2:
            return False
        # The dimension with the most channels gives the finest choice; heads before head_dim
        # where an attention has decided already, or after it.
        order = 1 if self.coupler.within_heads else -1
        axis = max(
            varying,
            key=lambda dim: (_distinct_along(plane, dim), plane.shape[dim], order * dim),
        )
        for dim in varying:
            if dim != axis:
                plane = self.labels.tie_along(plane, dim)
        return True


def propagate(
    program: Program, *, exclude: frozenset[str] = frozenset(), within_heads: bool = False
) -> Propagation:
    """Find which slices of which parameters can go, and which must go together.

    Args:
        program: Read, never written; never run.
        exclude: Names of parameters whose shape may not change.
        within_heads: Attention loses the same indices within every head, and no head.
    """
    walk = _Walk(program, within_heads=within_heads)
    for node in program.graph.nodes:
        walk.visit(node)
    for name in exclude & walk.parameters.keys():
        walk.labels.fix_value(walk.parameters[name])
    return walk.found()


def _makes_tensors(meta: object) -> bool:
    if isinstance(meta, list | tuple):
        return any(isinstance(part, Tensor) for part in meta)
    return isinstance(meta, Tensor)


def _name(node: Node) -> str:
    return str(node.target).removeprefix("torch.ops.")


def _distinct_along(plane: Tensor, dim: int) -> int:
    """How many different channels would be left if all other dimensions were tied together."""
    line = plane.movedim(dim, 0).flatten(1)
    return len(set(line.min(dim=1).values.tolist()))
