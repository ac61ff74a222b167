"""Channels and channel groups: what can be removed, and what must go together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.fx import Node

from worker.engine.arguments import needed_by
from worker.engine.graph.blocks import Block, find_blocks, unused_without
from worker.engine.graph.labels import FIXED, Value, compressed
from worker.engine.graph.propagate import Frozen, Propagation, propagate
from worker.engine.program import Program, attribute, tensor_value


@dataclass(frozen=True, eq=False)
class Line:
    """The channel that each index of a dimension belongs to; -1 where it is fixed.

    Dimensions with the same channels share one line.
    """

    number: int
    channels: Tensor


Lines = tuple[tuple[int, Line], ...]
"""The dimensions of a tensor that have channels. A dimension may have two lines: both must stay."""


@dataclass(frozen=True)
class Member:
    """A dimension of a parameter, and the channel that each of its indices belongs to."""

    parameter: str
    dim: int
    line: Line

    @property
    def channels(self) -> Tensor:
        return self.line.channels


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that share parameter dimensions.

    ``channels`` are indices into the coupling's channels; a plan counts from 0 in each group, in
    this order. ``granularity`` says what one of them is: a channel, a head, an index within heads
    (``head_dim``), or a block (``layers``), which then has a name.
    """

    id: str
    channels: Tensor
    members: tuple[Member, ...]
    granularity: str
    channel_names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The first parameter that has these channels."""
        return self.members[0].parameter

    def __len__(self) -> int:
        return len(self.channels)


@dataclass(frozen=True)
class Coupling:
    """Everything that one analysis found."""

    program: Program
    propagation: Propagation
    lines: "_Lines"
    channel_count: int
    groups: tuple[ChannelGroup, ...]
    unmatched: tuple[str, ...]
    blocks: tuple[Block, ...] = ()

    @property
    def frozen(self) -> list[Frozen]:
        return self.propagation.frozen

    @cached_property
    def node_lines(self) -> dict[Node, list[tuple[tuple[int, ...], Lines]]]:
        """For each node, its tensors' shapes and the dimensions that have channels."""
        return {
            node: [
                (part.shape, self.lines.of(part))
                for part in ([value] if isinstance(value, Value) else value)
            ]
            for node, value in self.propagation.values.items()
        }

    @cached_property
    def parameter_lines(self) -> dict[str, tuple[tuple[int, ...], Lines]]:
        """For each parameter, buffer and constant that the graph reads, the same."""
        return {
            name: (value.shape, self.lines.of(value))
            for name, value in self.propagation.parameters.items()
        }

    @cached_property
    def tensors(self) -> list[tuple[str, Tensor]]:
        """Parameters, buffers and constants that a file holds, each once, as a tied weight is."""
        module = self.program.module
        names = (str(node.target) for node in self.program.graph.find_nodes(op="get_attr"))
        constants = ((name, attribute(module, name)) for name in names)
        found: dict[int, tuple[str, Tensor]] = {}
        for name, tensor in (*module.named_parameters(), *module.named_buffers(), *constants):
            if isinstance(tensor, Tensor):  # A subgraph is an attribute too.
                found.setdefault(id(tensor), (name, tensor))
        return list(found.values())

    @cached_property
    def all_lines(self) -> list[Line]:
        """Every line of the program, by number."""
        _ = self.node_lines, self.parameter_lines  # Lines are found while these are read.
        return self.lines.all

    @cached_property
    def sets(self) -> list[Tensor]:
        """Channels that fill a dimension of some tensor alone: one of each set has to stay.

        Small sets come first: in a concatenation, each part before the whole.
        """
        found: dict[bytes, Tensor] = {}
        for line in self.all_lines:
            if int(line.channels.min()) >= 0:
                distinct = np.unique(line.channels.numpy())
                found.setdefault(distinct.tobytes(), torch.from_numpy(distinct))
        return sorted(found.values(), key=len)

    def normalized_with(self, keep: Tensor) -> list[Node]:
        """The calls whose statistics run over a dimension that loses indices, and are used."""
        kept = self.kept(keep)
        used = needed_by(self.program.graph)
        return [
            normalized.node
            for normalized in self.propagation.normalized
            if normalized.node in used
            and any(
                kept.shapes(normalized.source)[0][dim]
                != self.node_lines[normalized.source][0][0][dim]
                for dim in normalized.dims
            )
        ]

    def kept(self, keep: Tensor) -> "Kept":
        """What is left with only the channels of ``keep``.

        Args:
            keep: Bool, ``(channel_count + 1,)``; the last stands for what is fixed, and is True.
        """
        dropped = [block for at, block in enumerate(self.blocks) if not keep[at]]
        gone = unused_without(self.program.graph, (n for block in dropped for n in block.body))
        return Kept(self, keep, _sizes(self.all_lines, keep), frozenset(gone if dropped else ()))

    def numbers_in(self, group: ChannelGroup) -> Tensor:
        """The number in a group of each channel: int64, ``(channel_count + 1,)``.

        -1 for the channels of other groups and, in the last place, for the fixed.
        """
        numbers = torch.full((self.channel_count + 1,), -1)
        numbers[group.channels] = torch.arange(len(group))
        return numbers

    def everything(self) -> Tensor:
        """The ``keep`` that removes nothing."""
        return torch.ones(self.channel_count + 1, dtype=torch.bool)


@dataclass(frozen=True)
class Kept:
    """A choice of channels, and the sizes that every line has with it."""

    coupling: Coupling
    keep: Tensor
    sizes: list[int]
    gone: frozenset[Node]

    @cached_property
    def gone_parameters(self) -> set[str]:
        """Names that nobody reads any more."""
        reads = [n for n in self.coupling.program.graph.nodes if n.op == "get_attr"]
        stay = {str(node.target) for node in reads if node not in self.gone}
        return {str(node.target) for node in reads} - stay if self.gone else set()

    def shapes(self, node: Node) -> list[tuple[int, ...]]:
        """Shapes of a node's tensors."""
        return [self._shape(shape, lines) for shape, lines in self.coupling.node_lines[node]]

    def parameter_shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a parameter, buffer or constant; None for one that the graph does not read.

        ``(0,)`` for one that goes with its block.
        """
        if name in self.gone_parameters:
            return (0,)
        if name not in self.coupling.parameter_lines:
            return None
        return self._shape(*self.coupling.parameter_lines[name])

    def _shape(self, shape: tuple[int, ...], lines: Lines) -> tuple[int, ...]:
        if not lines:
            return shape
        new = list(shape)
        for dim, line in lines:
            new[dim] = self.sizes[line.number]
        if len({dim for dim, _ in lines}) < len(lines):
            for dim, _ in lines:
                new[dim] = int(kept_along(lines, dim, shape[dim], self.keep).sum())
        return tuple(new)


class _Lines:
    """Every line of an analysis, each once."""

    def __init__(self, channel_of: Tensor) -> None:
        self._channel_of = channel_of
        self._by_plane: dict[int, tuple[int, Line] | None] = {}
        self._by_channels: dict[bytes, Line] = {}

    @property
    def all(self) -> list[Line]:
        return list(self._by_channels.values())

    def of(self, value: Value) -> Lines:
        """Which channel each index of each dimension belongs to."""
        found = (self._of_plane(plane) for plane in value.planes)
        return tuple(place for place in found if place is not None)

    def _of_plane(self, plane: Tensor) -> tuple[int, Line] | None:
        # Planes live as long as the analysis, so that no two have the same id.
        if id(plane) not in self._by_plane:
            self._by_plane[id(plane)] = self._read(plane)
        return self._by_plane[id(plane)]

    def _read(self, plane: Tensor) -> tuple[int, Line] | None:
        varying = [dim for dim, size in enumerate(plane.shape) if size > 1]
        if len(varying) > 1:
            plane = compressed(self._channel_of[plane])
            varying = [dim for dim, size in enumerate(plane.shape) if size > 1]
            assert len(varying) <= 1, "a plane that was not settled"
            channels = plane.reshape(-1).numpy()
        else:
            channels = self._channel_of.numpy()[plane.reshape(-1).numpy()]
        if not varying or bool((channels == channels[0]).all()):
            return None
        key = channels.tobytes()
        found = self._by_channels.get(key)
        if found is None:
            found = Line(len(self._by_channels), torch.from_numpy(channels))
            self._by_channels[key] = found
        return varying[0], found


def _sizes(lines: list[Line], keep: Tensor) -> list[int]:
    """How many indices of each line stay."""
    if not lines:
        return []
    channels = [line.channels for line in lines]
    starts = np.cumsum([0, *map(len, channels[:-1])])
    flags = keep[torch.cat(channels)].numpy().astype(np.int64)
    return [int(size) for size in np.add.reduceat(flags, starts)]


def kept_along(lines: Lines, dim: int, size: int, keep: Tensor) -> Tensor:
    """Which indices of a dimension stay: bool, ``(size,)``."""
    kept = torch.ones(size, dtype=torch.bool)
    for at, line in lines:
        if at == dim:
            kept &= keep[line.channels]
    return kept


def couple(
    program: Program, *, exclude: Sequence[str] = (), granularity: str = "channels"
) -> Coupling:
    """Find the channels of a program, without running it.

    Args:
        program: Read, never written.
        exclude: Shell-style patterns of parameter names whose shape may not change.
        granularity: ``channels`` finds all channel groups, attention losing whole heads; ``heads``
            those of heads alone; ``head_dim`` those within heads alone; ``layers`` finds residual
            blocks.
    """
    names = _parameter_names(program)
    matched = frozenset(name for name in names for pattern in exclude if fnmatchcase(name, pattern))
    unmatched = tuple(p for p in exclude if not any(fnmatchcase(name, p) for name in names))
    if granularity == "layers":
        return _with_blocks(program, find_blocks(program, exclude=matched), unmatched)
    within_heads = granularity == "head_dim"
    propagation = propagate(program, exclude=matched, within_heads=within_heads)
    coupling = channels_of(program, propagation, unmatched)
    if granularity == "channels":
        return coupling
    groups = tuple(group for group in coupling.groups if group.granularity == granularity)
    return replace(coupling, groups=groups)


def _with_blocks(
    program: Program, blocks: tuple[Block, ...], unmatched: tuple[str, ...]
) -> Coupling:
    """One group whose channels are the blocks of a program."""
    count = len(blocks)
    tensors = dict(program.module.named_parameters(remove_duplicate=False))
    members = tuple(
        Member(name, 0, Line(number, torch.full((len(tensors[name]),), number)))
        for number, block in enumerate(blocks)
        for name in block.parameters
        if name in tensors and tensors[name].dim()
    )
    names = tuple(block.name for block in blocks)
    group = ChannelGroup("g0", torch.arange(count), members, "layers", names)
    nodes = [node for node in program.graph.nodes if tensor_value(node) is not None]
    values: dict[Node, Value | list[Value]] = {node: Value(program.shape(node)) for node in nodes}
    nothing = Propagation(values, {}, torch.zeros(1, dtype=torch.int64), [], [], [])
    groups = (group,) if members else ()
    lines = _Lines(torch.full((1,), -1))
    return Coupling(program, nothing, lines, count, groups, unmatched, blocks)


def channels_of(
    program: Program, propagation: Propagation, unmatched: tuple[str, ...] = ()
) -> Coupling:
    """Number the channels that a walk found, and group them."""
    trained = {name for name, _ in program.module.named_parameters(remove_duplicate=False)}
    roots = propagation.roots
    vectors = [
        roots[plane.flatten()]
        for name, value in propagation.parameters.items()
        if name in trained
        for plane in value.planes
    ]
    channel_of, count = _number_channels(roots, vectors)
    lines = _Lines(channel_of)
    members = [
        Member(name, dim, line)
        for name, value in propagation.parameters.items()
        for dim, line in lines.of(value)
    ]
    groups = _groups(members, count, _kinds(propagation, channel_of))
    return Coupling(program, propagation, lines, count, groups, unmatched)


def _parameter_names(program: Program) -> list[str]:
    module = program.module
    return [
        *(name for name, _ in module.named_parameters(remove_duplicate=False)),
        *(name for name, _ in module.named_buffers(remove_duplicate=False)),
    ]


def _number_channels(roots: Tensor, vectors: list[Tensor]) -> tuple[Tensor, int]:
    """Number the roots that parameters have, in order of appearance; -1 for the fixed."""
    table = torch.full((int(roots.max()) + 1,), -1)
    if not vectors:
        return table[roots], 0
    named, first = np.unique(torch.cat(vectors).numpy(), return_index=True)
    ordered = named[np.argsort(first)]
    order = torch.from_numpy(ordered[ordered != FIXED])
    table[order] = torch.arange(len(order))
    return table[roots], len(order)


_KINDS = ("heads", "head_dim")


def _kinds(propagation: Propagation, channel_of: Tensor) -> dict[int, str]:
    """The channels that are heads of an attention, and those that lie within its heads."""
    kinds: dict[int, str] = {}
    for value, heads in propagation.attended:
        for plane in value.planes:
            channels = compressed(channel_of[plane])
            varying = [dim for dim, size in enumerate(channels.shape) if size > 1]
            if varying:
                kind = "heads" if varying[0] in heads else "head_dim"
                for channel in set(channels.flatten().tolist()):
                    if kinds.get(channel) != "heads":
                        kinds[channel] = kind
    return kinds


def _groups(
    members: list[Member], count: int, kinds: Mapping[int, str]
) -> tuple[ChannelGroup, ...]:
    """Channels that meet in some parameter dimension form a group."""
    if not members:
        return ()
    lines = {member.line.number: member.line.channels for member in members}
    rows = [channels[channels >= 0] for channels in lines.values()]
    row = torch.cat(rows).numpy()
    column = np.repeat([count + number for number in lines], [len(channels) for channels in rows])
    size = count + max(lines) + 1
    graph = coo_array((np.ones(len(row), dtype=np.int8), (row, column)), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    # Heads and other channels may meet in a concatenation: they are ranked apart.
    part_of = component[:count] * (len(_KINDS) + 1)
    for channel, kind in kinds.items():
        if channel >= 0:
            part_of[channel] += 1 + _KINDS.index(kind)
    order = np.argsort(part_of, kind="stable")
    found, first, sizes = np.unique(part_of, return_index=True, return_counts=True)
    parts = np.split(order, np.cumsum(sizes)[:-1]) if count else []
    owned: dict[int, list[Member]] = {part: [] for part in found.tolist()}
    parts_of = {
        number: np.unique(part_of[channels.numpy()]).tolist()
        for number, channels in zip(lines, rows, strict=True)
    }
    for member in members:
        for part in parts_of[member.line.number]:
            owned[part].append(member)
    return tuple(
        ChannelGroup(
            id=f"g{number}",
            channels=torch.from_numpy(parts[at]),
            members=tuple(owned[int(found[at])]),
            granularity=kinds.get(int(parts[at][0]), "channels"),
        )
        for number, at in enumerate(np.argsort(first))
    )
