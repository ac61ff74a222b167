"""Least squares from sums over rows, damped by what held-out rows say."""

from dataclasses import dataclass

import torch
from torch import Tensor

DAMPINGS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""What is tried: relative to the mean square of a column."""

_UNTRIED = 1e-2
"""The damping where there are no rows to try any on."""


@dataclass(frozen=True)
class Fit:
    """Solutions of several problems at once.

    Attributes:
        weight: float64, ``(problems, n, outputs)``.
        offset: What is added, float64, ``(problems, outputs)``; zeros where nothing may be.
        damping: The one that was given or chosen.
        error: Squared error over all rows as a share of the targets' variance.
    """

    weight: Tensor
    offset: Tensor
    damping: float
    error: float


class Sums:
    """Sums over rows of all products of columns and targets, in float64.

    Their size is that of the problem, ``8 * problems * (n + 1 + outputs)^2`` bytes, however many
    rows are added.
    """

    def __init__(self, problems: int, inputs: int, outputs: int, device: torch.device) -> None:
        """Start with none.

        Args:
            problems: How many at once, such as the groups of a convolution.
            inputs: Columns of each.
            outputs: Targets of each.
            device: Where to compute.
        """
        size = inputs + 1 + outputs
        products = torch.zeros(problems, size, size, dtype=torch.float64, device=device)
        self._set(0, inputs, products)

    def _set(self, count: int, inputs: int, products: Tensor) -> None:
        self.count = count
        self.inputs = inputs
        self._products = products

    def add(self, columns: Tensor, targets: Tensor) -> None:
        """Take rows: ``(problems, rows, n)`` and ``(problems, rows, outputs)``."""
        ones = columns.new_ones((*columns.shape[:2], 1), dtype=torch.float64)
        both = torch.cat([columns.double(), ones, targets.double()], 2)
        self._products += both.mT @ both
        self.count += columns.shape[1]

    def __add__(self, other: "Sums") -> "Sums":
        total = object.__new__(Sums)
        total._set(self.count + other.count, self.inputs, self._products + other._products)
        return total

    @property
    def is_finite(self) -> bool:
        return bool(self._products.isfinite().all())

    def means(self) -> tuple[Tensor, Tensor]:
        """Of columns and of targets: ``(problems, n)``, ``(problems, outputs)``."""
        line = self._products[:, self.inputs] / self.count
        return line[:, : self.inputs], line[:, self.inputs + 1 :]

    def around(self, columns: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean products of the differences from a point.

        Args:
            columns: The point's columns, ``(problems, n)``.
            targets: The point's targets, ``(problems, outputs)``.

        Returns:
            Columns with columns ``(problems, n, n)``, columns with targets ``(problems, n,
            outputs)``, and the squares of targets ``(problems, outputs)``.
        """
        point = torch.cat([columns, columns.new_zeros(len(columns), 1), targets], 1)
        cross = self._products[:, self.inputs, :, None] / self.count * point[:, None]
        moved = self._products / self.count - cross - cross.mT + point[:, :, None] * point[:, None]
        inputs, rest = slice(0, self.inputs), slice(self.inputs + 1, None)
        squares = moved[:, rest, rest].diagonal(dim1=1, dim2=2)
        return moved[:, inputs, inputs], moved[:, inputs, rest], squares


def solve(
    fitted: Sums, held_out: Sums, start: Tensor, *, has_offset: bool, damping: float | None
) -> Fit:
    """The weights that give the targets best, no farther from a start than rows can tell.

    Minimizes the mean squared error plus the damping times the squared distance from the start,
    the damping being relative to the mean square of a column. So weights stay what they are in
    directions in which columns do not vary, and where there are fewer rows than columns.

    Args:
        fitted: Sums of the rows to fit on.
        held_out: Sums of other rows, by whose error the damping is chosen among `DAMPINGS`; in the
            end all rows count. May be empty.
        start: float64, ``(problems, n, outputs)``.
        has_offset: Whether a number may be added to each output.
        damping: >= 0, or None to choose.
    """
    if damping is None:
        damping = _UNTRIED
        if fitted.count and held_out.count:
            errors = {
                each: _error(held_out, *_solved(fitted, start, has_offset, each))
                for each in DAMPINGS
            }
            damping = min(errors, key=lambda each: errors[each])
    every = fitted + held_out
    weight, offset = _solved(every, start, has_offset, damping)
    variance = float(every.around(*every.means())[2].sum())
    error = _error(every, weight, offset)
    return Fit(weight, offset, damping, error / variance if variance else 0.0)


def _solved(sums: Sums, start: Tensor, has_offset: bool, damping: float) -> tuple[Tensor, Tensor]:
    columns, targets = sums.means()
    if not has_offset:
        columns, targets = torch.zeros_like(columns), torch.zeros_like(targets)
    squares, products, _ = sums.around(columns, targets)
    level = squares.diagonal(dim1=1, dim2=2).mean(1)
    level = torch.where(level > 0, level, 1.0)
    # Never nothing: columns that are copies of each other have no inverse.
    added = max(damping, 1e-9) * level
    damped = squares + torch.diag_embed(added[:, None].expand(-1, sums.inputs))
    factor = torch.linalg.cholesky(damped)
    weight = start + torch.cholesky_solve(products - squares @ start, factor)
    return weight, targets - (columns[:, None] @ weight)[:, 0]


def _error(sums: Sums, weight: Tensor, offset: Tensor) -> float:
    """Mean squared error of what the weights give, over the outputs in all."""
    columns = weight.new_zeros(weight.shape[:2])
    squares, products, energy = sums.around(columns, offset)
    error = (weight * (squares @ weight)).sum() - 2 * (weight * products).sum() + energy.sum()
    return float(error)
