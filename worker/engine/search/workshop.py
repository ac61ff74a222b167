"""Make the models of a search: cut, recover, measure; and say which keep the promise."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from worker.engine.changed import Changed
from worker.engine.config import EvaluationConfig, RecoveryConfig, TrainingConfig, TransformConfig
from worker.engine.criteria.subject import ignore
from worker.engine.data import Rows
from worker.engine.errors import DivergedError, NotFiniteError
from worker.engine.graph.counts import count
from worker.engine.measure.quality import quality
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.plan import Scored
from worker.engine.recovery.reconstruct import Reference
from worker.engine.recovery.recover import Sources
from worker.engine.recovery.setting import Setting
from worker.engine.safety import SafetyConfig, broken
from worker.engine.search.smallest import Tried
from worker.engine.search.stopwatch import Stopwatch
from worker.engine.transform import recovered, transformed

_LATENCY_ROUNDS = 21


Pointing = Callable[[], AbstractContextManager[None]]
"""What has failures inside point at a step."""


@dataclass(frozen=True)
class Made:
    """A model of a search.

    ``changes`` has each step that factorizes, quantizes or casts, with its place behind the search.
    """

    program: Program
    changes: tuple[tuple[int, TransformConfig, Changed], ...] = ()


@dataclass
class Workshop:
    """What makes and measures a model of a search.

    Attributes:
        scored: The channels; their program is what is cut.
        recipe: The steps that follow the search, done with each model; each with what has its
            failures point at it.
        sources: Training rows (those held out are not among them), original and reference.
        validation: Rows held out, to judge by.
        validation_fraction: Of the training rows, for steps that keep what is best.
        promise: What a model must keep.
        evaluation: How it is measured.
        setting: Of every step; its progress is nobody's.
        watch: Measures latency, where that is to be least.
        known: Trials of an earlier attempt at the same search.
    """

    scored: Scored
    recipe: Sequence[
        tuple[RecoveryConfig | TransformConfig, Callable[[], AbstractContextManager[None]]]
    ]
    sources: Sources
    validation: Rows
    promise: SafetyConfig
    evaluation: EvaluationConfig
    setting: Setting
    validation_fraction: float = 0.1
    watch: Stopwatch | None = None
    known: Sequence[Mapping[str, Any]] = ()
    _held: "tuple[int, Made] | None" = None
    _baseline: Mapping[str, Any] = field(default_factory=dict)

    @property
    def baseline(self) -> Mapping[str, Any]:
        """Quality of the original on the validation rows."""
        if not self._baseline:
            self._baseline = self.quality(self.sources.original, self.validation)
        return self._baseline

    def quality(self, program: Program, rows: Rows) -> dict[str, Any]:
        """Measure a program as the evaluation says; what no promise is about is left out."""
        given = self.promise.given
        return quality(
            program,
            self.sources.original,
            rows,
            batch_size=self.evaluation.batch_size,
            on_batch=ignore,
            noise_std=self.evaluation.noise_std if "noise_accuracy" in given else None,
            fgsm_epsilon=self.evaluation.fgsm_epsilon if "fgsm_accuracy" in given else None,
            seed=self.setting.seed,
        )

    def made(self, keep: Tensor) -> "Made":
        """A cut, and what follows it: the same each time."""
        coupling = self.scored.coupling
        program = cut(coupling, keep).copy()
        before = self.sources.reference or Reference.of(coupling.program)
        reference = before.after(coupling, keep)
        sources = replace(self.sources, reference=reference)
        changes: list[tuple[int, TransformConfig, Changed]] = []
        for number, (step, pointing) in enumerate(self.recipe):
            torch.manual_seed(self.setting.seed)
            with pointing():
                setting = replace(self.setting, number=self.setting.number + number)
                if isinstance(step, TransformConfig):
                    changed = transformed(program, step, sources.rows, setting)
                    program = changed.program
                    changes.append((number, step, changed))
                    sources = replace(sources, reference=None)
                    continue
                given = sources
                if isinstance(step, TrainingConfig) and step.keep == "best":
                    # Rows of its own: those that judge a model choose none of its weights.
                    fraction = self.validation_fraction
                    rows, held_out = sources.rows.split(fraction, seed=setting.seed)
                    setting = replace(setting, validation=held_out)
                    given = replace(sources, rows=rows)
                program = recovered(program, step, given, setting)
            if step.trains:
                sources = replace(sources, reference=None)
        return Made(program, tuple(changes))

    def attempt(self, keep: Tensor, reason: str, number: int) -> Tried:
        """Try a cut. One whose training diverges keeps no promise, and ends nothing."""
        if (known := self._of_before(keep)) is not None:
            return replace(known, number=number, reason=reason)
        began = perf_counter()
        counts = count(self.scored.coupling, keep)
        ratio = None
        try:
            made = self.made(keep)
            found: Mapping[str, Any] = self.quality(made.program, self.validation)
        except (DivergedError, NotFiniteError) as error:
            self.setting.warn(f"a model of the search is given up: {error}")
            return self._given_up(keep, reason, number, perf_counter() - began)
        is_kept = not broken(self.baseline, found, self.promise)
        if self.watch is not None:
            [ratio] = self.watch.ratios_of([made.program], rounds=_LATENCY_ROUNDS)
        tried = Tried(number, reason, keep, counts, found, ratio, is_kept, perf_counter() - began)
        if is_kept:
            self._hold(tried, made)
        return tried

    def _given_up(self, keep: Tensor, reason: str, number: int, seconds: float) -> Tried:
        found: dict[str, Any] = {**dict.fromkeys(self.baseline), "loss": float("inf")}
        if self.baseline["accuracy"] is not None:
            found["accuracy"] = 0.0
        counts = count(self.scored.coupling, keep)
        # Nobody measured it; it is no smaller than the original for whoever ranks by latency.
        ratio = None if self.watch is None else 1.0
        return Tried(number, reason, keep, counts, found, ratio, False, seconds)

    def made_in(self, tried: Tried) -> "Made":
        """The model of a trial; made again unless it is the last one that kept the promise."""
        if self._held is not None and self._held[0] == tried.number:
            return self._held[1]
        return self.made(tried.keep)

    def _hold(self, tried: Tried, made: "Made") -> None:
        # One is in memory: the newest that kept the promise is, nearly always, the smallest.
        self._held = (tried.number, made)

    def _of_before(self, keep: Tensor) -> Tried | None:
        kept = keep.nonzero().flatten().tolist()
        for each in self.known:
            if each["keep"] == kept:
                return remembered(each, keep, self.scored)
        return None


def as_memory(tried: Tried) -> dict[str, Any]:
    """A trial as a checkpoint keeps it."""
    return {
        "keep": tried.keep.nonzero().flatten().tolist(),
        "quality": dict(tried.quality),
        "latency_ratio": tried.latency_ratio,
        "is_kept": tried.is_kept,
        "seconds": tried.seconds,
    }


def remembered(document: Mapping[str, Any], keep: Tensor, scored: Scored) -> Tried:
    """What :func:`as_memory` gave, as a trial without a number."""
    return Tried(
        0,
        "",
        keep,
        count(scored.coupling, keep),
        document["quality"],
        document["latency_ratio"],
        document["is_kept"],
        document["seconds"],
    )
