"""What a file may be, checked before anything reads it.

A format is one module (or package) with an ``inspect_...`` function, and one row in the table
below. The checks need the standard library alone, so that the HTTP service makes them as well as
the engine.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

from formats.checkpoint import inspect_checkpoint
from formats.errors import FormatError, UnknownFormat
from formats.keras import inspect_h5, inspect_keras
from formats.npz import DatasetInfo, inspect_npz
from formats.onnx import inspect_onnx
from formats.pt2 import inspect_pt2
from formats.saved_model import inspect_saved_model
from formats.tensors import ModelInfo, TensorInfo

Kind = Literal["model", "dataset"]
Info_co = TypeVar("Info_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Format(Generic[Info_co]):
    """A kind of file that can be uploaded."""

    name: str
    kind: Kind
    media_type: str
    suffixes: tuple[str, ...]
    inspect: Callable[[Path], Info_co]


MODEL_FORMATS: dict[str, Format[ModelInfo]] = {
    row.name: row
    for row in (
        Format(
            name="pt2",
            kind="model",
            media_type="application/vnd.pytorch.pt2",
            suffixes=(".pt2",),
            inspect=inspect_pt2,
        ),
        Format(
            name="onnx",
            kind="model",
            media_type="application/onnx",
            suffixes=(".onnx", ".zip"),
            inspect=inspect_onnx,
        ),
        Format(
            name="keras",
            kind="model",
            media_type="application/vnd.keras",
            suffixes=(".keras",),
            inspect=inspect_keras,
        ),
        Format(
            name="h5",
            kind="model",
            media_type="application/x-hdf5",
            suffixes=(".h5", ".hdf5"),
            inspect=inspect_h5,
        ),
        Format(
            name="saved_model",
            kind="model",
            media_type="application/vnd.tensorflow.savedmodel",
            suffixes=(".zip", ".tar", ".tar.gz", ".tgz"),
            inspect=inspect_saved_model,
        ),
        Format(
            name="safetensors",
            kind="model",
            media_type="application/zip",
            suffixes=(".zip",),
            inspect=inspect_checkpoint,
        ),
    )
}
DATASET_FORMATS: dict[str, Format[DatasetInfo]] = {
    row.name: row
    for row in (
        Format(
            name="npz",
            kind="dataset",
            media_type="application/vnd.numpy.npz",
            suffixes=(".npz",),
            inspect=inspect_npz,
        ),
    )
}


def inspect_model(path: Path, format_name: str) -> ModelInfo:
    """Check a model's file, and say what is in it.

    Raises:
        FormatError: The format is unknown, or the file is not to be read.
    """
    if format_name not in MODEL_FORMATS:
        raise UnknownFormat(format_name, known=MODEL_FORMATS)
    return MODEL_FORMATS[format_name].inspect(path)


def inspect_dataset(path: Path, format_name: str) -> DatasetInfo:
    """Check a data set's file, and say what is in it.

    Raises:
        FormatError: The format is unknown, or the file is not to be read.
    """
    if format_name not in DATASET_FORMATS:
        raise UnknownFormat(format_name, known=DATASET_FORMATS)
    return DATASET_FORMATS[format_name].inspect(path)


__all__ = [
    "DATASET_FORMATS",
    "MODEL_FORMATS",
    "DatasetInfo",
    "Format",
    "FormatError",
    "ModelInfo",
    "TensorInfo",
    "inspect_dataset",
    "inspect_model",
]
