"""Merge what is removed into what stays: who reads a removed channel reads a stand-in instead."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from worker.engine.batch import Batch
from worker.engine.criteria.activations import Sight, Watch, check_activations
from worker.engine.criteria.subject import Subject
from worker.engine.errors import DataMismatchError
from worker.engine.graph.counts import MACS
from worker.engine.graph.coupling import ChannelGroup, Coupling, Line
from worker.engine.graph.flow import Flow, Place, Read
from worker.engine.graph.silence import StandIn, StandIns, Where
from worker.engine.inputs import drawn
from worker.engine.program import attribute

_ROWS, _PER_CALL, _CALLS = 512, 64, 16


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


WeightDim = tuple[str, int]
"""A weight by name, and a dimension of it."""


@dataclass(frozen=True)
class _Bundle:
    """Reads that share weights, and all of their weights: one scale serves them all.

    ``weights`` are the dimensions that they read along, with the channel of each index.
    """

    reads: tuple[Read, ...]
    weights: Mapping[WeightDim, Line]

    def of(self, group: ChannelGroup) -> dict[str, tuple[int, Line]]:
        """The weights that read channels of a group."""
        return {
            name: (dim, line)
            for (name, dim), line in self.weights.items()
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
    bundles = _bundles(subject.flow)
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
    bundles = _bundles(Flow(coupling)) if merges else []
    changed: dict[str, Tensor] = {}
    for group in coupling.groups:
        merges_here = merges.get(group.id, ())
        for bundle in bundles if merges_here else ():
            for name, (dim, line) in bundle.of(group).items():
                moves = [
                    (merge.source, merge.target, merge.scales[name])
                    for merge in merges_here
                    if name in merge.scales
                ]
                weight = changed.get(name, _tensor(module, name).double())
                changed[name] = _moved(weight, dim, _indices(group, line, moves))
    return {name: weight.to(_tensor(module, name).dtype) for name, weight in changed.items()}


def _moved(weight: Tensor, dim: int, moves: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """A weight with indices of a dimension added, scaled, to others of it."""
    sources, targets, scales = (part.to(weight.device) for part in moves)
    shape = [-1 if at == dim else 1 for at in range(weight.dim())]
    lines = weight.index_select(dim, sources) * scales.view(shape)
    return weight.index_add(dim, targets, lines)


def _tensor(module: torch.nn.Module, name: str) -> Tensor:
    found = attribute(module, name)
    assert isinstance(found, Tensor)
    return found.detach()


def stand_ins(coupling: Coupling, merges: Merges) -> StandIns:
    """What each read sees in place of removed channels.

    It shares the reads with :func:`shifted`, and touches no weight: the reference for it.
    """
    found: dict[Where, list[StandIn]] = {}
    whole: set[Where] = set()
    for bundle in _bundles(Flow(coupling)) if merges else ():
        for group in coupling.groups:
            names = bundle.of(group) if group.id in merges else {}
            moves = [
                (merge.source, merge.target, scales[0])
                for merge in merges.get(group.id, ())
                if (scales := [scale for name, scale in merge.scales.items() if name in names])
            ]
            for read in bundle.reads if moves else ():
                if bool(torch.isin(group.channels, read.source.line.channels).any()):
                    where = (read.node, read.source.node, read.source.dim)
                    own = StandIn(*_indices(group, read.source.line, moves))
                    found.setdefault(where, []).append(own)
                    whole.update(*(_shown(coupling, read.node, each) for each in read.weights))
    return StandIns(found, frozenset(whole))


def _shown(coupling: Coupling, reader: Node, weight: Place) -> Iterator[Where]:
    """Where a weight is read, from its reader back to the parameter that it shows."""
    node = weight.node
    while True:
        for dim, line in coupling.node_lines[node][0][1]:
            if line.number == weight.line.number:
                yield reader, node, dim
        if node.op == "get_attr":
            return
        reader, node = node, node.all_input_nodes[0]


def mergeable(coupling: Coupling) -> dict[str, list[frozenset[str]]]:
    """The weights that a stand-in can take over in, by the id of the channel group.

    Those that share a read share a scale: they are in one set.
    """
    bundles = _bundles(Flow(coupling))
    return {
        group.id: [names for bundle in bundles if (names := frozenset(bundle.of(group)))]
        for group in coupling.groups
    }


def _bundles(flow: Flow) -> list[_Bundle]:
    """Reads whose every weight can take a stand-in over, those together that share a weight."""
    read_by = [(read, weights) for read in flow.reads if (weights := _weights_of(flow, read))]
    readers: dict[WeightDim, set[Node]] = {}
    for read, weights in read_by:
        for place in weights:
            readers.setdefault(place, set()).add(read.node)
    users = _users(flow)
    bundles: list[_Bundle] = []
    for read, weights in read_by:
        joined = [bundle for bundle in bundles if bundle.weights.keys() & weights.keys()]
        bundles = [bundle for bundle in bundles if bundle not in joined]
        reads = tuple(earlier for bundle in joined for earlier in bundle.reads)
        for bundle in joined:
            weights = {**bundle.weights, **weights}
        bundles.append(_Bundle((*reads, read), weights))
    return [
        bundle
        for bundle in bundles
        # A weight that a call reads otherwise means something else there.
        if all(users[place[0]] <= readers[place] for place in bundle.weights)
        # A call that reads a channel twice multiplies its stand-in with itself.
        and len({read.node for read in bundle.reads}) == len(bundle.reads)
    ]


def _weights_of(flow: Flow, read: Read) -> dict[WeightDim, Line]:
    """The weights of a read; none where one of them is not a parameter as it is."""
    found: dict[WeightDim, Line] = {}
    if read.node.target not in MACS:
        return {}  # Not a sum of products: half of each of two is not the half of both.
    for weight in read.weights:
        name = flow.parameter_of(weight)
        if name is None:
            return {}
        _, lines = flow.coupling.parameter_lines[name]
        dim, line = next((d, each) for d, each in lines if each.number == weight.line.number)
        found[name, dim] = line
    return found


def _users(flow: Flow) -> dict[str, set[Node]]:
    """The calls that read each parameter, through whatever shows it, by each of its names.

    A tensor that has several names has a user that is no call: what is read under one of them is
    not written under the other.
    """
    module, graph = flow.coupling.program.module, flow.coupling.program.graph
    nodes = graph.find_nodes(op="get_attr")
    names: dict[int, set[str]] = {}
    for node in nodes:
        names.setdefault(id(attribute(module, str(node.target))), set()).add(str(node.target))
    found: dict[str, set[Node]] = {}
    for node in nodes:
        name = str(node.target)
        users = found.setdefault(name, set())
        if len(names[id(attribute(module, name))]) > 1:
            users.add(node)
        frontier = [node]
        while frontier:
            for user in frontier.pop().users:
                if user in flow.constants:
                    frontier.append(user)
                else:
                    users.add(user)
    return found


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
        for sight, gram in found.items():
            check_activations(gram.total, sight.reader)
        return found
    size = subject.rows_per_call(_PER_CALL)
    inputs = drawn(subject.program, subject.generator, rows=size, calls=_CALLS)
    for number, leaves in enumerate(inputs):
        try:
            watch.watch(Batch(leaves, None, size))
        except DataMismatchError:
            if not number:
                raise
            break  # Not every model takes any number; the examples it takes.
    return found


def _joined(
    subject: Subject, group: ChannelGroup, bundle: _Bundle, grams: Mapping[Sight, _Gram]
) -> Tensor:
    """Inner products of a group's channels over all reads of a bundle: float64."""
    place = subject.coupling.numbers_in(group)
    total = torch.zeros(len(group), len(group), dtype=torch.float64)
    for sight in dict.fromkeys(Sight.of(read) for read in bundle.reads):
        gram = grams[sight]
        rows = place[gram.channels]
        ours = (rows >= 0).nonzero().flatten()
        total[rows[ours][:, None], rows[ours]] += gram.total[ours[:, None], ours]
    return total


def _power(
    subject: Subject, group: ChannelGroup, weights: Mapping[str, tuple[int, Line]]
) -> Tensor:
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
    places: dict[int, list[int]] = {}
    for at, channel in enumerate(line.channels.tolist()):
        places.setdefault(channel, []).append(at)
    sources: list[int] = []
    targets: list[int] = []
    scaled: list[float] = []
    for source, target, scale in moves:
        one = places.get(int(group.channels[source]), [])
        other = places.get(int(group.channels[target]), [])
        if len(one) == len(other):  # Only channels of one width can stand in for each other.
            sources += one
            targets += other
            scaled += [scale] * len(one)
    return (
        torch.tensor(sources, dtype=torch.int64),
        torch.tensor(targets, dtype=torch.int64),
        torch.tensor(scaled, dtype=torch.float64),
    )
