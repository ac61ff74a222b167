"""What was uploaded: models and data sets."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pydantic import Field

from secateur.schema import Output


class ModelFormat(StrEnum):
    PT2 = "pt2"
    ONNX = "onnx"
    KERAS = "keras"
    H5 = "h5"
    SAVED_MODEL = "saved_model"
    SAFETENSORS = "safetensors"


@dataclass(frozen=True)
class ModelFormatInfo:
    """One line of description; and of a format that not every worker reads, what else to do.

    Attributes:
        summary: What the file is.
        extra: What a worker has to have been installed with; None for any.
        otherwise: What a user can do where no worker has it.
    """

    summary: str
    extra: str | None = None
    otherwise: str = ""


MODEL_FORMATS: Mapping[ModelFormat, ModelFormatInfo] = {
    ModelFormat.PT2: ModelFormatInfo("A program of torch.export.save, by torch 2.9 or later."),
    ModelFormat.ONNX: ModelFormatInfo(
        "ONNX, opset 7 or later; with external data as a zip of the folder."
    ),
    ModelFormat.KERAS: ModelFormatInfo("A .keras file of Keras 3, from any backend."),
    ModelFormat.H5: ModelFormatInfo("A whole model of Keras 2 or 3 in one .h5 file."),
    ModelFormat.SAVED_MODEL: ModelFormatInfo(
        "A TensorFlow SavedModel, its folder as a zip or tar.",
        "tensorflow",
        "convert it where TensorFlow is installed, with `python -m tf2onnx.convert --saved-model "
        "FOLDER --output model.onnx --opset 18`, and upload model.onnx with format=onnx",
    ),
    ModelFormat.SAFETENSORS: ModelFormatInfo(
        "Weights with the name of their architecture: a zip of .safetensors files (or one pickled "
        "state dict) and config.json of transformers, or architecture.json.",
        "architectures",
        "export the model with torch.export.save(torch.export.export(model.eval(), "
        "example_inputs), 'model.pt2'), and upload it with format=pt2",
    ),
}
"""Every format of models, and what there is to say of it."""


class DatasetFormat(StrEnum):
    NPZ = "npz"


class TensorInfo(Output):
    """A named tensor. A dynamic dimension is its symbol's name instead of a number."""

    name: str
    dtype: str = Field(examples=["float32"])
    shape: list[int | str] = Field(examples=[["batch", 1, 14, 14]])


class Model(Output):
    """An uploaded model: immutable, checked before anything reads it."""

    id: str = Field(examples=["mdl_0f8n2q4k6m8p0r2t4v6x8z0b"])
    format: ModelFormat
    filename: str | None
    size_bytes: int
    sha256: str
    inputs: list[TensorInfo] | None = Field(
        description="Null where the file does not tell before the model is built by a job."
    )
    outputs: list[TensorInfo] | None = Field(description="The same.")
    parameter_count: int | None = Field(
        description="Elements of parameters, or of all floating-point tensors where the file does "
        "not tell them apart; null where it does not tell them at all, as a pickle does not."
    )
    created_at: datetime


class ModelPage(Output):
    """A page of models, newest first."""

    data: list[Model]
    next_cursor: str | None


class Dataset(Output):
    """An uploaded data set: rows of inputs, and targets where there are any."""

    id: str = Field(examples=["dst_0f8n2q4k6m8p0r2t4v6x8z0b"])
    format: DatasetFormat
    filename: str | None
    size_bytes: int
    sha256: str
    row_count: int
    arrays: list[TensorInfo] = Field(description="`inputs`, and `targets` where there are labels.")
    created_at: datetime


class DatasetPage(Output):
    """A page of data sets, newest first."""

    data: list[Dataset]
    next_cursor: str | None
