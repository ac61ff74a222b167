"""Networks small enough to score by hand."""

import torch
from torch import nn

from tests.zoo.exported import export
from worker.engine.criteria.aggregate import aggregate
from worker.engine.criteria.subject import Slice, Subject
from worker.engine.data import Rows
from worker.engine.graph.coupling import couple
from worker.engine.program import Program

FIRST = [[1.0, 2.0], [3.0, 4.0]]
FIRST_BIAS = [5.0, 6.0]
SECOND = [[7.0, 8.0]]


class Linears(nn.Sequential):
    """Two inputs, two channels, one output: ``y = W2 (W1 x + b1)``, without anything between."""

    def __init__(self, second_bias: bool = False) -> None:
        super().__init__(nn.Linear(2, 2), nn.Linear(2, 1, bias=second_bias))
        with torch.no_grad():
            self[0].weight.copy_(torch.tensor(FIRST))
            self[0].bias.copy_(torch.tensor(FIRST_BIAS))
            self[1].weight.copy_(torch.tensor(SECOND))


def program_of(module: nn.Module, *shape: int) -> Program:
    return Program.from_exported(export(module.eval(), torch.ones(2, *shape)))


def subject_of(
    module: nn.Module, *shape: int, inputs: object = None, targets: object = None
) -> Subject:
    """A subject, with training rows if any are given."""
    rows = None
    if inputs is not None:
        arrays = torch.as_tensor(inputs).float().numpy()
        rows = Rows((arrays,), None if targets is None else torch.as_tensor(targets).numpy())
    return Subject(couple(program_of(module, *shape)), rows)


def scores_of(subject: Subject, slices: list[Slice], how: str = "sum") -> list[float]:
    """One score for each channel of the only group."""
    (group,) = subject.groups
    found = aggregate(slices, channel_count=subject.channel_count, how=how)
    return found[group.channels].tolist()
