"""What a step that factorizes, quantizes or casts gives."""

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from worker.engine.program import Program

KEPT = "kept"
"""What a layer became that stays as it was."""


def relative_change(found: Tensor, expected: Tensor) -> float | None:
    """Root of the mean square of a tensor's change, over that of the tensor.

    0 where the tensor is nothing but zeros, or empty; None where it holds what is no number.
    """
    if not bool(expected.isfinite().all()):
        return None
    scale = float(expected.double().square().mean().sqrt()) if expected.numel() else 0.0
    if not scale:
        return 0.0
    return float((found.double() - expected.double()).square().mean().sqrt()) / scale


@dataclass(frozen=True)
class LayerLine:
    """What became of one layer.

    Attributes:
        layer: Its weight, by name.
        became: In a few words, such as ``int8 per_channel``; `KEPT` where it stays as it was.
        bytes_before: Of the weight as it was stored.
        bytes_after: Of all that is stored in its place, scales among it.
        weight_error: Root of the mean square of the weight's change, over that of the weight.
        output_error: The same of the layer's output on calibration rows.
        reason: Why it was kept.
    """

    layer: str
    became: str
    bytes_before: int
    bytes_after: int
    weight_error: float | None = None
    output_error: float | None = None
    reason: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Changed:
    """A program after a step, and a line for each layer that the step is about.

    ``warnings`` are for users.
    """

    program: Program
    layers: tuple[LayerLine, ...] = ()
    warnings: tuple[str, ...] = ()
