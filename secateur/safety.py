"""Promises: how much a job may lose at most, and what became of each."""

from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from secateur.schema import Input, Output

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class MaxDrop(Input):
    """How far each measure may fall from the original to the saved file. At least one of them."""

    accuracy: Fraction | None = Field(
        default=None, description="0.01 is one point of accuracy.", examples=[0.01]
    )
    top5_accuracy: Fraction | None = Field(
        default=None, description="The same for the five most likely classes; needs 6 or more."
    )
    agreement: Fraction | None = Field(
        default=None,
        description="Fraction of rows whose predicted class may change: 1 - agreement.",
    )
    loss: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="How far the loss may rise, in its own unit: no fraction of what it was.",
    )
    class_accuracy: Fraction | None = Field(
        default=None, description="No class may lose more of its own accuracy.", examples=[0.05]
    )
    noise_accuracy: Fraction | None = Field(
        default=None, description="Accuracy under noise; needs `evaluation.noise_std`."
    )
    fgsm_accuracy: Fraction | None = Field(
        default=None, description="Accuracy under attack; needs `evaluation.fgsm_epsilon`."
    )

    @property
    def given(self) -> dict[str, float]:
        """What is promised, by name."""
        return {name: value for name, value in self if value is not None}

    @model_validator(mode="after")
    def _at_least_one(self) -> Self:
        if not self.given:
            raise ValueError(f"promise at least one of {', '.join(type(self).model_fields)}")
        return self


class Safety(Input):
    """What has to be true of the compressed model, or it is not delivered."""

    max_drop: MaxDrop


MEASURED_BY = {"noise_accuracy": "noise_std", "fgsm_accuracy": "fgsm_epsilon"}
"""The promises about what is measured on request, and the field of `evaluation` that asks."""


def check_measured(safety: Safety, measured: frozenset[str]) -> None:
    """Check that what is promised is measured.

    Args:
        safety: The promises.
        measured: The fields of `evaluation` that are given.

    Raises:
        ValidationError: A promise is about a measure that nobody asked for; it points at each.
    """
    errors = [
        InitErrorDetails(
            type=PydanticCustomError(
                "promise_not_measured",
                "{promise} is measured where evaluation.{field} is given: give it as well, or "
                "leave the promise out",
                {"promise": promise, "field": field},
            ),
            loc=("safety", "max_drop", promise),
            input=safety.max_drop.given[promise],
        )
        for promise, field in MEASURED_BY.items()
        if promise in safety.max_drop.given and field not in measured
    ]
    if errors:
        raise ValidationError.from_exception_data("Safety", errors)


class PromiseReport(Output):
    """One promise, and what became of it."""

    name: str = Field(examples=["accuracy"])
    before: float = Field(description="Of the original; for `class_accuracy` of the worst class.")
    after: float = Field(description="Of the saved file, measured alike.")
    drop: float = Field(
        description="What was lost, negative for a gain: before - after, for the loss after - "
        "before."
    )
    allowed: float = Field(description="What may be lost.")
    is_kept: bool
    worst_class: int | None = Field(
        description="`class_accuracy`: the class that lost most; null for the others."
    )
    broken_classes: list[int] | None = Field(
        description="`class_accuracy`: the classes that lost more than allowed, the worst first; "
        "null for the others."
    )


class SafetyReport(Output):
    """Every promise of the spec, in the order of the schema."""

    promises: list[PromiseReport]

    @property
    def is_kept(self) -> bool:
        """Whether every promise is."""
        return all(promise.is_kept for promise in self.promises)
