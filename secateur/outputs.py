"""The formats in which a job can give its model."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from secateur.models import ModelFormat


class OutputFormat(StrEnum):
    PT2 = "pt2"
    SAFETENSORS = "safetensors"
    ONNX = "onnx"
    KERAS = "keras"
    TRANSFORMERS = "transformers"
    AOTINDUCTOR = "aotinductor"


ALWAYS = frozenset({OutputFormat.PT2, OutputFormat.SAFETENSORS})
"""What every job gives."""


@dataclass(frozen=True)
class OutputInfo:
    """One line of description, the file, and which uploads can be given back so; None is any."""

    summary: str
    file: str
    uploads: frozenset[ModelFormat] | None = None


OUTPUT_FORMATS: Mapping[OutputFormat, OutputInfo] = {
    OutputFormat.PT2: OutputInfo(
        "The program, as torch.export.load reads it. Every job gives it.", "model.pt2"
    ),
    OutputFormat.SAFETENSORS: OutputInfo(
        "The weights under their original names. Every job gives them.", "model.safetensors"
    ),
    OutputFormat.ONNX: OutputInfo(
        "ONNX, with the dynamic dimensions of the upload; checked with onnxruntime.", "model.onnx"
    ),
    OutputFormat.KERAS: OutputInfo(
        "A .keras file whose layers have the new sizes; loads in plain Keras on any backend.",
        "model.keras",
        frozenset({ModelFormat.KERAS, ModelFormat.H5}),
    ),
    OutputFormat.TRANSFORMERS: OutputInfo(
        "A zipped folder that from_pretrained loads, of uploads with transformers' config.json.",
        "model.transformers.zip",
        frozenset({ModelFormat.SAFETENSORS}),
    ),
    OutputFormat.AOTINDUCTOR: OutputInfo(
        "A package compiled by AOTInductor for the worker's processor; needs a C++ compiler there.",
        "model.aotinductor.pt2",
    ),
}
"""Every format, and what there is to say of it."""
