"""Look for the smallest model that keeps a promise: bisection over the whole, then group by group.

Knows nothing of training or data: what a cut is worth is asked of a function.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from worker.engine.config import SearchConfig
from worker.engine.errors import TargetUnreachableError
from worker.engine.graph.counts import Counts
from worker.engine.prune.choice import COUNTED, Choice
from worker.engine.prune.plan import Scored

# Bisection ends when what is known to be too small is this near.
_NEAR = 1.06
_FIRST = 0.5
# Of a group's channels: what more goes in one step of the refinement.
_STEP = 0.125
# Of the smallest, once no step makes it smaller: where else to look.
_PROBES = (0.85, 0.6)
# A step that saves less is not worth a trial.
_LEAST_GAIN = 0.01


@dataclass(frozen=True)
class Tried:
    """A cut, recovered and measured on the validation rows.

    ``quality`` is what `measure.quality` gives; ``is_confirmed`` is None until the test data was
    asked.
    """

    number: int
    reason: str
    keep: Tensor
    counts: Counts
    quality: Mapping[str, Any]
    latency_ratio: float | None
    is_kept: bool
    seconds: float
    is_confirmed: bool | None = None

    @property
    def goodness(self) -> float:
        """Accuracy where there is one, else minus the loss: higher is better."""
        accuracy = self.quality["accuracy"]
        return float(accuracy if accuracy is not None else -self.quality["loss"])


Try = Callable[[Tensor, str, int], Tried]
"""Cut, recover and measure what a tensor keeps, for a reason, as the trial of a number."""


@dataclass
class Smallest:
    """The search: what was tried so far, and whether more may be.

    Attributes:
        scored: The channels.
        families: Scores for each way to share a cut among groups; the better is found by trying.
        config: What is to be least, and the limits.
        attempt: How a cut is tried.
        now: A clock in seconds.
    """

    scored: Scored
    families: Sequence[tuple[str, tuple[Tensor, ...]]]
    config: SearchConfig
    attempt: Try
    now: Callable[[], float] = monotonic
    tried: list[Tried] = field(default_factory=list)
    ended_by: str = "converged"

    def __post_init__(self) -> None:
        self._began = self.now()

    def look(self) -> None:
        """Try until nothing is left to try, or a limit is met."""
        found = self._best_family()
        if found is None:
            return
        first, scores = found
        self._bisect(first, scores)
        while self.kept:
            self._refine(scores)
            if (better := self._probe()) is None:
                return
            scores = better

    @property
    def kept(self) -> list[Tried]:
        """What keeps the promise, the smallest first."""
        return sorted((each for each in self.tried if each.is_kept), key=self.size)

    def size(self, tried: Tried) -> float:
        """Of what is to be least, as a fraction of the original's."""
        if self.config.minimize == "latency":
            assert tried.latency_ratio is not None
            return tried.latency_ratio
        return self._fraction(tried.counts)

    @property
    def _kind(self) -> str:
        """The count that cuts are chosen by: what is to be least, or what that follows from."""
        return "macs" if self.config.minimize == "latency" else self.config.minimize

    def _fraction(self, counts: Counts) -> float:
        name = COUNTED[self._kind]
        return float(getattr(counts, name) / max(getattr(self.scored.baseline, name), 1))

    def _may_try(self) -> bool:
        if len(self.tried) >= self.config.trials:
            self.ended_by = "trials"
        elif self._spent >= self.config.seconds:
            self.ended_by = "seconds"
        else:
            return True
        return False

    @property
    def _spent(self) -> float:
        """Seconds, those of trials that an earlier attempt has made among them."""
        return max(self.now() - self._began, sum(each.seconds for each in self.tried))

    def _try(self, keep: Tensor, reason: str) -> Tried:
        found = self._known(keep) or self.attempt(keep, reason, len(self.tried) + 1)
        if found not in self.tried:
            self.tried.append(found)
        return found

    def _known(self, keep: Tensor) -> Tried | None:
        return next((each for each in self.tried if torch.equal(each.keep, keep)), None)

    def _cut(self, scores: tuple[Tensor, ...], fraction: float) -> Tensor | None:
        """The cut of a family that leaves a fraction; None where its floors do not allow it."""
        try:
            return self._choice(scores, fraction).made(self.scored.baseline)
        except TargetUnreachableError:
            return None

    def _choice(self, scores: tuple[Tensor, ...], fraction: float) -> Choice:
        amount: dict[str, Any] = {self._kind: fraction, "accuracy": None, "loss": None}
        return Choice(self.scored.coupling, scores, replace(self.scored.config, **amount))

    def _best_family(self) -> tuple[Tried, tuple[Tensor, ...]] | None:
        """The scores whose cut to one half, or to what can be reached, is the best, and it."""
        found = []
        for name, scores in self.families:
            keep = self._cut(scores, _FIRST)
            if keep is None:
                keep = self._choice(scores, _FIRST).removing(1.0)
            if bool(keep.all()) or not self._may_try():
                continue
            found.append((self._try(keep, f"{self._kind} {_FIRST:g}, by {name}"), scores))
        if not found:
            return None
        return max(found, key=lambda each: (each[0].is_kept, each[0].goodness))

    def _bisect(self, first: Tried, scores: tuple[Tensor, ...]) -> None:
        """Halve, in ratios, between what is too small and what keeps the promise.

        What other ways to share a cut came to says nothing of this one.
        """
        whole = self._choice(scores, _FIRST)
        least = self._try_size(whole.removing(1.0))
        low, high = max(least, 1e-4) / _NEAR, 1.0
        if first.is_kept:
            high = self._fraction(first.counts)
        else:
            low = max(low, self._fraction(first.counts))
        while high / low > _NEAR and self._may_try():
            fraction = sqrt(low * high)
            keep = self._cut(scores, fraction)
            if keep is None:
                keep = whole.removing(1.0)
            if bool(keep.all()) or self._known(keep) is not None:
                break
            found = self._try(keep, f"{self._kind} {fraction:.3g}")
            if found.is_kept:
                # It may have ended lower than asked; never above where it was.
                high = min(self._fraction(found.counts), fraction)
            else:
                low = fraction

    def _try_size(self, keep: Tensor) -> float:
        return self._fraction(self.scored.whole_plan(keep).predicted)

    def _refine(self, scores: tuple[Tensor, ...]) -> None:
        """Take more from one group after another, as long as any of them has it to give."""
        groups = list(range(len(self.scored.coupling.groups)))
        is_any = True
        while is_any:
            is_any = False
            for at in groups:
                best = self.kept[0]
                keep = self._less(best.keep, at, scores)
                if keep is None or self._known(keep) is not None:
                    continue
                gain = self._fraction(best.counts) - self._try_size(keep)
                if gain < _LEAST_GAIN * self._fraction(best.counts):
                    continue
                if not self._may_try():
                    return
                name = self.scored.coupling.groups[at].name
                found = self._try(keep, f"less of {name}")
                is_any |= found.is_kept and self.size(found) < self.size(best)

    def _probe(self) -> tuple[Tensor, ...] | None:
        """Look below the smallest for another that keeps the promise, by each way to share a cut.

        Bisection believes every trial, and a row more or less that is right is chance.

        Returns:
            The scores of one that was found, to go on with; None where there is none.
        """
        least = self.size(self.kept[0])
        for part in _PROBES:
            for name, scores in self.families:
                fraction = part * self._fraction(self.kept[0].counts)
                keep = self._cut(scores, fraction)
                if keep is None or self._known(keep) is not None:
                    continue
                if not self._may_try():
                    return None
                found = self._try(keep, f"{self._kind} {fraction:.3g}, by {name}")
                if found.is_kept and self.size(found) < least:
                    return scores
        return None

    def _less(self, keep: Tensor, at: int, scores: tuple[Tensor, ...]) -> Tensor | None:
        """The same with less of one group; None where that is at its floor."""
        group = self.scored.coupling.groups[at]
        stays = keep[group.channels]
        number = max(1, round(_STEP * len(group)))
        rank = torch.where(stays, scores[at].double(), torch.inf).argsort(stable=True)
        less = keep.clone()
        less[group.channels[rank[:number]]] = False
        less = self._choice(scores, _FIRST).rounded(less)
        return None if torch.equal(less, keep) else less

    def front(self) -> set[int]:
        """Numbers of the trials that none beats in both size and quality."""
        return {
            each.number
            for each in self.tried
            if not any(self._beats(other, each) for other in self.tried)
        }

    def _beats(self, one: Tried, other: Tried) -> bool:
        a, b = (self.size(one), -one.goodness), (self.size(other), -other.goodness)
        return a != b and a[0] <= b[0] and a[1] <= b[1]
