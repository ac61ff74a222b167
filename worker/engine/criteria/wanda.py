"""Importance by weights times what they are multiplied with."""

import torch
from torch import Tensor

from worker.engine.criteria.activations import Sight, averaged, moments
from worker.engine.criteria.subject import Slice, Subject
from worker.engine.graph.weights import weight_calls


def wanda(subject: Subject, *, sample_count: int, batch_size: int) -> list[Slice]:
    """Score each channel by ``sum(|w|) * rms(x)`` over the weights that read it.

    Args:
        subject: The program, with training rows; targets are not read.
        sample_count: Rows to measure on.
        batch_size: Rows per batch.

    Returns:
        One slice for each weight that reads channels; non-negative, higher is more important, in
        units of the reader's output. The norm of the input is divided by the root of the number of
        values, so that it does not grow with the data.

    Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models",
    ICLR 2024, https://arxiv.org/abs/2306.11695 (there of single weights).
    """
    found = []
    reads = [read for read in subject.flow.reads if read.weights]
    sights = [Sight.of(read) for read in reads]
    seen = moments(subject, sights, sample_count=sample_count, batch_size=batch_size)
    for read, sight in zip(reads, sights, strict=True):
        rms = seen[sight].mean_square.sqrt()
        for weight in read.weights:
            sums = _sum_of_absolutes(subject.flow.value(weight.node), weight.dim)
            if weight.line.number != read.source.line.number:
                # A weight with other indices, as of a grouped convolution: a channel at a time.
                by_channel = _dense(subject, averaged(subject, read.source, rms))
                rms_of_each = by_channel[weight.line.channels]
            else:
                rms_of_each = rms
            found.append(subject.gathered(weight.line, sums * rms_of_each))
    return found


def wanda_of_weights(subject: Subject, *, sample_count: int, batch_size: int) -> dict[str, Tensor]:
    """``|w| * rms(x)`` of every weight of a convolution or linear layer, by name, in its shape."""
    calls = list(weight_calls(subject.program))
    sights = {call.node: Sight(call.node, call.source, call.source_dim) for call in calls}
    seen = moments(subject, sights.values(), sample_count=sample_count, batch_size=batch_size)
    found: dict[str, Tensor] = {}
    for call in calls:
        weight = subject.program.module.get_parameter(call.parameter).detach().float().cpu()
        square = seen[sights[call.node]].mean_square
        # Of a grouped convolution each weight reads one channel of every group.
        size = weight.shape[call.weight_dim]
        rms = square.view(-1, size).mean(0).sqrt().float()
        shape = [-1 if at == call.weight_dim else 1 for at in range(weight.dim())]
        scores = weight.abs() * rms.view(shape)
        found[call.parameter] = found.get(call.parameter, torch.zeros(())) + scores
    return found


def _sum_of_absolutes(weight: Tensor, dim: int) -> Tensor:
    others = [at for at in range(weight.dim()) if at != dim]
    sizes = weight.abs().double().cpu()
    return sizes.sum(others) if others else sizes


def _dense(subject: Subject, found: Slice) -> Tensor:
    """By channel of the coupling; the last place is for the fixed."""
    dense = torch.zeros(subject.channel_count + 1, dtype=torch.float64)
    dense[found.channels] = found.scores.double()
    return dense
