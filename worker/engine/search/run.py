"""One search from beginning to end: sensitivity, trials, what is delivered, and its report."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from worker.engine.config import PruneConfig, SearchConfig
from worker.engine.criteria.subject import ignore
from worker.engine.data import Rows
from worker.engine.errors import DataMismatchError
from worker.engine.prune.plan import Scored
from worker.engine.prune.scoring import NORMALIZATIONS
from worker.engine.safety import broken, unmeasured
from worker.engine.search.sensitivity import Sensitivity, scores_by, sensitivities
from worker.engine.search.smallest import Smallest, Tried
from worker.engine.search.workshop import Made, Workshop


@dataclass(frozen=True)
class Searched:
    """What a search found; ``delivered`` and ``made`` are None where nothing keeps the promise.

    ``report`` is the document of a job's report.
    """

    delivered: Tried | None
    made: Made | None
    report: dict[str, Any]
    warnings: tuple[str, ...]


def search(
    workshop: Workshop,
    limits: SearchConfig,
    test: Rows | None,
    before: Mapping[str, Any],
    on_tried: Callable[[Tried], None],
) -> Searched:
    """Look for the smallest model that keeps its promise, and confirm it on the test data.

    Of the models that keep it on the validation rows the smallest is delivered that keeps it on
    the test data too.

    Args:
        workshop: Makes and judges models.
        limits: What is to be least, how many models are tried, and for how long.
        test: Test data, if there is any.
        before: What was measured on the original, on the test data.
        on_tried: Told of each trial.

    Raises:
        DataMismatchError: The data does not tell what is promised.
    """
    _check_promise(workshop, test, before)
    scored = workshop.scored
    found = sensitivities(
        scored,
        workshop.validation,
        batch_size=workshop.evaluation.batch_size,
        on_progress=ignore,
    )

    def attempt(keep: Any, reason: str, number: int) -> Tried:
        tried = workshop.attempt(keep, reason, number)
        on_tried(tried)
        return tried

    looking = Smallest(scored, _families(scored, found, limits), limits, attempt)
    looking.look()
    delivered, made = _confirmed(workshop, looking, test, before)
    warnings = _warnings(looking, delivered, test)
    return Searched(delivered, made, _report(workshop, looking, found, limits, delivered), warnings)


def _check_promise(workshop: Workshop, test: Rows | None, before: Mapping[str, Any]) -> None:
    if lacking := unmeasured(workshop.baseline, workshop.promise):
        raise DataMismatchError(
            f"the budget is about what the training data does not tell: {'; '.join(lacking)}",
            pointer="/budget",
        )
    if test is not None and (lacking := unmeasured(before["quality"], workshop.promise)):
        raise test.mismatch(
            f"the budget is confirmed on the test data, which does not tell it: "
            f"{'; '.join(lacking)}; add it, or leave /data/test out"
        )


def _families(scored: Scored, found: list[Sensitivity], limits: SearchConfig) -> list[Any]:
    """Ways to share a cut among the groups: the first trials tell which serves this model."""
    config: PruneConfig = scored.config
    families = [(config.criterion, scored.scores)]
    if config.normalization is None:
        kind = "per_parameter" if limits.minimize in ("parameters", "bytes") else "per_mac"
        by_cost = NORMALIZATIONS[kind](scored.subject, list(scored.scores))
        families.append((f"{config.criterion} {kind}", by_cost))
    families.append(("sensitivity", scores_by(scored, found, limits.minimize)))
    return families


def _confirmed(
    workshop: Workshop, looking: Smallest, test: Rows | None, before: Mapping[str, Any]
) -> tuple[Tried | None, Made | None]:
    """The smallest that keeps the promise, on the test data too where there is any."""
    for tried in looking.kept:
        made = workshop.made_in(tried)
        if test is None:
            return tried, made
        after = workshop.quality(made.program, test)
        is_confirmed = not broken(before["quality"], after, workshop.promise)
        confirmed = replace(tried, is_confirmed=is_confirmed)
        looking.tried[tried.number - 1] = confirmed
        if is_confirmed:
            return confirmed, made
    return None, None


def _warnings(looking: Smallest, delivered: Tried | None, test: Rows | None) -> tuple[str, ...]:
    refuted = sum(tried.is_confirmed is False for tried in looking.tried)
    said = ""
    if delivered is None:
        said = (
            f"accuracy_budget_unreachable: none of {len(looking.tried)} models that were tried "
            "keeps the promise, so that the model is delivered as it was; the report's `search` "
            "has what each of them lost: allow more, or recover for longer"
        )
    elif test is None:
        said = (
            "search: the promise was judged by rows held out of the training data alone: give "
            "/data/test to have it confirmed"
        )
    elif refuted:
        said = (
            f"search: {refuted} smaller models keep the promise on the validation rows and not on "
            "the test data; the next larger one keeps it on both"
        )
    return (said,) if said else ()


def _report(
    workshop: Workshop,
    looking: Smallest,
    found: list[Sensitivity],
    limits: SearchConfig,
    delivered: Tried | None,
) -> dict[str, Any]:
    config = workshop.scored.config
    kind, allowed = config.amount or ("", 0.0)
    front = looking.front()
    return {
        "outcome": "found" if delivered else "accuracy_budget_unreachable",
        "ended_by": looking.ended_by,
        "budget": kind,
        "allowed": allowed,
        "minimize": limits.minimize,
        "validation_row_count": len(workshop.validation),
        "original_accuracy": workshop.baseline["accuracy"],
        "original_loss": workshop.baseline["loss"],
        "original_counts": workshop.scored.baseline.as_json(),
        "delivered_trial": delivered.number if delivered else None,
        "trials": [_trial(tried, is_on_front=tried.number in front) for tried in looking.tried],
        "sensitivity": [each.as_json() for each in found],
    }


def _trial(tried: Tried, *, is_on_front: bool) -> dict[str, Any]:
    loss = tried.quality["loss"]
    return {
        "number": tried.number,
        "reason": tried.reason,
        "counts": tried.counts.as_json(),
        "latency_ratio": tried.latency_ratio,
        "accuracy": tried.quality["accuracy"],
        "loss": None if loss == float("inf") else loss,
        "is_kept": tried.is_kept,
        "is_confirmed": tried.is_confirmed,
        "is_on_front": is_on_front,
        "seconds": round(tried.seconds, 3),
    }
