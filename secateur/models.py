"""What was uploaded: models and data sets."""

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
    parameter_count: int
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
