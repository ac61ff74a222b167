"""Decide what to remove, before any weight changes."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from worker.engine.config import PruneConfig, PruningConfig
from worker.engine.criteria import CRITERIA
from worker.engine.criteria.subject import Subject, ignore
from worker.engine.data import Rows
from worker.engine.errors import NothingToPruneError
from worker.engine.graph.counts import Counts, count
from worker.engine.graph.coupling import ChannelGroup, Coupling
from worker.engine.prune.choice import Choice, amounts_in, override_of, unmatched_overrides
from worker.engine.prune.cut import written_sizes
from worker.engine.prune.scoring import score
from worker.engine.prune.shift import Merges, find_merges, mergeable

FORMAT_VERSION = 3


@dataclass(frozen=True)
class Plan:
    """What stays: bool, ``(channel_count + 1,)``, and why.

    ``scores`` is None where the plan was given and nothing was scored; ``merges`` are those of a
    shift.
    """

    coupling: Coupling
    config: PruningConfig
    seed: int
    scores: tuple[Tensor, ...] | None
    keep: Tensor
    baseline: Counts
    predicted: Counts
    warnings: tuple[str, ...]
    merges: Merges = field(default_factory=dict)

    def as_json(self, model_sha256: str) -> dict[str, Any]:
        """The plan in the shape that users download."""
        scores = self.scores or [None] * len(self.coupling.groups)
        groups = [
            self._group(group, score)
            for group, score in zip(self.coupling.groups, scores, strict=True)
        ]
        return {
            **heading(self.config, model_sha256, self.seed),
            "baseline": self.baseline.as_json(),
            "predicted": self.predicted.as_json(),
            "channel_groups": groups,
            "sparse": [],
            "keep_sha256": keep_sha256(groups),
            "sizes": [vars(size) for size in written_sizes(self.coupling, self.keep)],
            "frozen": [vars(frozen) for frozen in self.coupling.frozen],
            "warnings": list(self.warnings),
        }

    def _group(self, group: ChannelGroup, score: Tensor | None) -> dict[str, Any]:
        place = self.coupling.numbers_in(group)
        return {
            "id": group.id,
            "name": group.name,
            "granularity": group.granularity,
            "channel_count": len(group),
            "channel_names": list(group.channel_names) or None,
            "keep": self.keep[group.channels].nonzero().flatten().tolist(),
            "importance": None if score is None else score.tolist(),
            "merges": [
                {"source": merge.source, "target": merge.target, "scales": dict(merge.scales)}
                for merge in self.merges.get(group.id, ())
            ],
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
    return [unmatched_warning(pattern) for pattern in coupling.unmatched]


def unmatched_warning(pattern: str) -> str:
    return f"exclude: no parameter matches {pattern!r}, so it protects nothing"


def keep_sha256(groups: list[dict[str, Any]]) -> str:
    """Digest of what every group keeps; a plan that was edited no longer fits it."""
    kept = [[group["id"], group["keep"]] for group in groups]
    return hashlib.sha256(json.dumps(kept, separators=(",", ":")).encode()).hexdigest()


def heading(config: PruningConfig, model_sha256: str, seed: int) -> dict[str, Any]:
    """What a plan says of how it was made; null where it was given."""
    asked: dict[str, Any] = dict.fromkeys(
        ("algorithm", "criterion", "scope", "aggregation", "normalization", "budget")
    )
    if isinstance(config, PruneConfig):
        options = {"name": config.criterion, **config.options}
        asked = {
            "algorithm": config.algorithm,
            "criterion": options if config.options else config.criterion,
            "scope": config.scope,
            "aggregation": config.aggregation,
            "normalization": config.normalization or CRITERIA[config.criterion].normalization,
            "budget": amounts_in(config) or None,
        }
    return {
        "format_version": FORMAT_VERSION,
        "model_sha256": model_sha256,
        **asked,
        "granularity": config.granularity,
        "exclude": list(config.exclude),
        "seed": seed,
    }


def _written(numbers: Tensor, count: int) -> list[int] | None:
    """Channel numbers as the document has them: null where index i is channel i."""
    return None if torch.equal(numbers, torch.arange(count)) else numbers.tolist()


def decide(
    coupling: Coupling,
    config: PruneConfig,
    *,
    seed: int,
    rows: Rows | None = None,
    on_progress: Callable[[int, int], None] = ignore,
) -> Plan:
    """Score every channel group and choose what stays.

    Args:
        coupling: Read, never written.
        config: What is asked.
        seed: Of what is drawn: random scores, training rows.
        rows: Training data, for criteria that need it.
        on_progress: Told batches done, of how many.

    Raises:
        NothingToPruneError: No dimension of any parameter may shrink.
        NotFiniteError: Weights hold NaN or infinity, so that nothing can be ranked.
        TargetUnreachableError: The budget cannot be met with every group at its floor.
        PairError: A pair to merge names a channel that is not there.
    """
    scored = Scored.of(coupling, config, seed=seed, rows=rows, on_progress=on_progress)
    choice = Choice(coupling, scored.scores, config)
    return scored.plan(choice.made(scored.baseline), choice.warnings)


@dataclass(frozen=True)
class Scored:
    """Channels with their scores: what a plan is chosen from."""

    subject: Subject
    config: PruneConfig
    scores: tuple[Tensor, ...]
    baseline: Counts

    @classmethod
    def of(
        cls,
        coupling: Coupling,
        config: PruneConfig,
        *,
        seed: int,
        rows: Rows | None = None,
        on_progress: Callable[[int, int], None] = ignore,
    ) -> "Scored":
        """Score every channel group. See :func:`decide`."""
        subject = Subject(coupling, rows, seed, on_progress)
        if not coupling.groups:
            pointer = "/granularity" if config.granularity in _NONE_OF else None
            raise NothingToPruneError(_nothing(coupling, config.granularity), pointer=pointer)
        return cls(subject, config, score(subject, config), count(coupling))

    @property
    def coupling(self) -> Coupling:
        return self.subject.coupling

    def plan(self, keep: Tensor, warnings: Sequence[str] = ()) -> Plan:
        """The plan that keeps this: bool, ``(channel_count + 1,)``.

        Raises:
            NothingToPruneError: That is everything.
        """
        coupling, config = self.coupling, self.config
        if bool(keep.all()) and _is_all(config, self.baseline):
            pointer = "/overrides" if config.amount is None else "/budget"
            raise NothingToPruneError(_too_little(coupling, config), pointer=pointer)
        return self.whole_plan(keep, warnings)

    def whole_plan(self, keep: Tensor, warnings: Sequence[str] = ()) -> Plan:
        """The same, which may keep everything."""
        coupling, config = self.coupling, self.config
        merges = _merges(self.subject, config, keep) if config.algorithm == "shift" else {}
        said = (
            *unmatched_warnings(coupling),
            *unmatched_overrides(coupling, config),
            *self.subject.warnings,
            *warnings,
        )
        predicted = count(coupling, keep)
        return Plan(
            coupling,
            config,
            self.subject.seed,
            self.scores,
            keep,
            self.baseline,
            predicted,
            said,
            merges,
        )


def _is_all(config: PruneConfig, baseline: Counts) -> bool:
    """Whether nothing goes at all where nothing goes in this round."""
    if config.progress[1] < 1:
        return False
    return config.origin is None or config.origin.parameters == baseline.parameters


def _merges(subject: Subject, config: PruneConfig, keep: Tensor) -> Merges:
    pairs: dict[str, Mapping[int, int]] = {}
    for group in subject.groups:
        override = override_of(group, config)
        if override is not None and override.pairs:
            pairs[group.id] = dict(override.pairs)
    merges = find_merges(subject, keep, pairs=pairs)
    able = mergeable(subject.coupling)
    for group in subject.groups:
        gone = int((~keep[group.channels]).sum())
        if gone and not able[group.id]:
            subject.warnings.append(
                f"shift: the {gone} channels of {group.name} that go are cut and not merged: what "
                "reads them has no weights of its own that could take a stand-in over"
            )
    return merges


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


_MOST_NAMED = 3


def _too_little(coupling: Coupling, config: PruneConfig) -> str:
    asked = "the overrides remove"
    if config.amount is not None:
        kind, value = config.amount
        asked = f"{kind} {value} removes"
    multiple = f" and counts are multiples of {config.channel_multiple}"
    return (
        f"{asked} not one whole channel of any group"
        f"{multiple if config.channel_multiple > 1 else ''}: ask for more to be removed"
        f"{''.join(f'; {each}' for each in unmatched_overrides(coupling, config)[:_MOST_NAMED])}"
    )
