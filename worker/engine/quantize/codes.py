"""Weights as codes: whole numbers times a scale, or places in a codebook."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from worker.engine.coded.chain import Coded, in_sets
from worker.engine.coded.grid import Grid
from worker.engine.config import QuantizeConfig
from worker.engine.packed import PackedWeight
from worker.engine.quantize.codebook import codebook_of

BITS = {"int8": 8, "int4": 4, "int2": 2, "ternary": 2}
"""Of one code, by the format of weights; a codebook has as many as its size needs."""

# How far a range is cut, in steps: int8 loses more at its ends than it gains in its middle.
_SHRINKS = {8: (0.7, 13), 4: (0.4, 25), 2: (0.2, 33)}
_TINY = 1e-30

_LOOKED_AT = 2048
"""Weights of a set by whose error a range is chosen: what is true of so many is true of all."""


@dataclass(frozen=True)
class Scheme:
    """How the weights of one layer become codes.

    Attributes:
        format: ``int8``, ``int4``, ``int2``, ``ternary`` or ``codebook``.
        bits: Of one code.
        granularity: ``per_tensor``, ``per_channel`` or ``per_group``.
        group_size: Inputs that share a scale where they are grouped.
        symmetric: Whether there is no zero point.
        clipping: ``max`` or ``mse``.
        entries: Of a codebook.
        keeps_zero: Whether zero stays zero: it always does but in a codebook.
    """

    format: str
    bits: int
    granularity: str
    group_size: int
    symmetric: bool
    clipping: str
    entries: int
    keeps_zero: bool = False

    @classmethod
    def of(cls, config: QuantizeConfig) -> "Scheme":
        entries = config.codebook_size
        bits = BITS.get(config.weights) or max(1, (entries - 1).bit_length())
        return cls(
            format=config.weights,
            bits=bits,
            granularity=config.granularity,
            group_size=config.group_size if config.granularity == "per_group" else 0,
            symmetric=config.symmetric,
            clipping=config.clipping,
            entries=entries,
        )

    def keeping_zero(self) -> "Scheme":
        return replace(self, keeps_zero=True)


def grid_of(weights: Tensor, scheme: Scheme) -> Grid:
    """The grid that loses least of weights.

    Args:
        weights: ``(sets, n)``, float. NaN in them counts for nothing: it fills ragged groups.
        scheme: How.

    Symmetric integers reach as far up as down, and leave the lowest code out. ``ternary`` is the
    least-squares optimum of Li, Zhang and Liu (2016), "Ternary weight networks", found exactly.
    """
    filled = weights.float().nan_to_num(0.0)
    if scheme.format == "codebook":
        levels = codebook_of(weights.float(), scheme.entries, keeps_zero=scheme.keeps_zero)
        return Grid(0, scheme.entries - 1, levels=levels)
    if scheme.format == "ternary":
        middle = torch.ones(len(filled), 1, device=filled.device)
        return Grid(0, 2, scale=_ternary_scale(filled), zero_point=middle)
    make = _symmetric if scheme.symmetric else _asymmetric
    if scheme.clipping == "max":
        return make(filled, scheme.bits, 1.0)
    return _least_error(filled, weights.isnan(), scheme.bits, make)


def _symmetric(weights: Tensor, bits: int, reach: float) -> Grid:
    top = 2 ** (bits - 1) - 1
    largest = weights.abs().amax(1, keepdim=True) * reach
    middle = torch.full_like(largest, top + 1)
    return Grid(1, 2**bits - 1, scale=_positive(largest / top), zero_point=middle)


def _asymmetric(weights: Tensor, bits: int, reach: float) -> Grid:
    most = 2**bits - 1
    low = weights.amin(1, keepdim=True).clamp(max=0) * reach
    high = weights.amax(1, keepdim=True).clamp(min=0) * reach
    scale = _positive((high - low) / most)
    return Grid(0, most, scale=scale, zero_point=(-low / scale).round().clamp(0, most))


def _positive(scale: Tensor) -> Tensor:
    """Weights that are all zero have any scale."""
    return torch.where(scale > _TINY, scale, 1.0)


def _least_error(
    weights: Tensor, is_filling: Tensor, bits: int, make: Callable[[Tensor, int, float], Grid]
) -> Grid:
    """The grid of least squared error among those that reach less far."""
    least, steps = _SHRINKS[bits]
    best = make(weights, bits, 1.0)
    every = -(-weights.shape[1] // _LOOKED_AT)
    some, is_none = weights[:, ::every], is_filling[:, ::every]
    best_error = _error(best, some, is_none)
    for reach in torch.linspace(1.0, least, steps).tolist()[1:]:
        grid = make(weights, bits, reach)
        error = _error(grid, some, is_none)
        is_better = error < best_error
        best_error = torch.where(is_better, error, best_error)
        best = best.where(is_better, grid)
    return best


def _error(grid: Grid, weights: Tensor, is_filling: Tensor) -> Tensor:
    difference = (grid.decode(grid.encode(weights)) - weights).masked_fill(is_filling, 0.0)
    return difference.square().sum(1, keepdim=True)


def _ternary_scale(weights: Tensor) -> Tensor:
    """Of all numbers of weights that are not zero, the one that explains most."""
    largest_first = weights.abs().double().sort(1, descending=True).values
    sums = largest_first.cumsum(1)
    counts = torch.arange(1, weights.shape[1] + 1, device=weights.device)
    best = (sums.square() / counts).argmax(1, keepdim=True)
    return _positive((sums.gather(1, best) / (best + 1)).float())


def about_weight(
    names: tuple[str, ...], weight: Tensor, scheme: Scheme, *, axis: int
) -> PackedWeight:
    """How a weight is stored by a scheme. ``axis`` is the dimension of its outputs.

    A group has no more inputs than the weight has: what would fill it up takes room.
    """
    return PackedWeight(
        names=names,
        shape=tuple(weight.shape),
        dtype=str(weight.dtype).removeprefix("torch."),
        format=scheme.format,
        bits=scheme.bits,
        axis=axis,
        granularity=scheme.granularity,
        symmetric=scheme.symmetric,
        group_size=min(scheme.group_size, weight.numel() // weight.shape[axis]),
    )


def coded(weight: Tensor, about: PackedWeight, scheme: Scheme) -> Coded:
    """Round a weight to the nearest codes of the grid that loses least."""
    sets = in_sets(weight, about)
    grid = grid_of(sets, scheme)
    return Coded(about, grid, grid.encode(sets.nan_to_num(0.0)))
