"""Read ``model.sparse.safetensors``: weights whose zeros take a bit each.

The only module of the client that needs PyTorch, and only when it is called.
"""

import json
import os
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.errors import SparseFileInvalid

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "secateur-sparse-1"
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


def load_sparse(path: str | os.PathLike[str]) -> "dict[str, Tensor]":
    """The weights of a ``model.sparse.safetensors``, as ``load_state_dict`` takes them.

    The file is safetensors. A tensor that is mostly zeros is two in it: ``NAME:bits``, uint8, one
    bit for each element in order, lowest bit first, set where the element is not zero; and
    ``NAME:values``, these elements in order. Its shape is in the metadata, under ``NAME``.

    Returns:
        Dense tensors by name, on the CPU.

    Raises:
        SparseFileInvalid: The file is none of these, or damaged.
        ImportError: PyTorch is not installed.
    """
    import torch

    data = Path(path).read_bytes()
    header, start = _header(data)
    metadata = header.pop("__metadata__", {})
    if metadata.get("format") != FORMAT:
        raise SparseFileInvalid(
            f"{path}: the format is {metadata.get('format')!r} and not {FORMAT!r}; dense weights "
            "are in model.safetensors, which safetensors.torch.load_file reads"
        )
    stored = {name: _stored(torch, data, start, name, about) for name, about in header.items()}
    _check_apart(header)
    found = {name: tensor for name, tensor in stored.items() if ":" not in name}
    for name, written in metadata.items():
        if name != "format":
            found[name] = _dense(torch, name, _shape(name, written), stored)
    return found


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """The JSON at the start of a safetensors file, and where the tensors begin."""
    if len(data) < 8:
        raise SparseFileInvalid(f"{len(data)} bytes are no safetensors file")
    (size,) = struct.unpack("<Q", data[:8])
    if size > min(len(data) - 8, _MAX_HEADER_BYTES):
        raise SparseFileInvalid(
            f"the header is said to have {size} bytes, and the file has {len(data)} in all: it is "
            "cut off, or no safetensors file"
        )
    try:
        header = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError) as error:
        raise SparseFileInvalid(f"the header is no JSON: {error}") from error
    if not isinstance(header, dict) or not all(isinstance(v, dict) for v in header.values()):
        raise SparseFileInvalid("the header is no object of objects")
    return header, 8 + size


def _stored(torch: Any, data: bytes, start: int, name: str, about: Mapping[str, Any]) -> Any:
    """A tensor as it is in the file."""
    try:
        dtype = getattr(torch, _DTYPES[about["dtype"]])
        shape = _sizes(about["shape"])
        first, last = _sizes(about["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise SparseFileInvalid(f"{name}: the header does not describe a tensor") from error
    itemsize = torch.empty(0, dtype=dtype).element_size()
    is_inside = first <= last <= len(data) - start
    if not is_inside or last - first != prod(shape) * itemsize:
        raise SparseFileInvalid(
            f"{name}: {about['dtype']} of shape {shape} is not bytes {first} to {last} of "
            f"{len(data) - start}: the file is cut off or damaged"
        )
    if first == last:
        return torch.empty(shape, dtype=dtype)
    # bytearray: a tensor over bytes that nobody may write would be a warning.
    piece = bytearray(data[start + first : start + last])
    return torch.frombuffer(piece, dtype=dtype).reshape(shape)


def _shape(name: str, written: Any) -> list[int]:
    try:
        return _sizes(json.loads(written))
    except (TypeError, ValueError, RecursionError) as error:
        raise SparseFileInvalid(f"{name}: {str(written)[:80]!r} is no shape") from error


def _sizes(given: Any) -> list[int]:
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
            raise SparseFileInvalid(f"{name}: its bytes {first} to {last} are another tensor's too")
        end = max(end, last)


def _dense(torch: Any, name: str, shape: list[int], stored: Mapping[str, Any]) -> Any:
    try:
        bits, values = stored[f"{name}:bits"], stored[f"{name}:values"]
    except KeyError as error:
        raise SparseFileInvalid(f"{name}: there is no {error} in the file") from error
    count = prod(shape)
    if bits.dtype != torch.uint8 or bits.shape != (-(-count // 8),) or values.dim() != 1:
        raise SparseFileInvalid(f"{name}: shape {shape} needs {-(-count // 8)} bytes of bits")
    shifts = torch.arange(8, dtype=torch.uint8)
    every = ((bits[:, None] >> shifts) & 1).flatten().bool()
    present = every[:count]
    if int(every.sum()) != len(values) or bool(every[count:].any()):
        raise SparseFileInvalid(
            f"{name}: {int(present.sum())} bits are set for its {count} elements, and there are "
            f"{len(values)} values"
        )
    dense = torch.zeros(count, dtype=values.dtype)
    dense[present] = values
    return dense.reshape(shape)
