"""Decide what to remove: from scores and a budget to the channels that stay."""

import hashlib
import json
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Generator, Tensor

from worker.engine.config import PruneConfig, PruningConfig
from worker.engine.criteria import CRITERIA
from worker.engine.criteria.subject import Subject
from worker.engine.errors import NotFiniteError, NothingToPruneError, TargetUnreachableError
from worker.engine.graph.counts import Counts, count, count_macs
from worker.engine.graph.coupling import ChannelGroup, Coupling
from worker.engine.prune.cut import written_sizes

FORMAT_VERSION = 2

# Every dimension keeps this share of its channels in a global ranking: a layer with almost nothing
# left is a bottleneck that no other layer makes up for.
_FLOOR = 0.1
# How far below the budget a plan may end, as a fraction of the program's MACs, before it says so.
_TOLERANCE = 0.01


@dataclass(frozen=True)
class Plan:
    """What stays: bool, ``(channel_count + 1,)``, and why.

    ``scores`` is None where the plan was given and nothing was scored.
    """

    coupling: Coupling
    config: PruningConfig
    seed: int
    scores: tuple[Tensor, ...] | None
    keep: Tensor
    baseline: Counts
    predicted: Counts
    warnings: tuple[str, ...]

    def as_json(self, model_sha256: str) -> dict[str, Any]:
        """The plan in the shape that users download."""
        scores = self.scores or [None] * len(self.coupling.groups)
        groups = [
            self._group(group, score)
            for group, score in zip(self.coupling.groups, scores, strict=True)
        ]
        return {
            "format_version": FORMAT_VERSION,
            "model_sha256": model_sha256,
            **_asked(self.config),
            "granularity": self.config.granularity,
            "exclude": list(self.config.exclude),
            "seed": self.seed,
            "baseline": self.baseline.as_json(),
            "predicted": self.predicted.as_json(),
            "channel_groups": groups,
            "keep_sha256": _keep_sha256(groups),
            "sizes": [vars(size) for size in written_sizes(self.coupling, self.keep)],
            "frozen": [vars(frozen) for frozen in self.coupling.frozen],
            "warnings": list(self.warnings),
        }

    def _group(self, group: ChannelGroup, score: Tensor | None) -> dict[str, Any]:
        place = _places(self.coupling, group)
        return {
            "id": group.id,
            "name": group.name,
            "granularity": group.granularity,
            "channel_count": len(group),
            "channel_names": list(group.channel_names) or None,
            "keep": self.keep[group.channels].nonzero().flatten().tolist(),
            "importance": None if score is None else score.tolist(),
            "members": [
                {
                    "parameter": member.parameter,
                    "dim": member.dim,
                    "channels": _written(place[member.channels], len(group)),
                }
                for member in group.members
            ],
        }


def unmatched_warnings(coupling: Coupling) -> list[str]:
    """A word on each pattern to exclude that excludes nothing."""
    return [
        f"exclude: no parameter matches {pattern!r}, so it protects nothing"
        for pattern in coupling.unmatched
    ]


def _keep_sha256(groups: list[dict[str, Any]]) -> str:
    """Digest of what every group keeps; a plan that was edited no longer fits it."""
    kept = [[group["id"], group["keep"]] for group in groups]
    return hashlib.sha256(json.dumps(kept, separators=(",", ":")).encode()).hexdigest()


def _asked(config: PruningConfig) -> dict[str, Any]:
    """How the plan was to be made; null where it was given."""
    if not isinstance(config, PruneConfig):
        return {"criterion": None, "scope": None, "budget": None}
    budget = {"channel_ratio": config.channel_ratio, "macs": config.macs}
    return {
        "criterion": config.criterion,
        "scope": config.scope,
        "budget": {name: value for name, value in budget.items() if value is not None},
    }


def _places(coupling: Coupling, group: ChannelGroup) -> Tensor:
    """The number in the group of each of the coupling's channels; -1 for all others."""
    place = torch.full((coupling.channel_count + 1,), -1)
    place[group.channels] = torch.arange(len(group))
    return place


def _written(numbers: Tensor, count: int) -> list[int] | None:
    """Channel numbers as the document has them: null where index i is channel i."""
    return None if torch.equal(numbers, torch.arange(count)) else numbers.tolist()


def decide(coupling: Coupling, config: PruneConfig, *, seed: int) -> Plan:
    """Score every channel group and choose what stays.

    Raises:
        NothingToPruneError: No dimension of any parameter may shrink.
        NotFiniteError: Weights hold NaN or infinity, so that nothing can be ranked.
        TargetUnreachableError: The budget cannot be met with every group at its floor.
    """
    if not coupling.groups:
        raise NothingToPruneError(_nothing(coupling, config.granularity))
    scores = _score(coupling, config.criterion, seed)
    baseline = count(coupling)
    choice = _Choice(coupling, scores, config)
    if config.macs is not None:
        keep = choice.within(config.macs, of=baseline.macs)
    else:
        assert config.channel_ratio is not None, "exactly one budget is given"
        keep = choice.removing(config.channel_ratio)
    if bool(keep.all()):
        raise NothingToPruneError(_too_little(config))
    predicted = count(coupling, keep)
    warnings = unmatched_warnings(coupling)
    if config.macs is not None:
        warnings += _far_below(config.macs, baseline.macs, predicted.macs)
    return Plan(coupling, config, seed, scores, keep, baseline, predicted, tuple(warnings))


def _score(coupling: Coupling, criterion: str, seed: int) -> tuple[Tensor, ...]:
    generator = Generator().manual_seed(seed)
    scores = []
    for group in coupling.groups:
        subject = Subject(coupling.program, group, _places(coupling, group), generator)
        scores.append(CRITERIA[criterion](subject))
        if not bool(scores[-1].isfinite().all()):
            raise NotFiniteError(
                f"the importance of channels of {group.name} is NaN or infinite: the weights that "
                "go with them hold such numbers; train or export the model again, or exclude them"
            )
    return tuple(scores)


class _Choice:
    """A family of plans that remove more and more, and the first of it within the budget."""

    def __init__(self, coupling: Coupling, scores: tuple[Tensor, ...], config: PruneConfig) -> None:
        self.coupling = coupling
        self.scores = scores
        self.multiple = config.channel_multiple
        self.scope = config.scope
        # Within a group, the least important first: position 0 goes before position 1.
        self.ranks = [score.argsort(stable=True).argsort() for score in scores]
        self.order = self._global_order()
        self.position = torch.zeros(coupling.channel_count, dtype=torch.int64)
        self.position[self.order] = torch.arange(len(self.order))

    def removing(self, share: float) -> Tensor:
        """The plan that removes this share of the channels, in [0, 1]."""
        if self.scope == "local":
            return self._local(share)
        return self._global(round(share * len(self.order)))

    def within(self, fraction: float, *, of: int) -> Tensor:
        """The plan that removes least and keeps at most ``fraction`` of ``of`` MACs."""
        limit = fraction * of
        steps = len(self.order)
        reached = count_macs(self.coupling, self.removing(1.0))
        if reached > limit:
            raise TargetUnreachableError(
                f"macs: at most {fraction:g} of the original was asked for; with every "
                f"dimension at its floor {reached / of:.3f} remain; ask for more than that, "
                "exclude less, or use a smaller channel_multiple"
            )
        low, high = 0, steps
        while low < high:
            middle = (low + high) // 2
            if count_macs(self.coupling, self.removing(middle / steps)) <= limit:
                high = middle
            else:
                low = middle + 1
        return self.removing(high / steps)

    def _global_order(self) -> Tensor:
        """All channels, least important first, scores being relative to their group's mean."""
        relative = torch.cat([score / (score.mean() + 1e-12) for score in self.scores])
        channels = torch.cat([group.channels for group in self.coupling.groups])
        return channels[relative.argsort(stable=True)]

    def _global(self, removed: int) -> Tensor:
        keep = self.coupling.everything()
        keep[self.order[:removed]] = False
        return self._rounded(keep, floor=_FLOOR)

    def _local(self, ratio: float) -> Tensor:
        keep = self.coupling.everything()
        for group, rank in zip(self.coupling.groups, self.ranks, strict=True):
            keep[group.channels] = rank >= round(ratio * len(group))
        return self._rounded(keep, floor=0.0)

    def _rounded(self, keep: Tensor, *, floor: float) -> Tensor:
        """Give every dimension its best channels back, up to its floor and its multiple."""
        every_block = [torch.arange(len(self.coupling.blocks))] if self.coupling.blocks else []
        for channels in (*self.coupling.sets, *every_block):
            size = len(channels)
            wanted = max(int(keep[channels].sum()), ceil(floor * size), 1)
            wanted = min(ceil(wanted / self.multiple) * self.multiple, size)
            gone = channels[~keep[channels]]
            best = gone[self.position[gone].argsort(descending=True)]
            keep[best[: wanted - (size - len(gone))]] = True
        return keep


_NONE_OF = {
    "heads": "attention heads that may go",
    "head_dim": "attention heads whose width may shrink",
    "layers": "residual blocks: a branch with weights, added to what it reads, and read by nobody "
    "else",
}


def _nothing(coupling: Coupling, granularity: str) -> str:
    if granularity in _NONE_OF:
        return (
            f"the model has no {_NONE_OF[granularity]}, so granularity '{granularity}' finds "
            "nothing; use 'channels'"
        )
    reasons = sorted({f"{f.operator} ({f.reason})" for f in coupling.frozen})
    if reasons:
        return (
            "no parameter dimension may shrink: all are tied to inputs, outputs or to operators "
            f"that may not lose channels: {', '.join(reasons[:5])}"
        )
    return (
        "no parameter dimension may shrink: every one is an input or an output of the model, or "
        "excluded; a model needs at least one inner layer, such as two linear layers in a row"
    )


def _too_little(config: PruneConfig) -> str:
    asked = f"channel_ratio {config.channel_ratio:g}" if config.channel_ratio else "the budget"
    multiple = f" and counts are multiples of {config.channel_multiple}"
    return (
        f"{asked} removes not one whole channel of any group"
        f"{multiple if config.channel_multiple > 1 else ''}: ask for more to be removed"
    )


def _far_below(asked: float, before: int, after: int) -> list[str]:
    if asked - after / before <= _TOLERANCE:
        return []
    warning = (
        f"macs: {asked:g} of the original was asked for and {after / before:.3f} remain, as the "
        "next larger plan would exceed the budget"
    )
    return [warning]
