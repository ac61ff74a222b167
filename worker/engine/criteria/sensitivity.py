"""Importance by ablation: how much worse the model is without a channel."""

import torch
from torch import Tensor

from worker.engine import objective
from worker.engine.criteria.subject import Slice, Subject
from worker.engine.data import Batch, computing_with_data
from worker.engine.graph.silence import SilencedProgram


@torch.no_grad()
def sensitivity(
    subject: Subject, *, sample_count: int, batch_size: int, targets: str
) -> list[Slice]:
    """Score each channel by the growth of the loss when it alone is silenced.

    One run of the program for each channel and batch: exact, and slow.

    Args:
        subject: The program, with training rows.
        sample_count: Rows to measure on.
        batch_size: Rows per batch.
        targets: ``labels``, or ``outputs`` for the mean squared difference to the outputs.

    Returns:
        One slice; higher is more important, in units of the loss: comparable between groups. Below
        zero for a channel without which the loss is smaller.
    """
    channels = torch.cat([group.channels for group in subject.groups])
    growth = torch.zeros(len(channels), dtype=torch.float64)
    batches = list(subject.batches(sample_count, batch_size))
    everything = subject.coupling.everything()
    rows = sum(batch.count for batch in batches)
    whole = SilencedProgram(subject.coupling, everything)
    references = [_first(whole, batch) for batch in batches]
    before = [
        _loss(output, batch, output, targets)
        for batch, output in zip(batches, references, strict=True)
    ]
    for at, channel in enumerate(channels.tolist()):
        keep = everything.clone()
        keep[channel] = False
        silenced = SilencedProgram(subject.coupling, keep)
        for batch, output, loss in zip(batches, references, before, strict=True):
            after = _loss(_first(silenced, batch), batch, output, targets)
            growth[at] += (after - loss) * batch.count / rows
        subject.on_progress(at + 1, len(channels))
    return [Slice(channels, growth.float())]


def _first(program: SilencedProgram, batch: Batch) -> Tensor:
    with computing_with_data():
        return program.outputs(batch.inputs)[0][: batch.count]


def _loss(output: Tensor, batch: Batch, reference: Tensor, targets: str) -> float:
    if targets == "outputs":
        return float((output.double() - reference.double()).square().mean())
    assert batch.targets is not None, "the recipe was checked before"
    return float(objective.loss(output, batch.targets))
