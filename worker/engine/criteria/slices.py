"""From scores of single weights to scores of the slices that they lie in."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import Parameter

from worker.engine.criteria.subject import Slice, Subject
from worker.engine.graph.coupling import Member
from worker.engine.program import attribute


def members(subject: Subject) -> Iterator[tuple[Member, Parameter]]:
    """Every dimension of a parameter that has channels, once, with the parameter.

    Buffers are not weights and do not count.
    """
    seen = set()
    for group in subject.groups:
        for member in group.members:
            key = (member.parameter, member.dim, member.line.number)
            tensor = attribute(subject.program.module, member.parameter)
            if key not in seen and isinstance(tensor, Parameter):
                seen.add(key)
                yield member, tensor


def summed(
    subject: Subject,
    elements: Mapping[str, Tensor],
    then: Callable[[Tensor], Tensor] = torch.Tensor.float,
) -> list[Slice]:
    """Sum scores of weights over each slice.

    Args:
        subject: Whose slices.
        elements: A score for each weight, by the name of the parameter, in its shape. A parameter
            that is not there has no slices.
        then: What to do with the sums of a slice, ``(channels,)``, such as to square them.
    """
    found = []
    for member, _ in members(subject):
        scores = elements.get(member.parameter)
        if scores is None:
            continue
        others = [dim for dim in range(scores.dim()) if dim != member.dim]
        sums = scores.sum(others, dtype=torch.float64) if others else scores.double()
        made = subject.gathered(member.line, sums)
        found.append(Slice(made.channels, then(made.scores)))
    return found


def mean_of(batches: Iterable[list[Slice]]) -> list[Slice]:
    """The mean of scores that every batch gives, slice by slice."""
    total: list[Tensor] = []
    channels: list[Tensor] = []
    count = 0
    for found in batches:
        scores = [each.scores.double() for each in found]
        total = [sum_ + new for sum_, new in zip(total, scores, strict=True)] if count else scores
        channels = [each.channels for each in found]
        count += 1
    return [
        Slice(which, (sum_ / count).float()) for which, sum_ in zip(channels, total, strict=True)
    ]
