"""The cast step of a recipe: compute in a floating-point type of fewer bits."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pydantic import Field

from secateur.quantization import KeepFloat
from secateur.schema import Input


class Precision(StrEnum):
    """A floating-point type of fewer bits."""

    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT8_E4M3 = "float8_e4m3fn"


@dataclass(frozen=True)
class PrecisionInfo:
    """One line of description, and whether every worker may be expected to have the type."""

    summary: str
    is_everywhere: bool


PRECISIONS: dict[Precision, PrecisionInfo] = {
    Precision.FLOAT16: PrecisionInfo(
        "Half the bytes: 11 bits of precision, up to 65504.", is_everywhere=True
    ),
    Precision.BFLOAT16: PrecisionInfo(
        "Half the bytes: 8 bits of precision, the range of float32.", is_everywhere=True
    ),
    Precision.FLOAT8_E4M3: PrecisionInfo(
        "A quarter of the bytes: weights of 4 bits of precision with a scale for each output "
        "channel, computed with in bfloat16. On GPUs of compute capability 8.9 and more.",
        is_everywhere=False,
    ),
}
"""Every type, as users read of it."""


class CastStep(Input):
    """Compute in a floating-point type of fewer bits, but where the range needs float32."""

    step: Literal["cast"]
    dtype: Precision = Field(
        description="`float16`, `bfloat16`, or `float8_e4m3fn` for weights that are computed with "
        "in bfloat16, on a device that has it.",
    )
    keep_float: KeepFloat = Field(default=())
    cast_inputs: bool = Field(
        default=False,
        description="Whether inputs and outputs are of that type too. By default they stay as they "
        "are, and are cast inside.",
    )
    sample_count: int = Field(
        default=64,
        ge=1,
        description="Rows of the training inputs to look at for what needs float32; without "
        "training data the model's example inputs are looked at.",
    )
    batch_size: int = Field(default=64, ge=1, le=65536)
