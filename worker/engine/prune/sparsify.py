"""Make weights zero that keep their place: single ones, N of M, or blocks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worker.engine.config import PruneConfig
from worker.engine.criteria import CRITERIA
from worker.engine.criteria.subject import Subject, ignore
from worker.engine.data import Rows
from worker.engine.errors import (
    CountsDifferError,
    CriterionError,
    NotFiniteError,
    NothingToPruneError,
)
from worker.engine.graph.counts import Counts, count
from worker.engine.graph.coupling import Coupling
from worker.engine.program import Program, attribute
from worker.engine.prune.multiplied import Weight, multiplied_weights
from worker.engine.prune.patterns import lines_of, n_of_m
from worker.engine.prune.plan import heading, keep_sha256
from worker.engine.prune.zeros import Zeros

_TINY = 1e-12


@dataclass(frozen=True)
class SparsePlan:
    """Which weights stay: bool, in the shape of each, by name.

    ``inputs`` is the dimension of each that is summed over.
    """

    config: PruneConfig
    seed: int
    baseline: Counts
    masks: dict[str, Tensor]
    inputs: dict[str, int]
    warnings: tuple[str, ...]

    def as_json(self, model_sha256: str) -> dict[str, Any]:
        """The plan in the shape that users download: counts, for masks would be as large as it."""
        return {
            **heading(self.config, model_sha256, self.seed),
            "baseline": self.baseline.as_json(),
            "predicted": self.baseline.as_json(),
            "channel_groups": [],
            "sparse": [
                {
                    "parameter": name,
                    "shape": list(mask.shape),
                    "zero_count": int((~mask).sum()),
                }
                for name, mask in self.masks.items()
            ],
            "keep_sha256": keep_sha256([]),
            "sizes": [],
            "frozen": [],
            "warnings": list(self.warnings),
        }


def decide_zeros(
    coupling: Coupling,
    config: PruneConfig,
    *,
    seed: int,
    rows: Rows | None = None,
    on_progress: Callable[[int, int], None] = ignore,
) -> SparsePlan:
    """Score every weight that is multiplied with activations, and choose which become zero.

    The arguments are those of :func:`worker.engine.prune.plan.decide`.

    Raises:
        NothingToPruneError: No weight may become zero, or none would.
        CriterionError: The criterion scores none of these weights.
        NotFiniteError: Scores are NaN or infinite.
        TargetUnreachableError: More zeros are asked for than the weights at their floors allow.
    """
    subject = Subject(coupling, rows, seed, on_progress)
    warnings: list[str] = []
    weights = multiplied_weights(coupling, config, warnings)
    scores = _scores(subject, config, weights, warnings)
    choice = Zeros(subject.program, weights, scores, config)
    masks = choice.masks()
    zeros = sum(int((~mask).sum()) for mask in masks.values())
    if not zeros and config.progress[1] == 1:  # A round before may be too short for the first.
        reasons = "".join(f"; {warning}" for warning in (*warnings, *choice.warnings)[:3])
        raise NothingToPruneError(
            "what was asked makes no weight zero: ask for more, or for smaller blocks, or use a "
            f"lower floor{reasons}",
            pointer="",
        )
    return SparsePlan(
        config,
        seed,
        count(coupling),
        masks,
        {name: weights[name].inputs for name in masks},
        (*warnings, *subject.warnings, *choice.warnings),
    )


def zeroed(program: Program, masks: dict[str, Tensor]) -> Program:
    """The same program with zeros where the masks are False, in weights of its own."""
    copy = program.copy()
    with torch.no_grad():
        for name, mask in masks.items():
            weight = attribute(copy.module, name)
            assert isinstance(weight, Tensor)
            # Not a product: what is not finite stays as it was, or goes.
            weight.masked_fill_(~mask.to(weight.device), 0.0)
    return copy


def check_zeros(original: Program, program: Program, plan: SparsePlan) -> None:
    """Hold a program with zeros against its original, weight by weight.

    Raises:
        CountsDifferError: A weight that stays has changed, one that goes is not zero, or a pattern
            N:M does not hold.
    """
    before = dict(original.module.named_parameters(remove_duplicate=False))
    # A tied weight has its mask under one of its names.
    masks = {id(before[name]): (mask, plan.inputs[name]) for name, mask in plan.masks.items()}
    for name, weight in program.module.named_parameters(remove_duplicate=False):
        mask, inputs = masks.get(id(before[name]), (None, 0))
        expected = before[name] if mask is None else before[name].where(mask.to(weight.device), 0.0)
        if not torch.equal(expected.nan_to_num(), weight.nan_to_num()):
            raise CountsDifferError(
                f"the zeros of {name} are not where the plan has them: not delivered; this is a "
                "defect of the engine, report it with the model"
            )
        if mask is not None and ":" in plan.config.pattern:
            most, of = n_of_m(plan.config.pattern)
            lines = lines_of(weight != 0, inputs, of)
            if lines is not None and int(lines.sum(-1).max()) > most:
                raise CountsDifferError(f"{name} does not hold the pattern {most}:{of}")


def _scores(
    subject: Subject,
    config: PruneConfig,
    weights: dict[str, Weight],
    warnings: list[str],
) -> dict[str, Tensor]:
    score = CRITERIA[config.criterion].weights
    assert score is not None, "the recipe was checked before"
    scores = score(subject, **config.options)
    missing = [name for name in weights if name not in scores]
    if len(missing) == len(weights):
        raise CriterionError(
            f"criterion '{config.criterion}' scores no weight of this model: use 'magnitude'",
            pointer="/criterion",
        )
    if missing:
        warnings.append(
            f"criterion '{config.criterion}' says nothing of {', '.join(missing[:5])}: they stay "
            "as they are"
        )
    found = {}
    for name, weight in weights.items():
        if name in missing:
            continue
        if not bool(scores[name].isfinite().all()):
            raise NotFiniteError(
                f"the importance of weights of {name} is NaN or infinite: it, or what it is "
                "multiplied with, holds such numbers; train or export the model again, or "
                "exclude it"
            )
        # What is zero already is worth nothing, whatever the criterion says of it.
        own = scores[name].cpu().masked_fill(weight.zero, 0.0)
        found[name] = _normalized(own, config, weight.macs)
    return found


def _normalized(scores: Tensor, config: PruneConfig, macs: float) -> Tensor:
    match config.normalization or CRITERIA[config.criterion].normalization:
        case "mean":
            return scores / (scores.mean() + _TINY)
        case "max":
            return scores / (scores.max() + _TINY)
        case "standardized":
            return (scores - scores.mean()) / (scores.std(correction=0) + _TINY)
        case "per_mac":
            return scores / macs
        case _:  # none; and of one parameter there is one element.
            return scores.clone()
