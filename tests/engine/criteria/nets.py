"""Networks small enough to score by hand, and one to permute."""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from tests.zoo.exported import export
from worker.engine.criteria.aggregate import aggregate
from worker.engine.criteria.subject import Slice, Subject
from worker.engine.data import Rows
from worker.engine.graph.coupling import couple
from worker.engine.program import Program


def linears(first: object, second: object, bias: object = None) -> nn.Module:
    """``y = W2 (W1 x + b1)``, without anything between: its channels are the rows of W1."""
    one, two = torch.tensor(first), torch.tensor(second)
    net = nn.Sequential(
        nn.Linear(one.shape[1], one.shape[0], bias=bias is not None),
        nn.Linear(two.shape[1], two.shape[0], bias=False),
    )
    with torch.no_grad():
        net[0].weight.copy_(one)
        net[1].weight.copy_(two)
        if bias is not None:
            net[0].bias.copy_(torch.tensor(bias))
    return net


def two_channels() -> nn.Module:
    """Channel 0 is made of 1, 2 and 5 and read by 7; channel 1 of 3, 4 and 6, and by 8."""
    return linears([[1.0, 2.0], [3.0, 4.0]], [[7.0, 8.0]], [5.0, 6.0])


def subject_of(
    module: nn.Module, *shape: int, inputs: object = None, targets: object = None, seed: int = 0
) -> Subject:
    """A subject of a module that takes float rows, with training rows if any are given."""
    program = Program.from_exported(export(module.eval(), torch.ones(2, *shape)))
    rows = None
    if inputs is not None:
        labels = None if targets is None else np.asarray(targets)
        rows = Rows((np.asarray(inputs, dtype=np.float32),), labels)
    return Subject(couple(program), rows, seed)


def scores_of(subject: Subject, slices: list[Slice], how: str = "sum") -> list[float]:
    """One score for each channel of the only group."""
    (group,) = subject.groups
    found = aggregate(slices, channel_count=subject.channel_count, how=how)
    return found[group.channels].tolist()


class Small(nn.Module):
    """A CNN with everything that a criterion looks at: its eight inner channels may be permuted."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.first(x)).relu()).mean((2, 3))

    def permuted(self, order: Tensor) -> "Small":
        """The same function, its inner channels in another order."""
        twin = copy.deepcopy(self)
        state = twin.state_dict()
        for name, tensor in state.items():
            if name == "second.weight":
                state[name] = tensor[:, order]
            elif tensor.dim() and tensor.shape[0] == 8:
                state[name] = tensor[order]
        twin.load_state_dict(state)
        return twin
