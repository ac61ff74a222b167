"""The tables of what a spec may name: a row for each criterion and each step."""

from dataclasses import dataclass

from secateur.spec import Criterion


@dataclass(frozen=True)
class Needs:
    """One line of description, and what must come with the job."""

    summary: str
    data: bool = False
    labels: bool = False


CRITERIA: dict[Criterion, Needs] = {
    Criterion.MAGNITUDE: Needs("Sum of squared weights over every slice of a channel."),
    Criterion.RANDOM: Needs("A seeded random order: the yardstick for every other criterion."),
}

STEPS: dict[str, Needs] = {
    "prune": Needs("Score channels, choose the least important, take them out."),
    "apply_plan": Needs("Take out exactly what a plan says, downloaded and perhaps edited."),
    "recalibrate": Needs("Estimate batch-norm statistics again.", data=True),
    "finetune": Needs("Train on labeled data to regain accuracy.", data=True, labels=True),
}
