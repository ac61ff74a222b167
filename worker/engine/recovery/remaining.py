"""Which indices of its parameters a program has left of those it began with."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from worker.engine.graph.coupling import Coupling, kept_along


@dataclass(frozen=True)
class Remaining:
    """What is left, counted in the program that it all began with.

    Attributes:
        indices: For each parameter, and each of its dimensions that lost something, the indices
            that are left: int64, sorted.
        has_lost_blocks: Whether whole residual blocks are gone.
    """

    indices: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    has_lost_blocks: bool = False

    def along(self, parameter: str, dim: int, size: int) -> Tensor:
        """Those of a dimension that has a size now: ``(size,)``."""
        return self.indices.get(parameter, {}).get(dim, torch.arange(size))

    def after(self, coupling: Coupling, keep: Tensor) -> "Remaining":
        """What is left once more is cut.

        Args:
            coupling: Of the program as it is left by now.
            keep: What a cut keeps of it: bool, ``(channel_count + 1,)``.
        """
        if coupling.blocks:
            return Remaining(self.indices, has_lost_blocks=True)
        found = {name: dict(dims) for name, dims in self.indices.items()}
        for name, (shape, lines) in coupling.parameter_lines.items():
            for dim in {at for at, _ in lines}:
                kept = kept_along(lines, dim, shape[dim], keep)
                if not bool(kept.all()):
                    before = self.along(name, dim, shape[dim])
                    found.setdefault(name, {})[dim] = before[kept]
        return Remaining(found, self.has_lost_blocks)

    def as_json(self) -> dict[str, Any]:
        indices = {
            name: {str(dim): kept.tolist() for dim, kept in dims.items()}
            for name, dims in self.indices.items()
        }
        return {"indices": indices, "has_lost_blocks": self.has_lost_blocks}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Remaining":
        """What :meth:`as_json` gave, after a way through a file."""
        indices = {
            name: {int(dim): torch.tensor(kept) for dim, kept in dims.items()}
            for name, dims in document["indices"].items()
        }
        return cls(indices, document["has_lost_blocks"])
