"""Scales and zero points of values that are rounded, from what they are on training rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from worker.engine.config import QuantizeConfig
from worker.engine.data import Rows
from worker.engine.errors import NotFiniteError
from worker.engine.program import Program
from worker.engine.quantize import histogram
from worker.engine.quantize.histogram import Ends, Histogram
from worker.engine.quantize.points import Point
from worker.engine.quantize.sample import look, sampled
from worker.engine.recovery.setting import Setting

LOWEST, HIGHEST = -128, 127
"""Of the codes."""

# A range that float32 cannot divide by 255 and get a normal number has nothing to be told apart.
_NARROWEST = 1e-30


@dataclass(frozen=True)
class Range:
    """What the codes of a value stand for: ``(code - zero_point) * scale``.

    Attributes:
        scale: Of one step, > 0; a number of float32.
        zero_point: The code of zero, in [-128, 127].
    """

    scale: float
    zero_point: int

    @classmethod
    def of(cls, low: float, high: float) -> "Range":
        """The range that holds two numbers, and zero exactly, in 256 codes.

        What is never negative has its zero at the lowest code: a relu before it has nothing to do.

        Args:
            low: The least number that is not clipped.
            high: The largest.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        if high - low < _NARROWEST:
            return cls(1.0, 0 if low < 0 else LOWEST)
        scale = float(np.float32((high - low) / (HIGHEST - LOWEST)))
        zero_point = round(LOWEST - low / scale)
        return cls(scale, min(max(zero_point, LOWEST), HIGHEST))


def calibrated(
    program: Program,
    points: Sequence[Point],
    config: QuantizeConfig,
    rows: Rows,
    setting: Setting,
) -> list[Range]:
    """Choose a range for each value that is rounded, from what it is on some training rows.

    The program runs twice on the rows: once for the least and the largest numbers, once to count
    them in 2,048 bins between. No more is held than one batch and these.

    Args:
        program: Not changed; as it is before any value is rounded.
        points: Values of it.
        config: ``calibration`` is ``minmax``, ``percentile``, ``entropy`` or ``mse``.
        rows: Inputs; targets are not read.
        setting: Its seed chooses ``config.sample_count`` rows.

    Returns:
        One for each point, in their order.

    Raises:
        DataMismatchError: There are fewer than 16 rows, or the program does not run on them.
        NotFiniteError: A value is NaN or infinite.
    """
    order = sampled(config, rows, setting)
    if not points:
        return []
    ends = {point.node: _Ends(point.name) for point in points}
    nodes = list(ends)
    batches = partial(rows.batches, program, config.batch_size, order=order)
    look(program, nodes, batches(), lambda node, value: ends[node].add(value))
    if config.calibration == "minmax":
        return [Range.of(*ends[point.node].found) for point in points]
    counted = {node: Histogram(*each.found) for node, each in ends.items()}
    look(program, nodes, batches(), lambda node, value: counted[node].add(value))
    return [Range.of(*_clipped(counted[point.node], config)) for point in points]


def _clipped(counted: Histogram, config: QuantizeConfig) -> Ends:
    match config.calibration:
        case "percentile":
            return histogram.percentile(counted, config.percentile)
        case "entropy":
            return histogram.entropy(counted)
        case "mse":
            return histogram.least_squares(counted)
        case _:
            raise ValueError(f"no calibration is called {config.calibration!r}")


@dataclass
class _Ends:
    """The least and the largest number seen, zero among them."""

    name: str
    low: float = 0.0
    high: float = 0.0

    @property
    def found(self) -> Ends:
        return self.low, self.high

    def add(self, value: Tensor) -> None:
        if not value.numel():
            return
        low, high = (float(end) for end in torch.aminmax(value))
        if not np.isfinite([low, high]).all():
            raise NotFiniteError(
                f"on the training data the value {self.name} is NaN or infinite: check the range "
                "of the data, and the weights for NaN"
            )
        self.low, self.high = min(self.low, low), max(self.high, high)
