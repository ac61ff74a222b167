"""Meet a latency: a table of what each channel group costs, and measurements of what follows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worker.engine.errors import TargetUnreachableError
from worker.engine.graph.coupling import ChannelGroup
from worker.engine.prune.choice import Choice
from worker.engine.prune.plan import Scored
from worker.engine.search.stopwatch import Stopwatch

_PARTS = (0.75, 0.5, 0.25)
"""Of the channels of a group: what is measured for the table."""
_TABLE_ROUNDS = 9
_ROUNDS = 21
_TRIES = 6
# Closer is within what a machine's noise makes of the same program.
_NEAR = 0.02
_AS_FAST = 1.01
_ROUND = (8, 16, 32)
"""What counts are that hardware likes."""


@dataclass(frozen=True)
class GroupTimes:
    """Latency with fewer channels in one group, as fractions of the original's.

    ``kept`` falls and begins with all of the channels, whose ratio is 1.
    """

    group: ChannelGroup
    kept: tuple[int, ...]
    ratio: tuple[float, ...]

    def saved(self, kept: int) -> float:
        """Which part of the latency goes with all but so many channels, in [0, 1]."""
        return float(1 - np.interp(kept, self.kept[::-1], self.ratio[::-1]))

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.group.id,
            "name": self.group.name,
            "channel_count": len(self.group),
            "kept": list(self.kept),
            "ratio": list(self.ratio),
        }


@dataclass(frozen=True)
class LatencyChoice:
    """What stays (bool, ``(channel_count + 1,)``), and how that was found."""

    keep: Tensor
    ratio: float
    table: tuple[GroupTimes, ...]
    warnings: tuple[str, ...]


def meet_latency(
    scored: Scored,
    target: float,
    watch: Stopwatch,
    *,
    on_progress: Callable[[int, int], None],
) -> LatencyChoice:
    """Choose the least cut whose measured latency is a fraction of the original's.

    Scores are divided by the latency that a channel saves, by the table, unless the request says
    what they are divided by. The ranking is followed until the table predicts the target; what
    follows is measured, the table's sum is corrected by that, and it begins again. In the end
    counts go up to rounder ones where those are as fast.

    Args:
        scored: Channels and their scores.
        target: In (0, 1).
        watch: Of the same coupling.
        on_progress: Told steps done, of how many.

    Raises:
        TargetUnreachableError: With every dimension at its floor it is slower.
    """
    groups = scored.coupling.groups
    total = len(groups) + _TRIES + 1
    plain = Choice(scored.coupling, scored.scores, replace(scored.config, latency=None))
    table = []
    for group, score in zip(groups, scored.scores, strict=True):
        table.append(_measured(plain, group, score, watch))
        on_progress(len(table), total)
    search = _Search(scored, table, watch, target)
    keep, ratio = search.found(lambda done: on_progress(len(groups) + done, total))
    keep, ratio = search.rounder(keep, ratio)
    on_progress(total, total)
    warnings = list(search.choice.warnings)
    if target - ratio > 2 * _NEAR:
        warnings.append(
            f"latency: {target:g} of the original's was asked for and {ratio:.3f} remain: the next "
            "larger plan that was measured is slower than asked"
        )
    return LatencyChoice(keep, ratio, tuple(table), tuple(warnings))


def _measured(choice: Choice, group: ChannelGroup, score: Tensor, watch: Stopwatch) -> GroupTimes:
    count = len(group)
    tried = {}
    for number in sorted({max(1, round(part * count)) for part in _PARTS} - {count}, reverse=True):
        # A group may be several whole layers, each of which keeps some.
        keep = choice.rounded(_with_best(choice.coupling.everything(), group, score, number))
        tried[int(keep[group.channels].sum())] = keep
    tried.pop(count, None)
    kept, keeps = list(tried), list(tried.values())
    # In eager mode whatever was asked: one compilation takes longer than the whole table.
    ratios = watch.ratios(keeps, rounds=_TABLE_ROUNDS, mode="eager") if keeps else []
    # Fewer channels are never slower; where they seem so, that is noise.
    falling = np.minimum.accumulate([1.0, *ratios])
    return GroupTimes(group, (count, *kept), tuple(float(ratio) for ratio in falling))


def _with_best(keep: Tensor, group: ChannelGroup, score: Tensor, number: int) -> Tensor:
    """The same but for one group, of which the best channels stay."""
    keep = keep.clone()
    rank = score.argsort(descending=True, stable=True)
    keep[group.channels] = False
    keep[group.channels[rank[:number]]] = True
    return keep


def _wider(keep: Tensor, group: ChannelGroup, score: Tensor, number: int) -> Tensor:
    """The same with the best channels that had gone of a group, up to a number in all."""
    keep = keep.clone()
    gone = torch.where(keep[group.channels], -torch.inf, score.double())
    best = gone.argsort(descending=True, stable=True)
    more = number - int(keep[group.channels].sum())
    keep[group.channels[best[:more]]] = True
    return keep


class _Search:
    def __init__(
        self, scored: Scored, table: Sequence[GroupTimes], watch: Stopwatch, target: float
    ) -> None:
        self._scored = scored
        self._table = table
        self._watch = watch
        self._target = target
        scores = scored.scores
        if scored.config.normalization is None:
            scores = tuple(
                (score.double() / _saved_by_one(times)).float()
                for score, times in zip(scores, table, strict=True)
            )
        self._scores = scores
        self.choice = Choice(scored.coupling, scores, replace(scored.config, latency=None))

    def found(self, on_try: Callable[[int], None]) -> tuple[Tensor, float]:
        """The largest that was measured to be as fast as asked, and its ratio."""
        correction, best = 1.0, None
        for number in range(_TRIES):
            keep = self._predicted_to_meet(correction)
            [ratio] = self._watch.ratios([keep], rounds=_ROUNDS)
            on_try(number + 1)
            is_met = ratio <= self._target
            if is_met and (best is None or int(keep.sum()) > int(best[0].sum())):
                best = keep, ratio
            if is_met and self._target - ratio <= _NEAR:
                break
            predicted = self._saved(keep)
            if predicted <= 0 or (not is_met and self._is_least(keep)):
                break
            # Of what is measured and predicted, so that the next one ends in the middle.
            aim = max(1 - ratio, 0.25 * correction * predicted)
            correction = aim / predicted
        if best is None:
            keep = self.choice.removing(1.0)
            [ratio] = self._watch.ratios([keep], rounds=_ROUNDS)
            if ratio > self._target:
                raise TargetUnreachableError(
                    f"latency: at most {self._target:g} of the original's was asked for; with all "
                    f"dimensions at their floors {ratio:.3f} remain; ask for more than that, "
                    "exclude less, or use a lower floor or a larger latency_batch_size",
                    pointer="/budget/latency",
                )
            best = keep, ratio
        return best

    def _is_least(self, keep: Tensor) -> bool:
        return torch.equal(keep, self.choice.removing(1.0))

    def _predicted_to_meet(self, correction: float) -> Tensor:
        steps = len(self.choice.order)
        low, high = 0, steps
        while low < high:
            middle = (low + high) // 2
            saved = correction * self._saved(self.choice.removing(middle / steps))
            if 1 - saved <= self._target:
                high = middle
            else:
                low = middle + 1
        return self.choice.removing(high / max(steps, 1))

    def _saved(self, keep: Tensor) -> float:
        """What the table says of a cut: the sum over its groups, as if each were alone."""
        return sum(times.saved(int(keep[times.group.channels].sum())) for times in self._table)

    def rounder(self, keep: Tensor, ratio: float) -> tuple[Tensor, float]:
        """Give channels back that cost no time: up to counts that the hardware likes."""
        if self._scored.config.channel_multiple > 1 or self._scored.config.overrides:
            return keep, ratio
        for times, score in zip(self._table, self._scores, strict=True):
            count = int(keep[times.group.channels].sum())
            rounder = sorted({-(-count // step) * step for step in _ROUND} - {count})
            rounder = [number for number in rounder if number <= len(times.group)]
            if count == len(times.group) or not rounder:
                continue
            wider = [_wider(keep, times.group, score, number) for number in rounder]
            base, *ratios = self._watch.ratios([keep, *wider], rounds=_ROUNDS)
            for candidate, now in zip(wider, ratios, strict=True):
                if now <= base * _AS_FAST and now <= self._target:
                    keep, ratio = candidate, now
        return keep, ratio


def _saved_by_one(times: GroupTimes) -> float:
    """What one channel saves, at least a little: latency is noisy, and nothing is free."""
    half = times.kept[len(times.kept) // 2]  # All of them where none may go.
    gone = len(times.group) - half
    return max(times.saved(half), 1e-3) / max(gone, 1)
