"""What was tried for a budget that is met by trying, and what came of it."""

from enum import StrEnum

from pydantic import Field

from secateur.plan import Counts
from secateur.schema import Output
from secateur.search import Minimize


class SearchOutcome(StrEnum):
    """How a search ended."""

    FOUND = "found"
    UNREACHABLE = "accuracy_budget_unreachable"


class SearchEnd(StrEnum):
    """Why a search tried no more."""

    CONVERGED = "converged"
    TRIALS = "trials"
    SECONDS = "seconds"


class Trial(Output):
    """One model that was tried. What is null was not measured."""

    number: int = Field(description="Counted from 1, in the order of trying.")
    reason: str = Field(
        description="What it was tried for: a share of the whole, or less of one channel group.",
        examples=["macs 0.5", "less of conv2.weight"],
    )
    counts: Counts
    latency_ratio: float | None = Field(
        description="Of the original's latency, measured in turn; null unless it is minimized."
    )
    accuracy: float | None = Field(description="Fraction of the validation rows that is right.")
    loss: float | None = Field(description="Mean loss on the validation rows.")
    is_kept: bool = Field(description="Whether it keeps the promise on the validation rows.")
    is_confirmed: bool | None = Field(
        description="Whether it keeps it on the test data; null where that was not asked of it."
    )
    is_on_front: bool = Field(
        description="Whether no other trial is as good and smaller, or as small and better."
    )
    seconds: float


class GroupSensitivity(Output):
    """What a channel group costs in quality, each count by itself, before any recovery."""

    id: str
    name: str
    channel_count: int
    removed: list[int] = Field(
        description="How many channels were silenced, least important first."
    )
    damage: list[float] = Field(
        description="What that did to the outputs on the validation rows: mean Kullback-Leibler "
        "divergence of class outputs, else mean squared difference relative to their variance."
    )


class SearchReport(Output):
    """Every trial of a search for the smallest model, and what came of it."""

    outcome: SearchOutcome
    ended_by: SearchEnd
    budget: str = Field(description="`accuracy` or `loss`.")
    allowed: float = Field(description="How much of it may be lost.")
    minimize: Minimize
    validation_row_count: int
    original_accuracy: float | None = Field(description="On the validation rows.")
    original_loss: float | None
    original_counts: Counts
    delivered_trial: int | None = Field(description="Null where the original is delivered.")
    trials: list[Trial]
    sensitivity: list[GroupSensitivity]


class GroupLatency(Output):
    """What the whole model's latency is with fewer channels in one channel group."""

    id: str
    name: str
    channel_count: int
    kept: list[int] = Field(description="Channels left in the group, all other groups being whole.")
    ratio: list[float] = Field(description="Latency as a fraction of the original's.")
