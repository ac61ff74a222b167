"""What weights can become: whole numbers times a scale, or the entries of a codebook."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """What weights can become: one row for each set of weights that share it.

    Of integers, ``levels`` is None and a code ``c`` is ``(c - zero_point) * scale``, both ``(sets,
    1)`` and float32; of a codebook, ``levels`` is ``(sets, entries)``, sorted.
    """

    least: int
    most: int
    scale: Tensor | None = None
    zero_point: Tensor | None = None
    levels: Tensor | None = None

    def where(self, is_other: Tensor, other: "Grid") -> "Grid":
        """Another grid of integers for some sets: bool, ``(sets, 1)``."""
        assert self.scale is not None
        assert self.zero_point is not None
        assert other.scale is not None
        assert other.zero_point is not None
        return replace(
            self,
            scale=torch.where(is_other, other.scale, self.scale),
            zero_point=torch.where(is_other, other.zero_point, self.zero_point),
        )

    def encode(self, weights: Tensor) -> Tensor:
        """The nearest codes: ``(sets, n)`` of any float to uint8, from ``least`` to ``most``."""
        if self.levels is not None:
            middles = ((self.levels[:, 1:] + self.levels[:, :-1]) / 2).contiguous()
            found = torch.searchsorted(middles, weights.to(middles.dtype).contiguous())
            return found.to(torch.uint8)
        assert self.scale is not None
        assert self.zero_point is not None
        codes = (weights / self.scale).round() + self.zero_point
        return codes.clamp(self.least, self.most).to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """What codes stand for: float32."""
        if self.levels is not None:
            return self.levels.gather(1, codes.long())
        assert self.scale is not None
        assert self.zero_point is not None
        return (codes.float() - self.zero_point) * self.scale
