"""Importance by redundancy: how well another channel of the group stands in for this one."""

import torch
from torch import Tensor

from worker.engine.criteria.filters import filters
from worker.engine.criteria.subject import Slice, Subject


def cosine_similarity(subject: Subject) -> list[Slice]:
    """Score each channel by one minus the cosine of its filter with that of its best stand-in.

    Of two channels that resemble each other, one is redundant and the other is what it is redundant
    to. So channels go one by one: of the two that are most alike, the one with the smaller norm;
    what it resembled stays to be compared with the rest. A channel's score is that at which it
    goes, or that of an earlier one if that was higher, so that the order of scores is the order of
    going. The last of a group has the score 2, which is that of an opposite.

    Returns:
        One slice for each group; in [0, 2], higher is more important. A channel without weights has
        the score 0: nothing needs to stand in for it.

    Source: redundancy by cosine similarity is common; the greedy order is this engine's own.
    """
    found = []
    for group in subject.groups:
        rows = filters(subject, group)
        if rows.shape[1]:
            found.append(Slice(group.channels, _greedy(rows)))
    return found


def _greedy(rows: Tensor) -> Tensor:
    """Scores by the order of going: float32, ``(channels,)``."""
    rows = rows.double()
    norms = rows.norm(dim=1)
    scores = torch.zeros(len(rows))
    likeness = _likeness(rows, norms)
    best, partner = likeness.max(1)
    stays = norms > 0
    worst = 0.0
    for _ in range(int(stays.sum()) - 1):
        one = int(best.argmax())
        other = int(partner[one])
        gone = one if (norms[one], one) <= (norms[other], other) else other
        worst = max(worst, 1 - float(likeness[one, other]))
        scores[gone] = worst
        likeness[gone] = likeness[:, gone] = -torch.inf
        best[gone], stays[gone] = -torch.inf, False
        orphans = (partner == gone).nonzero().flatten()
        best[orphans], partner[orphans] = likeness[orphans].max(1)
    scores[stays] = 2.0
    return scores


def _likeness(rows: Tensor, norms: Tensor) -> Tensor:
    """Cosines between all channels; minus infinity with itself, and for channels of zeros."""
    unit = rows / norms.clamp_min(torch.finfo(rows.dtype).tiny)[:, None]
    likeness = unit @ unit.T
    # Of equal filters a product of rounded numbers is not quite one.
    likeness[likeness > 1 - 1e-12] = 1.0
    likeness.fill_diagonal_(-torch.inf)
    zero = norms == 0
    likeness[zero] = likeness[:, zero] = -torch.inf
    return likeness
