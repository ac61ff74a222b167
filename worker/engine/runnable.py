"""What runs on rows, whatever computes it."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Runnable(Protocol):
    """A program, or a file of one in the runtime that it is for."""

    @property
    def device(self) -> torch.device:
        """Where inputs have to be."""

    @property
    def row_limits(self) -> tuple[int, int | None]:
        """Fewest and most rows that one call takes; a most of None is no limit."""

    def rows_per_call(self, wanted: int) -> int:
        """The number of rows nearest to ``wanted`` that one call takes."""

    def run(self, leaves: Sequence[Any]) -> list[Tensor]:
        """Run on flat inputs; the outputs are flat too."""
