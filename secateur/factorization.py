"""The factorize step of a recipe: layers become products of smaller ones."""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from secateur.pruning import Exclude
from secateur.schema import Input

Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class Decomposition(StrEnum):
    """Into what a layer is taken apart."""

    AUTO = "auto"
    SVD = "svd"
    TUCKER = "tucker"
    CP = "cp"


class RankChoice(Input):
    """How ranks are chosen. Exactly one of the fields."""

    energy: Share | None = Field(
        default=None,
        description="Share of each layer's energy that stays: of squared singular values.",
        examples=[0.9],
    )
    macs: Share | None = Field(
        default=None,
        description="Fraction of the original multiply-accumulates that may remain.",
        examples=[0.5],
    )
    parameters: Share | None = Field(
        default=None,
        description="Fraction of the original's parameters that may remain.",
        examples=[0.5],
    )
    vbmf: Literal[True] | None = Field(
        default=None,
        description="What is no noise: empirical variational Bayesian matrix factorization.",
    )

    @property
    def given(self) -> dict[str, Any]:
        """The fields that say something."""
        return {name: value for name, value in self if value is not None}

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self.given) != 1:
            said = ", ".join(self.given) or "none"
            raise ValueError(
                f"give exactly one of {', '.join(type(self).model_fields)}; given: {said}"
            )
        return self


class FactorizeStep(Input):
    """Take layers apart into products of smaller ones."""

    step: Literal["factorize"]
    method: Decomposition = Field(
        default=Decomposition.AUTO,
        description="`svd`: linear layers, and convolutions as matrices. `tucker`: a convolution "
        "becomes 1x1, kernel, 1x1 (Tucker-2). `cp`: 1x1, one axis of the kernel after another, "
        "each channel by itself, 1x1. `auto`: `svd` for linear layers and 1x1 convolutions, "
        "`tucker` for others.",
    )
    rank: RankChoice = Field(description="How ranks are chosen.")
    exclude: Exclude = Field(default=())
    sample_count: int = Field(
        default=512,
        ge=1,
        description="Rows of the training inputs whose second moments weigh what is lost; without "
        "training data all inputs weigh the same.",
    )
    batch_size: int = Field(default=64, ge=1, le=65536)
