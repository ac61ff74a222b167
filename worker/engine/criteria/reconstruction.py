"""Importance by what the readers of a channel lose when the rest is refitted."""

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.criteria.activations import Sight, moments
from worker.engine.criteria.columns import Columns, readable
from worker.engine.criteria.subject import Slice, Subject
from worker.engine.graph.coupling import ChannelGroup
from worker.engine.graph.flow import Place, Read

# Of the mean of the diagonal: what two channels share is not told apart below it.
_DAMPING = 1e-2
# Steps in which a group goes: beyond, several channels go at once.
_STEPS = 128


def reconstruction(subject: Subject, *, sample_count: int, batch_size: int) -> list[Slice]:
    """Score each channel by the squared error of its readers' outputs, the rest being refitted.

    Channels of a group go one by one, the one first whose loss the least-squares weights of the
    others make up for best; a channel's score is the error once it and all before it are gone, as
    a share of the readers' output energy, summed over readers. Inputs are not centered.

    Args:
        subject: The program, with training rows; targets are not read.
        sample_count: Rows to measure on.
        batch_size: Rows per batch.

    Returns:
        One slice for each group that is read by weights; non-negative, higher is more important,
        without a unit: comparable between groups. Readers that are neither linear layers nor
        convolutions of one group count what they read, without refitting.

    Source: Hassibi and Stork, "Second Order Derivatives for Network Pruning: Optimal Brain
    Surgeon", NeurIPS 1992, on the channels of a layer's own least-squares problem.
    """
    reads = [read for read in subject.flow.reads if read.weights]
    calls = readable(subject.program, {read.node for read in reads})
    columns = Columns(subject, calls, sample_count=sample_count, batch_size=batch_size)
    solved = [read for read in reads if read.node in calls]
    plain = [read for read in reads if read.node not in calls]
    measured = (
        moments(
            subject,
            [Sight.of(read) for read in plain],
            sample_count=sample_count,
            batch_size=batch_size,
        )
        if plain
        else {}
    )
    found = []
    for group in subject.groups:
        readers = [reader for read in solved if (reader := _reader(subject, columns, read, group))]
        fixed = torch.zeros(len(group), dtype=torch.float64)
        for read in plain:
            mean_square = measured[Sight.of(read)].mean_square
            fixed += _unsolved(subject, read, mean_square, group)
        if readers or bool(fixed.any()):
            found.append(Slice(group.channels, _greedy(readers, fixed).float()))
    return found


@dataclass
class _Reader:
    """One weight that reads a group's channels, while they go.

    Attributes:
        inverse: Of the damped second moment of its inputs, ``(n, n)``.
        weight: ``(n, outputs)``.
        places: Which inputs each channel is, ``(channels, k)``.
        channels: Which of the group's channels these are, ``(channels,)``.
        energy: Of its outputs, before anything goes.
    """

    inverse: Tensor
    weight: Tensor
    places: Tensor
    channels: Tensor
    energy: float

    def costs(self, stays: Tensor) -> Tensor:
        """The error that each channel that stays would add, were it to go: as a share."""
        places = self.places[stays[self.channels]]
        blocks = self.inverse[places[:, :, None], places[:, None, :]]
        lines = self.weight[places]
        solved = torch.linalg.solve(blocks, lines)
        errors: Tensor = (lines * solved).sum((1, 2)) / self.energy
        return errors

    def remove(self, gone: Tensor) -> None:
        """Let channels go, and refit the rest: ``gone`` is bool over the group."""
        places = self.places[gone[self.channels]].flatten()
        if not len(places):
            return
        across = self.inverse[:, places]
        block = across[places]
        self.weight = self.weight - across @ torch.linalg.solve(block, self.weight[places])
        self.inverse = self.inverse - across @ torch.linalg.solve(block, across.T)


def _reader(subject: Subject, columns: Columns, read: Read, group: ChannelGroup) -> _Reader | None:
    """A read as a least-squares problem; None where it reads nothing of the group."""
    place = subject.coupling.numbers_in(group)
    owner = place[read.source.line.channels]
    owner = owner.repeat_interleave(columns.repeats(read.node))
    ours = (owner >= 0).nonzero().flatten()
    if not len(ours):
        return None
    channels, counts = torch.unique(owner[ours], return_counts=True)
    # Channels of several widths (parts of a concatenation that was flattened) have the least.
    width = int(counts.min())
    order = owner[ours].argsort(stable=True)
    first = counts.cumsum(0) - counts
    places = ours[order][first[:, None] + torch.arange(width)]
    moment, weight = columns.moment(read.node), columns.weight(read.node)
    energy = float((weight * (moment @ weight)).sum())
    damping = _DAMPING * float(moment.diagonal().mean()) or 1.0
    damped = moment + damping * torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return _Reader(inverse, weight, places, channels, energy or 1.0)


def _unsolved(subject: Subject, read: Read, mean_square: Tensor, group: ChannelGroup) -> Tensor:
    """What a reader that is not refitted loses with each channel, as a share."""
    total = torch.zeros(subject.channel_count + 1, dtype=torch.float64)
    power = subject.gathered(read.source.line, mean_square)
    total[power.channels] = power.scores.double()
    sizes = torch.zeros_like(total)
    for weight in read.weights:
        sizes += _squares(subject, weight)
    lost = total * sizes
    return lost[group.channels] / (float(lost.sum()) or 1.0)


def _squares(subject: Subject, weight: Place) -> Tensor:
    value = subject.flow.value(weight.node).double().cpu()
    others = [at for at in range(value.dim()) if at != weight.dim]
    found = subject.gathered(weight.line, value.square().sum(others) if others else value.square())
    squares = torch.zeros(subject.channel_count + 1, dtype=torch.float64)
    squares[found.channels] = found.scores.double()
    return squares


def _greedy(readers: list[_Reader], fixed: Tensor) -> Tensor:
    """Scores by the order of going: float64, ``(channels,)``."""
    scores = torch.zeros_like(fixed)
    stays = torch.ones(len(fixed), dtype=torch.bool)
    at_once = -(-len(fixed) // _STEPS)
    error = 0.0
    while bool(stays.any()):
        costs = torch.where(stays, fixed, torch.inf)
        for reader in readers:
            own = reader.channels[stays[reader.channels]]
            costs[own] += reader.costs(stays).clamp_min(0)
        gone = costs.argsort(stable=True)[: min(at_once, int(stays.sum()))]
        scores[gone] = error + costs[gone].cumsum(0)
        error = float(scores[gone[-1]])
        stays[gone] = False
        for reader in readers:
            reader.remove(torch.zeros_like(stays).index_fill(0, gone, True))
    return scores
