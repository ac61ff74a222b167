"""The prune step of a recipe: what goes, how much of it, and what becomes of it."""

import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from secateur.amounts import Budget, Override
from secateur.criteria import (
    CRITERIA,
    Aggregation,
    ChosenCriterion,
    Criterion,
    CriterionChoice,
    Normalization,
)
from secateur.recovery import RecoveryStep
from secateur.schema import Input
from secateur.search import Search


class Scope(StrEnum):
    """Who competes: the channels of one channel group, or all channels of the model."""

    LOCAL = "local"
    GLOBAL = "global"


class Algorithm(StrEnum):
    """What becomes of what is chosen."""

    CUT = "cut"
    SHIFT = "shift"
    ZERO = "zero"


class Schedule(StrEnum):
    """How the rounds of iterative pruning share what is removed."""

    LINEAR = "linear"
    CUBIC = "cubic"
    EXPONENTIAL = "exponential"


class Granularity(StrEnum):
    """What is removed as one."""

    CHANNELS = "channels"
    HEADS = "heads"
    HEAD_DIM = "head_dim"
    LAYERS = "layers"


Exclude = Annotated[
    tuple[str, ...],
    Field(
        max_length=1000,
        description="Parameters whose shape may not change, by name or shell-style pattern.",
        examples=[["classifier.*"]],
    ),
]

_N_OF_M = re.compile(r"([1-9]\d{0,3}):([1-9]\d{0,3})")
_BLOCK = re.compile(r"([1-9]\d{0,3})x([1-9]\d{0,3})")
_OF_CUT = ("latency", "accuracy", "loss")
_ZERO_BUDGETS = ("sparsity", "parameters", "threshold")


class PruneStep(Input):
    """Score channels, choose the least important, and take them out of the program."""

    step: Literal["prune"]
    algorithm: Algorithm = Field(
        default=Algorithm.CUT,
        description="`cut`: channels leave the program. `shift`: the same, and what reads a "
        "removed channel reads the one that resembles it instead, scaled. `zero`: weights become "
        "zero and keep their place; a dense runtime gets no faster by that.",
    )
    criterion: ChosenCriterion = Field(
        default=CriterionChoice(name=Criterion.MAGNITUDE),
        description="How channels are scored: a name, or an object with options.",
        examples=["taylor", {"name": "magnitude", "norm": "l1"}],
    )
    granularity: Granularity = Field(
        default=Granularity.CHANNELS,
        description="`channels`: every channel group; attention loses whole heads. `heads`: "
        "attention heads alone. `head_dim`: the width of heads alone. `layers`: whole residual "
        "blocks `x + f(x)` are dropped.",
    )
    pattern: str = Field(
        default="elements",
        max_length=9,
        description="`algorithm: zero`: `elements` (any weight), `N:M` (of each M weights along "
        "the inputs at most N stay, such as `2:4`), or `AxB` (blocks of A outputs by B inputs).",
        examples=["2:4", "1x16"],
    )
    overrides: tuple[Override, ...] = Field(
        default=(),
        max_length=1000,
        description="Amounts of their own for some layers. The budget is met with the others.",
    )
    budget: Budget | None = Field(
        default=None,
        validate_default=True,
        description="How much to remove. May be left out where `overrides` or a pattern `N:M` "
        "say it all.",
    )
    scope: Scope = Field(
        default=Scope.GLOBAL,
        description="`global`: one ranking over the model. `local`: the same share of every "
        "channel group.",
    )
    aggregation: Aggregation = Field(
        default=Aggregation.SUM,
        description="How the scores of all slices that go with a channel become one.",
    )
    normalization: Normalization | None = Field(
        default=None,
        description="What the scores of a channel group are divided by before groups are ranked "
        "with each other; null is the criterion's own.",
    )
    floor: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Fraction of every dimension (of every weight, with `zero`) that stays "
        "whatever the ranking says, so that no layer dies. Null is 0.1 with scope `global` and 0 "
        "with `local`; one channel always stays.",
    )
    exclude: Exclude = ()
    channel_multiple: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Channel counts are kept at a multiple of this, for the hardware.",
        examples=[8],
    )
    rounds: int = Field(
        default=1,
        ge=1,
        le=100,
        description="Iterative pruning: scored anew in each round, until the budget is met.",
    )
    schedule: Schedule = Field(
        default=Schedule.LINEAR,
        description="How much of the whole is gone after round k of n: `linear` k/n, `cubic` "
        "1 - (1 - k/n)^3, `exponential` (1 - e^(-3k/n)) / (1 - e^(-3)).",
    )
    recover: tuple[RecoveryStep, ...] = Field(
        default=(), max_length=20, description="Steps between one round and the next."
    )
    search: Search | None = Field(
        default=None,
        description="With a budget of `accuracy` or `loss`: what is to be least, and how long to "
        "look for it.",
    )

    @field_validator("criterion")
    @classmethod
    def _zero_scores_weights(cls, criterion: CriterionChoice, info: ValidationInfo) -> Any:
        if _is(info, Algorithm.ZERO) and not criterion.needs.elements:
            able = ", ".join(name for name, needs in CRITERIA.items() if needs.elements)
            raise ValueError(
                f"algorithm 'zero' scores single weights, and '{criterion.name}' scores whole "
                f"channels; use one of {able}"
            )
        return criterion

    @field_validator("granularity")
    @classmethod
    def _only_cut_drops(cls, granularity: Granularity, info: ValidationInfo) -> Granularity:
        algorithm = info.data.get("algorithm", Algorithm.CUT)
        if algorithm is Algorithm.ZERO and granularity is not Granularity.CHANNELS:
            raise ValueError(
                f"granularity '{granularity}' is for channels that leave; algorithm 'zero' has "
                "patterns: leave it out, and say `pattern`"
            )
        if algorithm is Algorithm.SHIFT and granularity is Granularity.LAYERS:
            raise ValueError(
                "a residual block has no other block that stands in for it: granularity 'layers' "
                "goes with algorithm 'cut'"
            )
        return granularity

    @field_validator("pattern")
    @classmethod
    def _known_pattern(cls, pattern: str, info: ValidationInfo) -> str:
        if pattern == "elements":
            return pattern
        if not _is(info, Algorithm.ZERO):
            raise ValueError(f"pattern '{pattern}' goes with algorithm 'zero'")
        counts = _N_OF_M.fullmatch(pattern)
        if counts and int(counts[1]) < int(counts[2]):
            return pattern
        if not counts and _BLOCK.fullmatch(pattern):
            return pattern
        raise ValueError(
            "a pattern is 'elements', 'N:M' with N below M such as '2:4', or 'AxB' such as '1x16'"
        )

    @field_validator("overrides")
    @classmethod
    def _fit(cls, overrides: tuple[Override, ...], info: ValidationInfo) -> tuple[Override, ...]:
        algorithm = info.data.get("algorithm", Algorithm.CUT)
        if overrides and info.data.get("granularity") is Granularity.LAYERS:
            raise ValueError("granularity 'layers' has one group, of all blocks: leave it out")
        for at, override in enumerate(overrides):
            [kind] = override.given.keys() - {"match"}
            allowed = {
                Algorithm.CUT: ("channel_ratio", "keep", "threshold"),
                Algorithm.SHIFT: ("channel_ratio", "keep", "threshold", "pairs"),
                Algorithm.ZERO: ("sparsity", "threshold"),
            }[algorithm]
            if kind not in allowed:
                raise ValueError(
                    f"override {at} ({override.match}): '{kind}' does not go with algorithm "
                    f"'{algorithm}', which takes {', '.join(allowed)}"
                )
        if overrides and ":" in info.data.get("pattern", ""):
            raise ValueError("a pattern N:M says how much of every weight stays: leave it out")
        return overrides

    @field_validator("budget")
    @classmethod
    def _said_once(cls, budget: Budget | None, info: ValidationInfo) -> Budget | None:
        pattern = info.data.get("pattern", "elements")
        if budget is None:
            # Where one of these is wrong, that is said already, and may be all that is.
            is_unknown = not {"pattern", "overrides"} <= info.data.keys()
            if is_unknown or ":" in pattern or info.data.get("overrides"):
                return None
            raise ValueError(f"say how much: give one of {', '.join(Budget.model_fields)}")
        if ":" in pattern:
            raise ValueError(f"pattern '{pattern}' says how much stays: leave it out")
        [kind] = budget.given
        if _is(info, Algorithm.ZERO) and kind not in _ZERO_BUDGETS:
            raise ValueError(
                f"'{kind}' counts channels, and algorithm 'zero' removes none; use one of "
                f"{', '.join(_ZERO_BUDGETS)}"
            )
        if not _is(info, Algorithm.ZERO) and kind == "sparsity":
            raise ValueError("'sparsity' is of zeros, and goes with algorithm 'zero'")
        if kind in _OF_CUT and info.data.get("algorithm") is Algorithm.SHIFT:
            raise ValueError(f"'{kind}' is met by trying cuts: use algorithm 'cut'")
        if kind in _OF_CUT and info.data.get("granularity") is Granularity.LAYERS:
            raise ValueError(
                f"'{kind}' is met by trying numbers of channels: use another granularity"
            )
        return budget

    @field_validator("search")
    @classmethod
    def _of_searched(cls, search: Search | None, info: ValidationInfo) -> Search | None:
        budget = info.data.get("budget")
        if search is not None and "budget" in info.data and not _is_searched(budget):
            raise ValueError(
                "there is nothing to search for: it goes with a budget of accuracy or loss"
            )
        return search

    @field_validator("channel_multiple")
    @classmethod
    def _of_channels(cls, multiple: int, info: ValidationInfo) -> int:
        if multiple > 1 and info.data.get("granularity") is Granularity.LAYERS:
            raise ValueError("it is for channels; granularity 'layers' drops whole blocks")
        if multiple > 1 and _is(info, Algorithm.ZERO):
            raise ValueError("it is for channels that leave; algorithm 'zero' removes none")
        return multiple

    @field_validator("rounds")
    @classmethod
    def _pairs_are_of_one(cls, rounds: int, info: ValidationInfo) -> int:
        budget = info.data.get("budget")
        if rounds > 1 and budget is not None and set(budget.given) & set(_OF_CUT):
            raise ValueError(
                f"'{next(iter(budget.given))}' is met by trying, in one round: leave `rounds` out"
            )
        if rounds > 1 and any(override.pairs for override in info.data.get("overrides", ())):
            raise ValueError("pairs name channels of the first round alone: leave `rounds` out")
        return rounds

    @field_validator("recover")
    @classmethod
    def _between(cls, steps: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
        if steps and info.data.get("rounds") == 1:
            raise ValueError(
                "there is nothing between the rounds of one: say `rounds`, or put the steps after "
                "this one"
            )
        return steps


def _is_searched(budget: Budget | None) -> bool:
    return budget is not None and budget.is_searched


def _is(info: ValidationInfo, algorithm: Algorithm) -> bool:
    return info.data.get("algorithm") is algorithm
