"""How much each channel group matters: what silencing parts of it does to the outputs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worker.engine.data import Rows
from worker.engine.graph.coupling import ChannelGroup
from worker.engine.program import Program
from worker.engine.prune.choice import Choice
from worker.engine.prune.cost import costs
from worker.engine.prune.cut import cut_module
from worker.engine.prune.plan import Scored

_PARTS = (0.25, 0.5, 0.75)
"""Of the channels of a group, least important first: what is silenced."""

# What all measurements may take, counted and not timed, so that the same job measures the same.
_MACS = 2e12
_FEWEST_ROWS, _MOST_ROWS = 16, 512
_TINY = 1e-9


@dataclass(frozen=True)
class Sensitivity:
    """Damage with more and more channels of a group gone; both rise, and begin with 0."""

    group: ChannelGroup
    removed: tuple[int, ...]
    damage: tuple[float, ...]

    def slopes(self) -> np.ndarray:
        """Damage by one channel more, at each number of channels gone: ``(channels,)``, rising.

        Between the middles of what was measured it is interpolated.
        """
        removed, damage = np.array(self.removed), np.array(self.damage)
        middles = (removed[1:] + removed[:-1]) / 2
        slopes = np.maximum.accumulate(np.diff(damage) / np.diff(removed)).clip(_TINY)
        places = np.arange(len(self.group))
        found = np.interp(places, middles, slopes)
        if len(slopes) > 1:
            rise = (slopes[-1] - slopes[-2]) / (middles[-1] - middles[-2])
            found = np.where(
                places > middles[-1], slopes[-1] + rise * (places - middles[-1]), found
            )
        return np.asarray(found)

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.group.id,
            "name": self.group.name,
            "channel_count": len(self.group),
            "removed": list(self.removed),
            "damage": list(self.damage),
        }


@torch.no_grad()
def sensitivities(
    scored: Scored, rows: Rows, *, batch_size: int, on_progress: Callable[[int, int], None]
) -> list[Sensitivity]:
    """Measure every channel group by itself, without any recovery.

    Args:
        scored: Channels and the scores by which they go.
        rows: To compute outputs on, as many of them as `_MACS` allow; targets are not read.
        batch_size: Rows per call.
        on_progress: Told groups done, of how many.

    Returns:
        For each group: mean Kullback-Leibler divergence from the original's classes in nats where
        targets are classes, else the mean squared difference over the outputs' variance.
    """
    coupling, program = scored.coupling, scored.coupling.program
    share = _MACS / (len(_PARTS) * len(coupling.groups) * max(scored.baseline.macs, 1))
    count = min(max(int(share), _FEWEST_ROWS), _MOST_ROWS, len(rows))
    order = np.arange(count)
    has_classes = rows.objective.task.has_classes
    expected = _outputs(program, rows, order, batch_size)
    choice = Choice(coupling, scored.scores, scored.config)
    found = []
    for group, score in zip(coupling.groups, scored.scores, strict=True):
        ranked = group.channels[score.argsort(stable=True)]
        removed, damage = [0], [0.0]
        for number in sorted({round(part * len(group)) for part in _PARTS} - {0, len(group)}):
            keep = coupling.everything()
            keep[ranked[:number]] = False
            # A group may be several whole layers, each of which keeps some.
            keep = choice.rounded(keep)
            gone = int((~keep[group.channels]).sum())
            if gone <= removed[-1]:
                continue
            silenced = program.with_module(cut_module(coupling, keep))
            actual = _outputs(silenced, rows, order, batch_size)
            removed.append(gone)
            damage.append(max(_distance(actual, expected, has_classes), damage[-1]))
        if len(removed) == 1:  # None of it may go.
            removed, damage = [0, 1], [0.0, 1.0]
        found.append(Sensitivity(group, tuple(removed), tuple(damage)))
        on_progress(len(found), len(coupling.groups))
    return found


def scores_by(scored: Scored, found: list[Sensitivity], minimize: str) -> tuple[Tensor, ...]:
    """Importance that ranks channels of all groups by damage for what they cost.

    Within a group the ranking is the old one. The cost is in parameters where those, or bytes, are
    to be least, else in MACs.
    """
    macs, parameters = costs(scored.coupling)
    cost = parameters if minimize in ("parameters", "bytes") else macs
    result = []
    for each, score in zip(found, scored.scores, strict=True):
        rank = score.argsort(stable=True).argsort()
        slopes = torch.from_numpy(each.slopes())
        # Of two that cost as much the one of the higher rank is the more important.
        rising = slopes * (1 + 1e-6 * torch.arange(len(slopes)))
        result.append((rising[rank] / cost[each.group.channels]).float())
    return tuple(result)


def _outputs(program: Program, rows: Rows, order: np.ndarray, batch_size: int) -> Tensor:
    batches = rows.batches(program, batch_size, order=order)
    objective = rows.objective
    outputs = (objective.outputs_of(program, batch) for batch in batches)
    return torch.cat([objective.task.scores(output).double() for output in outputs])


def _distance(actual: Tensor, expected: Tensor, is_classes: bool) -> float:
    if is_classes:
        before, after = expected.log_softmax(1), actual.log_softmax(1)
        # A class that is impossible before and after adds nothing.
        terms = torch.where(before == -torch.inf, 0.0, before.exp() * (before - after))
        distance = terms.sum(1).mean()
    else:
        variance = expected.var(correction=0)
        distance = (actual - expected).square().mean() / variance.clamp_min(_TINY)
    return float(distance.nan_to_num(1e9, posinf=1e9))
