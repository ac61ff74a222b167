"""The quantize step of a recipe: weights, and on request activations, of few bits."""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from secateur.schema import Input

CODEBOOK_SIZE = 16
"""Values of a codebook, where nothing is said."""

LEAST_ROWS = 16
"""To calibrate on: of fewer nothing can be said about those to come."""


class WeightFormat(StrEnum):
    """What weights become."""

    INT8 = "int8"
    INT4 = "int4"
    INT2 = "int2"
    TERNARY = "ternary"
    CODEBOOK = "codebook"


class QuantGranularity(StrEnum):
    """What shares a scale, or a codebook."""

    PER_TENSOR = "per_tensor"
    PER_CHANNEL = "per_channel"
    PER_GROUP = "per_group"


class Activations(StrEnum):
    """What becomes of what layers read."""

    FLOAT = "float"
    DYNAMIC = "dynamic"
    STATIC = "static"


class Calibration(StrEnum):
    """How the range of an activation is chosen from what was seen."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"


KeepFloat = Annotated[
    tuple[str, ...],
    Field(
        max_length=1000,
        description="Parameters that stay as they are, by name or shell-style pattern.",
        examples=[["classifier.*"]],
    ),
]


class QuantizeStep(Input):
    """Store weights in few bits, and on request compute with integers."""

    step: Literal["quantize"]
    weights: WeightFormat = Field(
        default=WeightFormat.INT8,
        description="`int8`, `int4`, `int2`: whole numbers times a scale. `ternary`: -1, 0 and 1 "
        "times a scale. `codebook`: one of `codebook_size` values each, found by k-means.",
    )
    codebook_size: int | None = Field(
        default=None,
        ge=2,
        le=256,
        description=f"`codebook`: how many values; {CODEBOOK_SIZE} where nothing is said.",
        examples=[16],
    )
    granularity: QuantGranularity | None = Field(
        default=None,
        description="What shares a scale or a codebook. Null is `per_channel` for int8 and "
        "ternary, `per_group` for int4 and int2, and `per_tensor` for codebooks.",
    )
    group_size: int | None = Field(
        default=None,
        ge=2,
        le=65536,
        description="`per_group`: inputs that share a scale, within one output; 64 where nothing "
        "is said.",
        examples=[64],
    )
    symmetric: bool | None = Field(
        default=None,
        description="Whether zero is in the middle. Null is true for int8 and ternary, false for "
        "int4 and int2. Codebooks have no middle.",
    )
    clipping: Literal["max", "mse"] = Field(
        default="mse",
        description="How far a scale reaches: to the largest weight, or as far as gives the least "
        "squared error.",
    )
    rounding: Literal["nearest", "compensated"] = Field(
        default="nearest",
        description="`compensated`: each rounding error is made up for by the weights not rounded "
        "yet, by second moments of what a layer reads (GPTQ). Needs data.",
    )
    activations: Activations = Field(
        default=Activations.FLOAT,
        description="`float`: weights alone are quantized. `static`: what layers read is int8 too, "
        "in ranges found by calibration; needs data. `dynamic`: in the range of each call, for "
        "linear layers.",
    )
    calibration: Calibration = Field(
        default=Calibration.MSE, description="`static`: how ranges are chosen."
    )
    percentile: float = Field(
        default=99.99,
        ge=50,
        le=100,
        allow_inf_nan=False,
        description="`calibration: percentile`: per cent of the values that are in range.",
    )
    sample_count: int = Field(
        default=512, ge=LEAST_ROWS, description="Rows of the training inputs to calibrate on."
    )
    batch_size: int = Field(default=64, ge=1, le=65536)
    bias_correction: bool = Field(
        default=False,
        description="Shift biases by what quantization moves the mean of a layer's output. Needs "
        "data.",
    )
    equalize: bool = Field(
        default=False,
        description="First scale channels between layers in a row so that their weights' ranges "
        "are alike (cross-layer equalization).",
    )
    smooth: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="First move outliers of activations behind a norm into the weights that read "
        "them, by this exponent (SmoothQuant; 0.5 is usual). Needs data.",
        examples=[0.5],
    )
    keep_float: KeepFloat = Field(default=())
    float_layers: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="How many layers stay as they are: those whose quantization alone changes the "
        "model's outputs most. Needs data.",
    )

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.codebook_size is not None and self.weights is not WeightFormat.CODEBOOK:
            raise ValueError(
                f"codebook_size is of weights 'codebook', and weights is '{self.weights}': leave "
                "one out"
            )
        is_grouped = self.granularity_used is QuantGranularity.PER_GROUP
        if self.group_size is not None and not is_grouped:
            raise ValueError(
                f"group_size is of granularity 'per_group', and this is '{self.granularity_used}': "
                "leave one out"
            )
        if self.activations is not Activations.FLOAT and self.weights is not WeightFormat.INT8:
            raise ValueError(
                f"activations '{self.activations}' go with weights 'int8', and weights is "
                f"'{self.weights}': no runtime multiplies the two"
            )
        if self.activations is not Activations.FLOAT and (is_grouped or self.symmetric is False):
            raise ValueError(
                f"activations '{self.activations}' need symmetric weights with one scale for each "
                "tensor or channel: leave group_size, granularity and symmetric out"
            )
        if (
            self.weights in (WeightFormat.TERNARY, WeightFormat.CODEBOOK)
            and self.symmetric is False
        ):
            raise ValueError(f"weights '{self.weights}' have no zero point: leave symmetric out")
        return self

    @property
    def granularity_used(self) -> QuantGranularity:
        """What is given, or else what is usual for the weights."""
        if self.granularity is not None:
            return self.granularity
        if self.weights in (WeightFormat.INT4, WeightFormat.INT2):
            return QuantGranularity.PER_GROUP
        if self.weights is WeightFormat.CODEBOOK:
            return QuantGranularity.PER_TENSOR
        return QuantGranularity.PER_CHANNEL

    @property
    def symmetric_used(self) -> bool:
        """What is given, or else what is usual for the weights."""
        is_usual = self.weights not in (WeightFormat.INT4, WeightFormat.INT2)
        return is_usual if self.symmetric is None else self.symmetric

    @property
    def needs_data(self) -> bool:
        """Whether it reads training inputs."""
        return (
            self.activations is Activations.STATIC
            or self.rounding == "compensated"
            or self.bias_correction
            or self.smooth is not None
            or self.float_layers > 0
        )
