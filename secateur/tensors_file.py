"""Read a safetensors file into the caller's PyTorch, believing nothing that it says.

PyTorch is imported when a file is read: the client does without.
"""

import json
import os
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.errors import WeightsFileInvalid

if TYPE_CHECKING:
    from torch import Tensor

_MAX_HEADER_BYTES = 100_000_000
_MOST = 2**48
_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F8_E4M3": "float8_e4m3fn",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
}
"""The names that safetensors has for dtypes, and PyTorch's."""


def read_tensors(
    path: str | os.PathLike[str], expected: str, otherwise: str
) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """The tensors of a file by name, on the CPU, and its metadata.

    Args:
        path: The file.
        expected: The ``format`` that the metadata has to say.
        otherwise: What to do with a file of another.

    Raises:
        WeightsFileInvalid: The file is of another format, or damaged.
        ImportError: PyTorch is not installed.
    """
    import torch

    data = Path(path).read_bytes()
    header, start = _header(data)
    metadata = header.pop("__metadata__", {})
    if metadata.get("format") != expected:
        raise WeightsFileInvalid(
            f"{path}: the format is {metadata.get('format')!r} and not {expected!r}; {otherwise}"
        )
    stored = {name: _stored(torch, data, start, name, about) for name, about in header.items()}
    _check_apart(header)
    return stored, metadata


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """The JSON at the start of a safetensors file, and where the tensors begin."""
    if len(data) < 8:
        raise WeightsFileInvalid(f"{len(data)} bytes are no safetensors file")
    (size,) = struct.unpack("<Q", data[:8])
    if size > min(len(data) - 8, _MAX_HEADER_BYTES):
        raise WeightsFileInvalid(
            f"the header is said to have {size} bytes, and the file has {len(data)} in all: it is "
            "cut off, or no safetensors file"
        )
    try:
        header = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError) as error:
        raise WeightsFileInvalid(f"the header is no JSON: {error}") from error
    if not isinstance(header, dict) or not all(isinstance(v, dict) for v in header.values()):
        raise WeightsFileInvalid("the header is no object of objects")
    return header, 8 + size


def _stored(torch: Any, data: bytes, start: int, name: str, about: Mapping[str, Any]) -> Any:
    """A tensor as it is in the file."""
    try:
        dtype = getattr(torch, _DTYPES[about["dtype"]])
        shape = sizes(about["shape"])
        first, last = sizes(about["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsFileInvalid(f"{name}: the header does not describe a tensor") from error
    itemsize = torch.empty(0, dtype=dtype).element_size()
    is_inside = first <= last <= len(data) - start
    if not is_inside or last - first != prod(shape) * itemsize:
        raise WeightsFileInvalid(
            f"{name}: {about['dtype']} of shape {shape} is not bytes {first} to {last} of "
            f"{len(data) - start}: the file is cut off or damaged"
        )
    if first == last:
        return torch.empty(shape, dtype=dtype)
    # bytearray: a tensor over bytes that nobody may write would be a warning.
    piece = bytearray(data[start + first : start + last])
    return torch.frombuffer(piece, dtype=dtype).reshape(shape)


def sizes(given: Any) -> list[int]:
    """Whole numbers that PyTorch can count with.

    Raises:
        ValueError: They are no such numbers.
    """
    if not isinstance(given, list) or not all(type(size) is int and size >= 0 for size in given):
        raise ValueError("no list of whole numbers")
    if prod(max(size, 1) for size in given) >= _MOST:
        raise ValueError("more elements than any tensor has")
    return given


def _check_apart(header: Mapping[str, Mapping[str, Any]]) -> None:
    """Tensors lie one behind the other: read twice, a small file would fill the memory."""
    end = 0
    for first, last, name in sorted((*about["data_offsets"], n) for n, about in header.items()):
        if first < end:
            raise WeightsFileInvalid(
                f"{name}: its bytes {first} to {last} are another tensor's too"
            )
        end = max(end, last)
