"""Merge what is removed into what stays: who reads a removed channel reads a stand-in instead."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from worker.engine.criteria.activations import Sight, Watch
from worker.engine.criteria.subject import Subject
from worker.engine.data import Batch
from worker.engine.graph.coupling import ChannelGroup, Coupling, Line
from worker.engine.graph.flow import Flow, Read
from worker.engine.graph.silence import StandIn, StandIns
from worker.engine.inputs import drawn
from worker.engine.program import attribute

_ROWS, _PER_CALL, _CALLS = 512, 64, 16
_DOES_NOT_RUN = (AssertionError, IndexError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Merge:
    """A removed channel and its stand-in, as numbers in their group.

    ``scales`` says, for each weight that reads both, what the stand-in is multiplied by.
    """

    source: int
    target: int
    scales: Mapping[str, float]


Merges = Mapping[str, tuple[Merge, ...]]
"""By the id of the channel group."""


Place = tuple[int, Line]
"""A dimension of a weight, and the channel of each of its indices."""


@dataclass(frozen=True)
class _Bundle:
    """Reads that share weights, and all of their weights: one scale serves them all.

    ``weights`` says, by name, along which dimension they read.
    """

    reads: tuple[Read, ...]
    weights: Mapping[str, Place]

    def of(self, group: ChannelGroup) -> dict[str, Place]:
        """The weights that read channels of a group."""
        return {
            name: (dim, line)
            for name, (dim, line) in self.weights.items()
            if bool(torch.isin(line.channels, group.channels).any())
        }


def find_merges(
    subject: Subject, keep: Tensor, *, pairs: Mapping[str, Mapping[int, int]]
) -> Merges:
    """A stand-in for each removed channel: the one of its group that its readers miss it least for.

    Activations are compared where they are read, on training rows if there are any, else on inputs
    that are drawn. Onto the stand-in goes the least-squares multiple: for each removed channel by
    itself, what is read is never worse than zero.

    Args:
        subject: The program.
        keep: Bool, ``(channel_count + 1,)``.
        pairs: Stand-ins given by hand: by group id, from removed to kept.

    Returns:
        Merges for the groups that have any. A removed channel that nothing with weights reads, or
        that resembles no other, has none: it is cut.
    """
    bundles = _bundles(subject.coupling, subject.flow)
    grams = _grams(subject, [read for bundle in bundles for read in bundle.reads])
    found = {}
    for group in subject.groups:
        stays = keep[group.channels]
        if bool(stays.all()):
            continue
        merges = _merges_in(subject, group, stays, bundles, grams, pairs.get(group.id, {}))
        if merges:
            found[group.id] = merges
    return found


def _merges_in(
    subject: Subject,
    group: ChannelGroup,
    stays: Tensor,
    bundles: Iterable[_Bundle],
    grams: Mapping[Sight, "_Gram"],
    pairs: Mapping[int, int],
) -> tuple[Merge, ...]:
    size = len(group)
    gains = torch.zeros(size, size, dtype=torch.float64)
    ratios: list[tuple[list[str], Tensor]] = []
    for bundle in bundles:
        weights = bundle.of(group)
        if not weights:
            continue
        gram = _joined(subject, group, bundle, grams)
        own = gram.diagonal()
        # How much of channel j a multiple of channel i can be, and which multiple.
        ratio = torch.where(own > 0, gram / own, 0.0)
        power = _power(subject, group, weights)
        gains += power[:, None] * ratio * gram
        ratios.append((sorted(weights), ratio))
    gains[:, ~stays] = 0.0
    best, target = gains.max(1)
    merges = []
    for source in (~stays).nonzero().flatten().tolist():
        onto = pairs.get(source, int(target[source]))
        if source not in pairs and not float(best[source]) > 0:
            continue
        scales = {name: float(ratio[source, onto]) for names, ratio in ratios for name in names}
        merges.append(Merge(source, onto, {name: s for name, s in scales.items() if s}))
    return tuple(merges)


def shifted(coupling: Coupling, merges: Merges) -> dict[str, Tensor]:
    """The weights that change when stand-ins take over, by name, in their old shapes.

    The columns that read a removed channel are added, scaled, to those that read its stand-in.
    """
    module = coupling.program.module
    places = _places(coupling)
    changed: dict[str, Tensor] = {}
    for group in coupling.groups:
        by_weight: dict[str, list[tuple[int, int, float]]] = {}
        for merge in merges.get(group.id, ()):
            for name, scale in merge.scales.items():
                by_weight.setdefault(name, []).append((merge.source, merge.target, scale))
        for name, moves in by_weight.items():
            dim, line = places[name]
            if name not in changed:
                changed[name] = _tensor(module, name).double()
            weight = changed[name]
            sources, targets, scales = (
                part.to(weight.device) for part in _indices(group, line, moves)
            )
            shape = [-1 if at == dim else 1 for at in range(weight.dim())]
            lines = weight.index_select(dim, sources) * scales.view(shape)
            changed[name] = weight.index_add(dim, targets, lines)
    return {name: weight.to(_tensor(module, name).dtype) for name, weight in changed.items()}


def _tensor(module: torch.nn.Module, name: str) -> Tensor:
    found = attribute(module, name)
    assert isinstance(found, Tensor)
    return found.detach()


def _places(coupling: Coupling) -> dict[str, Place]:
    """Along which dimension each weight reads that can take a stand-in over."""
    bundles = _bundles(coupling, Flow(coupling))
    return {name: place for bundle in bundles for name, place in bundle.weights.items()}


def stand_ins(coupling: Coupling, merges: Merges) -> StandIns:
    """What each read sees in place of removed channels: by reader, source and dimension.

    It shares the reads with :func:`shifted`, and touches no weight: the reference for it.
    """
    found: dict[tuple[Node, Node, int], list[StandIn]] = {}
    for bundle in _bundles(coupling, Flow(coupling)):
        for group in coupling.groups:
            moves = [
                (merge.source, merge.target, scales[0])
                for merge in merges.get(group.id, ())
                if (scales := [s for name, s in merge.scales.items() if name in bundle.weights])
            ]
            for read in bundle.reads if moves else ():
                if bool(torch.isin(group.channels, read.source.line.channels).any()):
                    where = (read.node, read.source.node, read.source.dim)
                    own = StandIn(*_indices(group, read.source.line, moves))
                    found.setdefault(where, []).append(own)
    return found


def mergeable(coupling: Coupling, group: ChannelGroup) -> frozenset[str]:
    """The weights that a stand-in of this group can take over in, by name."""
    bundles = _bundles(coupling, Flow(coupling))
    return frozenset(name for bundle in bundles for name in bundle.of(group))


def _bundles(coupling: Coupling, flow: Flow) -> list[_Bundle]:
    """Reads whose every weight can take a stand-in over, those together that share a weight."""
    read_by = [(read, _weights_of(coupling, flow, read)) for read in flow.reads]
    readers = {read.node for read, weights in read_by if weights}
    bundles: list[_Bundle] = []
    for read, weights in read_by:
        if not weights or not all(_is_read_by(coupling, flow, name, readers) for name in weights):
            continue
        joined = [bundle for bundle in bundles if bundle.weights.keys() & weights.keys()]
        bundles = [bundle for bundle in bundles if bundle not in joined]
        reads = tuple(earlier for bundle in joined for earlier in bundle.reads)
        for bundle in joined:
            weights = {**bundle.weights, **weights}
        bundles.append(_Bundle((*reads, read), weights))
    return bundles


def _weights_of(coupling: Coupling, flow: Flow, read: Read) -> dict[str, Place]:
    """The weights of a read, by name; none where one of them is not a parameter as it is."""
    found = {}
    for weight in read.weights:
        name = flow.parameter_of(weight)
        if name is None:
            return {}
        _, lines = coupling.parameter_lines[name]
        found[name] = next((dim, line) for dim, line in lines if line.number == weight.line.number)
    return found


def _is_read_by(coupling: Coupling, flow: Flow, name: str, readers: set[Node]) -> bool:
    """Whether a weight is there for these calls alone: tied, it means something else elsewhere."""
    module = coupling.program.module
    tensor = attribute(module, name)
    frontier = [
        node
        for node in coupling.program.graph.find_nodes(op="get_attr")
        if attribute(module, str(node.target)) is tensor
    ]
    if any(str(node.target) != name for node in frontier):
        return False
    while frontier:
        for user in frontier.pop().users:
            if user in flow.constants:
                frontier.append(user)
            elif user not in readers:
                return False
    return True


class _Gram:
    """Inner products of the channels of a line, over rows and positions: float64."""

    def __init__(self, line: Line) -> None:
        self.channels, counts = torch.unique(line.channels, return_counts=True)
        free = self.channels >= 0
        # Only channels of one width can stand in for each other.
        self.width = int(counts[free].mode().values) if bool(free.any()) else 0
        fits = free & (counts == self.width)
        order = line.channels.argsort(stable=True)
        first = counts.cumsum(0) - counts
        self.channels = self.channels[fits]
        self.places = order[first[fits][:, None] + torch.arange(self.width)]
        self.total = torch.zeros(len(self.channels), len(self.channels), dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """Take more values: ``(size, n)``."""
        rows = values.float()[self.places.to(values.device)].flatten(1)
        self.total += (rows @ rows.T).double().cpu()


def _grams(subject: Subject, reads: Iterable[Read]) -> dict[Sight, _Gram]:
    found = {Sight.of(read): _Gram(read.source.line) for read in reads}
    watch = Watch(subject, found, lambda sight, values: found[sight].add(values))
    if subject.rows is not None:
        for batch in subject.batches(_ROWS, _PER_CALL):
            watch.watch(batch)
        return found
    size = subject.rows_per_call(_PER_CALL)
    inputs = drawn(subject.program, subject.generator, rows=size, calls=_CALLS)
    for number, leaves in enumerate(inputs):
        try:
            watch.watch(Batch(leaves, None, size))
        except torch.OutOfMemoryError:
            raise
        except _DOES_NOT_RUN:
            if not number:
                raise
            break  # Not every model takes any number; the examples it takes.
    return found


def _joined(
    subject: Subject, group: ChannelGroup, bundle: _Bundle, grams: Mapping[Sight, _Gram]
) -> Tensor:
    """Inner products of a group's channels over all reads of a bundle: float64."""
    place = torch.full((subject.channel_count + 1,), -1)
    place[group.channels] = torch.arange(len(group))
    total = torch.zeros(len(group), len(group), dtype=torch.float64)
    for sight in dict.fromkeys(Sight.of(read) for read in bundle.reads):
        gram = grams[sight]
        rows = place[gram.channels]
        ours = (rows >= 0).nonzero().flatten()
        total[rows[ours][:, None], rows[ours]] += gram.total[ours[:, None], ours]
    return total


def _power(subject: Subject, group: ChannelGroup, weights: Mapping[str, Place]) -> Tensor:
    """Squared weights that read each channel: float64, ``(channels,)``."""
    total = torch.zeros(subject.channel_count, dtype=torch.float64)
    for name, (dim, line) in weights.items():
        weight = _tensor(subject.program.module, name).double()
        others = [at for at in range(weight.dim()) if at != dim]
        found = subject.gathered(line, weight.square().sum(others))
        total[found.channels] += found.scores.double()
    return total[group.channels]


def _indices(
    group: ChannelGroup, line: Line, moves: list[tuple[int, int, float]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of a line for channels that go, for their stand-ins, and the scale of each."""
    gram = _Gram(line)
    row = {int(channel): at for at, channel in enumerate(gram.channels)}
    found = []
    for source, target, scale in moves:
        one = row.get(int(group.channels[source]))
        other = row.get(int(group.channels[target]))
        if one is not None and other is not None:
            found.append((gram.places[one], gram.places[other], scale))
    none = torch.zeros(0, dtype=torch.int64)
    sources = torch.cat([none, *(source for source, _, _ in found)])
    targets = torch.cat([none, *(target for _, target, _ in found)])
    scales = torch.tensor([s for places, _, s in found for _ in places], dtype=torch.float64)
    return sources, targets, scales
