"""Choose what stays: from scores and an amount to channels."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from math import ceil

import torch
from torch import Tensor

from worker.engine.config import AMOUNTS, OverrideConfig, PruneConfig
from worker.engine.errors import PairError, TargetUnreachableError
from worker.engine.graph.counts import Counts, count, count_macs
from worker.engine.graph.coupling import ChannelGroup, Coupling

# How far below a budget a plan may end, as a fraction of the original, before it says so.
_TOLERANCE = 0.01

# So that a tenth of thirty is three, however that is rounded.
_ROUNDING = 1e-9

# How many channels are tried for the room that a budget leaves.
_TRIES = 64

COUNTED = {"parameters": "parameters", "macs": "macs", "bytes": "size_bytes"}
"""The amounts that are fractions of a count, and the field of the count."""


def override_of(group: ChannelGroup, config: PruneConfig) -> OverrideConfig | None:
    """The first override that matches a parameter of a group."""
    for override in config.overrides:
        if any(fnmatchcase(member.parameter, override.match) for member in group.members):
            return override
    return None


class Choice:
    """A family of plans that remove more and more, and the first of it that is asked for."""

    def __init__(self, coupling: Coupling, scores: tuple[Tensor, ...], config: PruneConfig) -> None:
        self.coupling = coupling
        self.scores = scores
        self.config = config
        self.warnings: list[str] = []
        self.is_local = config.scope == "local"
        # Within a group, the least important first: position 0 goes before position 1.
        self.ranks = [score.argsort(stable=True).argsort() for score in scores]
        every = torch.cat([group.channels for group in coupling.groups])
        ranked = every[torch.cat(scores).argsort(stable=True)]
        self.position = torch.zeros(coupling.channel_count, dtype=torch.int64)
        self.position[ranked] = torch.arange(len(ranked))
        overrides = [override_of(group, config) for group in coupling.groups]
        self._free = [at for at, override in enumerate(overrides) if override is None]
        self._base = coupling.everything()
        for at, override in enumerate(overrides):
            if override is not None:
                self._base[coupling.groups[at].channels] = self._overridden(at, override)
        is_free = torch.zeros(coupling.channel_count, dtype=torch.bool)
        for at in self._free:
            is_free[coupling.groups[at].channels] = True
        self.order = ranked[is_free[ranked]]

    def made(self, baseline: Counts) -> Tensor:
        """What stays: bool, ``(channel_count + 1,)``.

        Raises:
            TargetUnreachableError: The budget cannot be met with every dimension at its floor.
        """
        if self.config.amount is None:
            return self.rounded(self._base.clone())
        kind, value = self.config.amount
        if kind in COUNTED:
            return self._within(kind, value, baseline)
        if kind == "channel_ratio":
            return self._taking(kind, value, self._due_of_ratio)
        if kind == "keep":
            return self._taking(kind, value, self._due_of_keep)
        return self._above(value, self._way)

    @property
    def _way(self) -> float:
        """Which part of the way that is left this round goes."""
        start, end = self.config.progress
        return (end - start) / (1 - start)

    def _due_of_ratio(self, groups: Sequence[ChannelGroup], ratio: float) -> int:
        """How many channels of some groups go in this round, of those that there are now."""
        start, end = self.config.progress
        now = sum(len(group) for group in groups)
        origin = self.config.origin
        whole = now / (1 - ratio * start)
        if origin is not None:
            whole = sum(origin.channels.get(group.name, len(group)) for group in groups)
        return min(max(round(whole * ratio * end) - round(whole - now), 0), now)

    def _due_of_keep(self, groups: Sequence[ChannelGroup], number: float) -> int:
        start, end = self.config.progress
        surplus = max(sum(len(group) for group in groups) - int(number), 0)
        return round(surplus * (end - start) / (1 - start))

    def _taking(
        self, kind: str, value: float, due: Callable[[Sequence[ChannelGroup], float], int]
    ) -> Tensor:
        """The plan that takes as many channels as are due, floors and multiples aside."""
        groups = [self.coupling.groups[at] for at in self._free]
        if not self.is_local:
            wanted = due(groups, value)
            keep = self._first_gone(wanted)
        else:
            numbers = [due([group], value) for group in groups]
            wanted = sum(numbers)
            keep = self._first_gone_of_each(numbers)
        gone = int((~keep[self.order]).sum())
        if abs(gone - wanted) > _TOLERANCE * len(self.order):
            self.warnings.append(
                f"{kind}: {value:g} asks for {wanted} of {len(self.order)} channels to go, and "
                f"{gone} do: the others are held by the floor or by channel_multiple, or are the "
                "last of a dimension"
            )
        return keep

    def _first_gone_of_each(self, numbers: Sequence[int]) -> Tensor:
        keep = self._base.clone()
        for at, number in zip(self._free, numbers, strict=True):
            keep[self.coupling.groups[at].channels] = self.ranks[at] >= number
        return self.rounded(keep)

    def _overridden(self, at: int, override: OverrideConfig) -> Tensor:
        """Which channels of a group stay, by its own amount: bool, ``(channels,)``."""
        group, rank = self.coupling.groups[at], self.ranks[at]
        size = len(group)
        if override.pairs:
            stays = torch.ones(size, dtype=torch.bool)
            stays[[source for source, _ in self._checked(group, override)]] = False
            return stays
        if override.channel_ratio is not None:
            return rank >= self._due_of_ratio([group], override.channel_ratio)
        if override.keep is not None:
            return rank >= self._due_of_keep([group], override.keep)
        assert override.threshold is not None, "exactly one amount is given"
        return self._not_below(at, override.threshold, self._way)

    def _checked(
        self, group: ChannelGroup, override: OverrideConfig
    ) -> tuple[tuple[int, int], ...]:
        for number, pair in enumerate(override.pairs):
            for end, channel in enumerate(pair):
                if channel >= len(group):
                    at = self.config.overrides.index(override)
                    raise PairError(
                        f"pair {list(pair)}: channel group {group.id} ({group.name}) has channels "
                        f"0 to {len(group) - 1}, and no {channel}",
                        pointer=f"/overrides/{at}/pairs/{number}/{end}",
                    )
        return override.pairs

    def _not_below(self, at: int, threshold: float, way: float) -> Tensor:
        below = int((self.scores[at] < threshold).sum())
        return self.ranks[at] >= round(below * way)

    def _above(self, threshold: float, way: float) -> Tensor:
        keep = self._base.clone()
        for at in self._free:
            keep[self.coupling.groups[at].channels] = self._not_below(at, threshold, way)
        return self.rounded(keep)

    def removing(self, share: float) -> Tensor:
        """The plan that removes this share of the channels, in [0, 1]."""
        if not self.is_local:
            return self._first_gone(round(share * len(self.order)))
        sizes = [len(self.coupling.groups[at]) for at in self._free]
        return self._first_gone_of_each([round(share * size) for size in sizes])

    def _first_gone(self, number: int) -> Tensor:
        keep = self._base.clone()
        keep[self.order[:number]] = False
        return self.rounded(keep)

    def _within(self, kind: str, fraction: float, baseline: Counts) -> Tensor:
        """The plan that removes least and keeps at most a fraction of the original."""
        original = self.config.origin or baseline
        of = int(getattr(original, COUNTED[kind]))
        now = int(getattr(baseline, COUNTED[kind]))
        start, end = self.config.progress
        limit = now + (fraction * of - now) * (end - start) / (1 - start)
        steps = len(self.order)
        reached = self._count(kind, self.removing(1.0))
        if reached > limit:
            raise TargetUnreachableError(
                f"{kind}: at most {fraction:g} of the original was asked for; with every "
                f"dimension at its floor {reached / of:.3f} remain; ask for more than that, "
                "exclude less, or use a lower floor or a smaller channel_multiple",
                pointer=f"/budget/{kind}",
            )
        low, high = 0, steps
        while low < high:
            middle = (low + high) // 2
            if self._count(kind, self.removing(middle / steps)) <= limit:
                high = middle
            else:
                low = middle + 1
        keep = self.removing(high / steps) if steps else self.removing(1.0)
        keep = self._filled(kind, keep, limit, _TOLERANCE * of)
        left = self._count(kind, keep)
        if (limit - left) / of > _TOLERANCE:
            self.warnings.append(
                f"{kind}: {limit / of:.3g} of the original was asked for and {left / of:.3f} "
                "remain, as the next larger plan would exceed the budget"
            )
        return keep

    def _filled(self, kind: str, keep: Tensor, limit: float, enough: float) -> Tensor:
        """Give channels back that the budget has room for, the most important first.

        Where the next in the ranking is a large one, others that are smaller still fit.
        """
        if self.is_local or self.config.channel_multiple > 1:
            return keep
        gone = self.order[~keep[self.order]].flip(0)[:_TRIES]
        left = self._count(kind, keep)
        for channel in gone.tolist():
            if limit - left <= enough:
                break
            more = keep.clone()
            more[channel] = True
            if (with_it := self._count(kind, more)) <= limit:
                keep, left = more, with_it
        return keep

    def _count(self, kind: str, keep: Tensor) -> int:
        if kind == "macs":
            return count_macs(self.coupling, keep)
        return int(getattr(count(self.coupling, keep), COUNTED[kind]))

    def rounded(self, keep: Tensor) -> Tensor:
        """Give every dimension its best channels back, up to its floor and its multiple."""
        multiple = self.config.channel_multiple
        every_block = [torch.arange(len(self.coupling.blocks))] if self.coupling.blocks else []
        for channels in (*self.coupling.sets, *every_block):
            size = len(channels)
            floor = self.config.floor_used if self._is_free(channels) else 0.0
            wanted = max(int(keep[channels].sum()), ceil(floor * size - _ROUNDING), 1)
            wanted = min(ceil(wanted / multiple) * multiple, size)
            gone = channels[~keep[channels]]
            best = gone[self.position[gone].argsort(descending=True)]
            keep[best[: wanted - (size - len(gone))]] = True
        return keep

    def _is_free(self, channels: Tensor) -> bool:
        """Whether the budget decides on any of these; what an override says has no floor."""
        if len(self._free) == len(self.coupling.groups):
            return True
        return bool(torch.isin(channels, self.order).any())


def unmatched_overrides(coupling: Coupling, config: PruneConfig) -> list[str]:
    """A word on each override that no group gets."""
    used = {id(override_of(group, config)) for group in coupling.groups}
    return [
        f"overrides: {override.match!r} is the first match of no channel group, so it changes "
        "nothing"
        for override in config.overrides
        if id(override) not in used
    ]


def amounts_in(config: PruneConfig) -> dict[str, float]:
    """The budget as a spec says it: one amount, or none."""
    return {name: getattr(config, name) for name in AMOUNTS if getattr(config, name) is not None}
