"""The operators of ONNX, by subject; importing this fills the table."""

from worker.engine.readers.onnx.operators import (
    arithmetic,
    attention,
    classical,
    control,
    convolution,
    elementwise,
    indexing,
    linear,
    movement,
    normalization,
    pooling,
    recurrent,
    reductions,
    resizing,
    shapes,
    spectra,
)
from worker.engine.readers.onnx.registry import ON_HOST, OPERATORS

__all__ = [
    "ON_HOST",
    "OPERATORS",
    "arithmetic",
    "attention",
    "classical",
    "control",
    "convolution",
    "elementwise",
    "indexing",
    "linear",
    "movement",
    "normalization",
    "pooling",
    "recurrent",
    "reductions",
    "resizing",
    "shapes",
    "spectra",
]
