"""What each choice of ranks costs, and how much it keeps."""

from dataclasses import dataclass
from math import prod

import numpy as np

from worker.engine.factorize.layers import Layer


@dataclass(frozen=True)
class Candidates:
    """Choices of ranks for one layer.

    Attributes:
        ranks: int64, ``(n, ranks of one choice)``.
        parameters: What the weights of the parts have: int64, ``(n,)``.
        macs: Multiply-accumulates at the example inputs: int64, ``(n,)``.
        kept: Share of the energy that stays, in [0, 1]: float64, ``(n,)``.
    """

    ranks: np.ndarray
    parameters: np.ndarray
    macs: np.ndarray
    kept: np.ndarray


def of_svd(layer: Layer, ranks: np.ndarray, kept: np.ndarray) -> Candidates:
    """Of ranks ``(n, 1)``: the kernel gives ``rank`` channels, a 1x1 makes the outputs of them."""
    parameters = ranks[:, 0] * (layer.columns + layer.outputs)
    return Candidates(ranks, parameters, _given(layer) * parameters, kept)


def of_tucker(layer: Layer, ranks: np.ndarray, kept: np.ndarray) -> Candidates:
    """Of ranks ``(n, 2)``, of inputs and of outputs; one that is full has no part of its own."""
    inputs, outputs = ranks.T
    first = np.where(inputs < layer.inputs, inputs * layer.inputs, 0)
    core = inputs * outputs * prod(layer.kernel)
    last = np.where(outputs < layer.outputs, outputs * layer.outputs, 0)
    macs = _read(layer) * first + _given(layer) * (core + last)
    return Candidates(ranks, first + core + last, macs, kept)


def of_cp(layer: Layer, ranks: np.ndarray, kept: np.ndarray) -> Candidates:
    """Of ranks ``(n, 1)``: a 1x1, one axis of the kernel after another, a 1x1."""
    each = layer.inputs + layer.outputs
    macs = _read(layer) * layer.inputs + _given(layer) * layer.outputs
    sizes = list(layer.read)
    for own in axes_of(layer.kernel):
        for at in own:
            sizes[at] = layer.given[at]
        places = prod(layer.kernel[at] for at in own)
        each += places
        macs += layer.rows * prod(sizes) * places
    rank = ranks[:, 0]
    return Candidates(ranks, rank * each, rank * macs, kept)


def axes_of(kernel: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The axes that each depthwise part slides along, one after another.

    One part for each axis that is longer than 1; the first of them takes the others along, which
    may have a stride or padding too.
    """
    short = [at for at, size in enumerate(kernel) if size == 1]
    long = [at for at, size in enumerate(kernel) if size > 1]
    return [tuple(sorted([at, *short])) if at == long[0] else (at,) for at in long]


def _read(layer: Layer) -> int:
    """Positions that the layer reads, of all rows."""
    return layer.rows * prod(layer.read)


def _given(layer: Layer) -> int:
    return layer.rows * prod(layer.given)
