"""ONNX models, checked before a library sees them."""

from formats.onnx.model import CheckedOnnx, OnnxInfo, inspect_onnx, open_onnx
from formats.onnx.tensors import External, byte_count, external_of

__all__ = [
    "CheckedOnnx",
    "External",
    "OnnxInfo",
    "byte_count",
    "external_of",
    "inspect_onnx",
    "open_onnx",
]
