"""The weights that make a channel, as a vector: its filter."""

import torch
from torch import Tensor

from worker.engine.criteria.subject import Subject
from worker.engine.graph.coupling import ChannelGroup


def filters(subject: Subject, group: ChannelGroup) -> Tensor:
    """The filters of a group's channels, laid out so that equal places mean equal things.

    A channel that several weights make (where branches are added) has all of their filters; one
    that a weight does not make has zeros in its place, so that channels of different producers
    (where branches are concatenated) resemble each other in nothing.

    Returns:
        float32, ``(channels, features)``, on the CPU; biases are features. No features where no
        weight makes the channels, as with residual blocks.
    """
    place = subject.coupling.numbers_in(group)
    parts = [torch.zeros(len(group), 0)]
    for make in subject.flow.makes:
        weight = make.weight
        rows = place[weight.line.channels]
        ours = (rows >= 0) & weight.counts
        if bool(ours.any()):
            value = subject.flow.value(weight.node).float().cpu().movedim(weight.dim, 0)
            lines = value.reshape(len(value), -1)
            parts.append(_by_channel(lines[ours], rows[ours], len(group)))
    return torch.cat(parts, 1)


def _by_channel(lines: Tensor, rows: Tensor, count: int) -> Tensor:
    """Lay the lines of each channel side by side: a head has as many as it is wide."""
    order = rows.argsort(stable=True)
    lines, rows = lines[order], rows[order]
    counts = torch.bincount(rows, minlength=count)
    first = counts.cumsum(0) - counts
    number = torch.arange(len(rows)) - first[rows]
    laid = torch.zeros(count, int(counts.max()), lines.shape[1])
    laid[rows, number] = lines
    return laid.flatten(1)
