"""Channels and channel groups: what can be removed, and what must go together."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.fx import Node

from worker.engine.graph.labels import FIXED, Value, compressed
from worker.engine.graph.propagate import Frozen, Propagation, propagate
from worker.engine.program import Program

Lines = tuple[tuple[int, Tensor], ...]
"""Dimensions of a tensor that have channels: (dim, channel of each index; -1 where fixed)."""


@dataclass(frozen=True)
class Member:
    """A dimension of a parameter, and the channel that each of its indices belongs to."""

    parameter: str
    dim: int
    channels: Tensor


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that share parameter dimensions.

    ``channels`` are indices into the coupling's channels; a plan counts from 0 in each group, in
    this order.
    """

    id: str
    channels: Tensor
    members: tuple[Member, ...]

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
    channel_of: Tensor
    channel_count: int
    groups: tuple[ChannelGroup, ...]
    unmatched: tuple[str, ...]

    @property
    def frozen(self) -> list[Frozen]:
        return self.propagation.frozen

    @cached_property
    def node_lines(self) -> dict[Node, list[tuple[tuple[int, ...], Lines]]]:
        """For each node, its tensors' shapes and the dimensions that have channels."""
        return {
            node: [
                (part.shape, self.lines(part))
                for part in ([value] if isinstance(value, Value) else value)
            ]
            for node, value in self.propagation.values.items()
        }

    @cached_property
    def sets(self) -> list[Tensor]:
        """Channels that fill a dimension of some tensor alone: one of each set has to stay.

        Small sets come first: in a concatenation, each part before the whole.
        """
        found: dict[tuple[int, ...], Tensor] = {}
        for tensors in self.node_lines.values():
            for _, lines in tensors:
                for _, channels in lines:
                    if int(channels.min()) >= 0:
                        distinct = np.unique(channels.numpy())
                        found.setdefault(tuple(distinct), torch.from_numpy(distinct))
        return sorted(found.values(), key=len)

    def lines(self, value: Value) -> Lines:
        """Which channel each index of each dimension belongs to."""
        found: list[tuple[int, Tensor]] = []
        for plane in value.planes:
            channels = compressed(self.channel_of[plane])
            varying = [dim for dim in range(channels.dim()) if channels.shape[dim] > 1]
            assert len(varying) <= 1, "a plane that was not settled"
            if varying:
                found.append((varying[0], channels.flatten()))
        return tuple(found)

    def normalized_with(self, keep: Tensor) -> list[Node]:
        """The normalizations over a dimension that loses indices."""
        found = [
            normalized.node
            for normalized in self.propagation.normalized
            if self.shapes(normalized.source, keep)[0][normalized.dim]
            != self.node_lines[normalized.source][0][0][normalized.dim]
        ]
        return list(dict.fromkeys(found))

    def shapes(self, node: Node, keep: Tensor) -> list[tuple[int, ...]]:
        """Shapes of a node's tensors when only the channels of ``keep`` are left.

        Args:
            node: Of the program.
            keep: Bool, ``(channel_count + 1,)``; the last stands for what is fixed, and is True.
        """
        return [kept_shape(shape, lines, keep) for shape, lines in self.node_lines[node]]

    def everything(self) -> Tensor:
        """The ``keep`` that removes nothing."""
        return torch.ones(self.channel_count + 1, dtype=torch.bool)


def kept_along(lines: Lines, dim: int, size: int, keep: Tensor) -> Tensor:
    """Which indices of a dimension stay: bool, ``(size,)``."""
    kept = torch.ones(size, dtype=torch.bool)
    for at, channels in lines:
        if at == dim:
            kept &= keep[channels]
    return kept


def kept_shape(shape: Sequence[int], lines: Lines, keep: Tensor) -> tuple[int, ...]:
    """A shape after the cut."""
    new = list(shape)
    for dim in {at for at, _ in lines}:
        new[dim] = int(kept_along(lines, dim, shape[dim], keep).sum())
    return tuple(new)


def couple(program: Program, *, exclude: Sequence[str] = ()) -> Coupling:
    """Find the channels of a program, without running it.

    Args:
        program: Read, never written.
        exclude: Shell-style patterns of parameter names whose shape may not change.
    """
    names = _parameter_names(program)
    matched = frozenset(name for name in names for pattern in exclude if fnmatchcase(name, pattern))
    unmatched = tuple(p for p in exclude if not any(fnmatchcase(name, p) for name in names))
    return channels_of(program, propagate(program, exclude=matched), unmatched)


def channels_of(
    program: Program, propagation: Propagation, unmatched: tuple[str, ...] = ()
) -> Coupling:
    """Number the channels that a walk found, and group them."""
    trained = {name for name, _ in program.module.named_parameters(remove_duplicate=False)}
    rooted = {
        name: [(dim, propagation.roots[vector]) for dim, vector in _vectors(value)]
        for name, value in propagation.parameters.items()
    }
    channel_of, count = _number_channels(
        propagation.roots, [v for name in rooted if name in trained for _, v in rooted[name]]
    )
    members = [
        Member(name, dim, channel_of[vector])
        for name, dims in rooted.items()
        for dim, vector in dims
        if bool((channel_of[vector] >= 0).any())
    ]
    groups = _groups(members, count)
    return Coupling(program, propagation, channel_of, count, groups, unmatched)


def _parameter_names(program: Program) -> list[str]:
    module = program.module
    return [
        *(name for name, _ in module.named_parameters(remove_duplicate=False)),
        *(name for name, _ in module.named_buffers(remove_duplicate=False)),
    ]


def _vectors(value: Value) -> list[tuple[int, Tensor]]:
    """The label vector of each dimension of a parameter."""
    return [
        (next(dim for dim, size in enumerate(plane.shape) if size > 1), plane.flatten())
        for plane in value.planes
    ]


def _number_channels(roots: Tensor, vectors: list[Tensor]) -> tuple[Tensor, int]:
    """Number the roots that parameters have, in order of appearance; -1 for the fixed."""
    numbers: dict[int, int] = {}
    for vector in vectors:
        for root in vector.tolist():
            if root != FIXED:
                numbers.setdefault(root, len(numbers))
    table = torch.full((int(roots.max()) + 1,), -1)
    if numbers:
        table[list(numbers)] = torch.arange(len(numbers))
    return table[roots], len(numbers)


def _groups(members: list[Member], count: int) -> tuple[ChannelGroup, ...]:
    """Channels that meet in some parameter dimension form a group."""
    rows: list[np.ndarray] = []
    columns: list[np.ndarray] = []
    for at, member in enumerate(members):
        channels = np.unique(member.channels[member.channels >= 0].numpy())
        rows.append(channels)
        columns.append(np.full(len(channels), count + at))
    if not members:
        return ()
    row, column = np.concatenate(rows), np.concatenate(columns)
    size = count + len(members)
    graph = coo_array((np.ones(len(row), dtype=np.int8), (row, column)), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    by_component: dict[int, list[int]] = {}
    for channel in range(count):
        by_component.setdefault(int(component[channel]), []).append(channel)
    groups = []
    for number, (found, numbers) in enumerate(by_component.items()):
        own = tuple(m for at, m in enumerate(members) if component[count + at] == found)
        groups.append(ChannelGroup(f"g{number}", torch.tensor(numbers), own))
    return tuple(groups)
