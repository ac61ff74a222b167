"""Importance by ablation: how much worse the model is without a channel."""

import torch
from torch import Tensor

from worker.engine.batch import Batch, computing_with_data
from worker.engine.criteria.subject import Slice, Subject
from worker.engine.graph.silence import SilencedProgram
from worker.engine.objective import Objective


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
    objective = subject.objective
    if targets == "labels":
        subject.check_targets()
    channels = torch.cat([group.channels for group in subject.groups])
    growth = torch.zeros(len(channels), dtype=torch.float64)
    batches = list(subject.batches(sample_count, batch_size))
    everything = subject.coupling.everything()
    rows = sum(batch.count for batch in batches)
    whole = SilencedProgram(subject.coupling, everything)
    references = [_output(whole, batch, objective) for batch in batches]
    before = [
        _loss(output, batch, output, objective, targets)
        for batch, output in zip(batches, references, strict=True)
    ]
    for at, channel in enumerate(channels.tolist()):
        keep = everything.clone()
        keep[channel] = False
        silenced = SilencedProgram(subject.coupling, keep)
        for batch, output, loss in zip(batches, references, before, strict=True):
            changed = _output(silenced, batch, objective)
            after = _loss(changed, batch, output, objective, targets)
            growth[at] += (after - loss) * batch.count / rows
        subject.on_progress(at + 1, len(channels))
    return [Slice(channels, growth.float())]


def _output(program: SilencedProgram, batch: Batch, objective: Objective) -> Tensor:
    with computing_with_data():
        outputs = program.outputs(batch.inputs)
    return objective.chosen(outputs, batch)


def _loss(
    output: Tensor, batch: Batch, reference: Tensor, objective: Objective, targets: str
) -> float:
    if targets == "outputs":
        return float((output.double() - reference.double()).square().mean())
    return float(objective.loss(output, objective.targets_of(batch), batch=batch))
