"""Score every channel, so that the scores of different groups can be ranked together."""

from collections.abc import Callable

import torch
from torch import Tensor

from worker.engine.config import PruneConfig
from worker.engine.criteria import CRITERIA
from worker.engine.criteria.aggregate import aggregate
from worker.engine.criteria.magnitude import magnitude
from worker.engine.criteria.subject import Slice, Subject
from worker.engine.errors import NotFiniteError
from worker.engine.graph.coupling import ChannelGroup
from worker.engine.prune.cost import costs

_TINY = 1e-12


def score(subject: Subject, config: PruneConfig) -> tuple[Tensor, ...]:
    """The importance of every channel, group by group, normalized as asked.

    Where the criterion says nothing of some channels of a group, they have the mean of the others;
    where it says nothing of a group, that is ranked by magnitude: both with a warning.

    Raises:
        NotFiniteError: Weights or activations hold NaN or infinity, so that nothing can be ranked.
    """
    criterion = CRITERIA[config.criterion]
    slices = criterion.channels(subject, **config.options)
    importance = aggregate(slices, channel_count=subject.channel_count, how=config.aggregation)
    scored = _scored(subject, slices)
    importance = _completed(subject, config.criterion, importance, scored)
    for group in subject.groups:
        if not bool(importance[group.channels].isfinite().all()):
            raise NotFiniteError(
                f"the importance of channels of {group.name} is NaN or infinite: the weights that "
                "go with them, or their activations, hold such numbers; check the model's weights "
                "and the training data, or exclude them"
            )
    normalize = NORMALIZATIONS[config.normalization or criterion.normalization]
    return normalize(subject, [importance[group.channels] for group in subject.groups])


def _scored(subject: Subject, slices: list[Slice]) -> Tensor:
    scored = torch.zeros(subject.channel_count, dtype=torch.bool)
    for each in slices:
        scored[each.channels] = True
    return scored


def _completed(subject: Subject, criterion: str, importance: Tensor, scored: Tensor) -> Tensor:
    """Fill in what the criterion says nothing of."""
    importance = importance.clone()
    silent = [group for group in subject.groups if not bool(scored[group.channels].any())]
    for group in subject.groups:
        own = importance[group.channels]
        gaps = ~scored[group.channels]
        if group not in silent and bool(gaps.any()):
            own[gaps] = own[~gaps].mean()
            importance[group.channels] = own
            subject.warnings.append(
                f"criterion '{criterion}' says nothing of {int(gaps.sum())} of the {len(group)} "
                f"channels of {group.name}: they are ranked at the mean of the others"
            )
    if silent:
        _rank_by_magnitude(subject, importance, silent, scored)
        subject.warnings.append(
            f"criterion '{criterion}' says nothing of {_named(silent)}: ranked by magnitude"
        )
    return importance


def _rank_by_magnitude(
    subject: Subject, importance: Tensor, silent: list[ChannelGroup], scored: Tensor
) -> None:
    """Scores by magnitude, whose mean is that of what is scored, so that groups compare."""
    sizes = aggregate(magnitude(subject), channel_count=subject.channel_count, how="sum")
    level = float(importance[scored].mean()) if bool(scored.any()) else 1.0
    for group in silent:
        own = sizes[group.channels]
        importance[group.channels] = own / (own.mean() + _TINY) * level


def _named(groups: list[ChannelGroup]) -> str:
    names = ", ".join(group.name for group in groups[:5])
    return f"{names} and {len(groups) - 5} more groups" if len(groups) > 5 else names


Scores = tuple[Tensor, ...]


def _by(divisor: Callable[[Tensor], Tensor]) -> Callable[[Subject, list[Tensor]], Scores]:
    def normalize(subject: Subject, scores: list[Tensor]) -> Scores:
        del subject
        return tuple(own / (divisor(own) + _TINY) for own in scores)

    return normalize


def _none(subject: Subject, scores: list[Tensor]) -> Scores:
    del subject
    return tuple(scores)


def _standardized(subject: Subject, scores: list[Tensor]) -> Scores:
    del subject
    return tuple((own - own.mean()) / (own.std(correction=0) + _TINY) for own in scores)


def _per_mac(subject: Subject, scores: list[Tensor]) -> Scores:
    return _per(subject, scores, costs(subject.coupling)[0])


def _per_parameter(subject: Subject, scores: list[Tensor]) -> Scores:
    return _per(subject, scores, costs(subject.coupling)[1])


def _per(subject: Subject, scores: list[Tensor], cost: Tensor) -> Scores:
    return tuple(
        (own.double() / cost[group.channels]).float()
        for own, group in zip(scores, subject.groups, strict=True)
    )


NORMALIZATIONS: dict[str, Callable[[Subject, list[Tensor]], Scores]] = {
    "none": _none,
    "mean": _by(torch.mean),
    "max": _by(torch.max),
    "standardized": _standardized,
    "per_mac": _per_mac,
    "per_parameter": _per_parameter,
}
"""What the scores of a group are divided by, so that groups can be ranked with each other."""
