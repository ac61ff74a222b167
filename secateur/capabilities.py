"""The tables of what a spec may name: a row for each step; criteria have theirs beside them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from secateur.amounts import SEARCHED_BUDGETS, Budget
from secateur.criteria import CRITERIA, Criterion, CriterionChoice
from secateur.problems import BudgetInfo, OptionInfo
from secateur.pruning import PruneStep
from secateur.quantization import QuantizeStep
from secateur.recovery import DistillStep
from secateur.spec import Step

__all__ = ["CRITERIA", "STEPS", "Needs", "budgets", "needs_of", "needs_of_step", "options_of"]


@dataclass(frozen=True)
class Needs:
    """One line of description, and what must come with the job."""

    summary: str
    data: bool = False
    labels: bool = False


STEPS: dict[str, Needs] = {
    "prune": Needs("Score channels, choose the least important, take them out."),
    "apply_plan": Needs("Take out exactly what a plan says, downloaded and perhaps edited."),
    "factorize": Needs("Take layers apart into products of smaller ones: SVD, Tucker-2, CP."),
    "quantize": Needs(
        "Store weights in few bits; compute with integers, on request. Calibration needs data."
    ),
    "cast": Needs("Compute in float16 or bfloat16, with float32 where the range needs it."),
    "recalibrate": Needs("Estimate batch-norm statistics again.", data=True),
    "reconstruct": Needs(
        "Solve for the weights that restore what layers give, by least squares.", data=True
    ),
    "finetune": Needs("Train on labeled data to regain accuracy.", data=True, labels=True),
    "distill": Needs(
        "Train the outputs to be the original's; labels are needed if `labels` > 0.", data=True
    ),
}


def needs_of_step(step: Step) -> Needs:
    """What a step of a recipe needs, as it is asked."""
    needs = STEPS[step.step]
    if isinstance(step, DistillStep) and step.labels > 0:
        return replace(needs, labels=True)
    if isinstance(step, QuantizeStep) and step.needs_data:
        return replace(needs, data=True)
    return needs


def options_of(criterion: Criterion) -> list[OptionInfo]:
    """What may be said of a criterion, from the fields of its contract."""
    fields = CriterionChoice.model_fields
    found = []
    for name in CRITERIA[criterion].options:
        kind: Any = fields[name].annotation
        is_choice = isinstance(kind, type) and issubclass(kind, StrEnum)
        found.append(
            OptionInfo(
                name=name,
                description=fields[name].description or "",
                choices=[each.value for each in kind] if is_choice else None,
                default=fields[name].default,
            )
        )
    return found


def budgets() -> list[BudgetInfo]:
    """Every budget, from the fields of its contract."""
    return [
        BudgetInfo(
            name=name,
            summary=field.description or "",
            needs_data=name in SEARCHED_BUDGETS,
            needs_labels=name in SEARCHED_BUDGETS,
        )
        for name, field in Budget.model_fields.items()
    ]


def needs_of(step: PruneStep) -> Iterator[tuple[str, str, Needs]]:
    """What the choices within a prune step need: where in it, what it is called, and what."""
    chosen = step.criterion
    needs = Needs(chosen.needs.summary, data=chosen.needs.data, labels=chosen.needs_labels)
    yield "/criterion", f"criterion '{chosen}'", needs
    if step.budget is not None and step.budget.is_searched:
        [budget] = step.budget.given
        yield "/budget", f"budget '{budget}'", Needs("", data=True, labels=True)
    for at, recovery in enumerate(step.recover):
        yield f"/recover/{at}", f"step '{recovery.step}'", needs_of_step(recovery)
