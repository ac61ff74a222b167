"""safetensors: a JSON header that says where each tensor lies, and the tensors.

The header is compared with the bytes that are there: no tensor overlaps another, no byte belongs to
none, and none has more elements than its bytes hold. Source: the format section of the README of
huggingface/safetensors.
"""

import math
import struct
from collections.abc import Iterator
from typing import Any

from formats import strict_json
from formats.errors import TruncatedFile, UnreadableFile, UnsafeFile, shown
from formats.tensors import TensorInfo

_LENGTH = struct.Struct("<Q")
_MOST_HEADER_BYTES = 100 * 10**6
"""What the format itself allows."""
_MOST_DIMENSIONS = 32
_METADATA = "__metadata__"

_DTYPES = {
    "BOOL": ("bool", 1),
    "U8": ("uint8", 1),
    "I8": ("int8", 1),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "I16": ("int16", 2),
    "U16": ("uint16", 2),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I32": ("int32", 4),
    "U32": ("uint32", 4),
    "F32": ("float32", 4),
    "I64": ("int64", 8),
    "U64": ("uint64", 8),
    "F64": ("float64", 8),
}


def read_header(name: str, chunks: Iterator[bytes], *, size_bytes: int) -> list[TensorInfo]:
    """Check a file's header, and say which tensors it has.

    Args:
        name: What the file is called in messages.
        chunks: The file from its first byte on; no more is taken than the header needs.
        size_bytes: Of the whole file.

    Raises:
        FormatError: The header is none, or does not describe the bytes that are there.
    """
    head = bytearray()
    length = _more(name, chunks, head, _LENGTH.size)
    (header_bytes,) = _LENGTH.unpack(length)
    if header_bytes > min(_MOST_HEADER_BYTES, size_bytes - _LENGTH.size):
        raise TruncatedFile(f"{name} announces a header of {header_bytes} bytes")
    text = _more(name, chunks, head, _LENGTH.size + header_bytes)[_LENGTH.size :]
    try:
        header = strict_json.loads(text, max_bytes=_MOST_HEADER_BYTES, max_depth=4)
    except strict_json.JsonError as error:
        raise UnreadableFile(f"the header of {name} is no JSON as it should be ({error})") from None
    if not isinstance(header, dict):
        raise UnreadableFile(f"the header of {name} is {shown(header)}, not an object")
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise UnreadableFile(f"the metadata of {name} is not an object of texts")
    placed = sorted(
        (_tensor(name, key, entry) for key, entry in header.items()), key=lambda found: found[:2]
    )
    end = 0
    for begin, stop, tensor in placed:
        if begin != end:
            raise UnsafeFile(name, f"tensor {shown(tensor.name)} overlaps another, or hides bytes")
        end = stop
    if end != size_bytes - _LENGTH.size - header_bytes:
        raise TruncatedFile(
            f"{name} has {size_bytes} bytes, and its header describes "
            f"{end + _LENGTH.size + header_bytes}"
        )
    return [tensor for _, _, tensor in placed]


def _more(name: str, chunks: Iterator[bytes], head: bytearray, count: int) -> bytes:
    while len(head) < count:
        chunk = next(chunks, b"")
        if not chunk:
            raise TruncatedFile(f"{name} ends within its header")
        head += chunk
    return bytes(head[:count])


def _tensor(file: str, name: str, entry: Any) -> tuple[int, int, TensorInfo]:
    """Where a tensor begins and ends, and what it is."""
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise UnreadableFile(f"tensor {shown(name)} of {file} is not described as it should be")
    if dtype not in _DTYPES:
        raise UnreadableFile(
            f"tensor {shown(name)} of {file} has the dtype {shown(dtype)}; "
            f"known are {', '.join(_DTYPES)}"
        )
    known, itemsize = _DTYPES[dtype]
    is_shape = len(shape) <= _MOST_DIMENSIONS and all(
        type(size) is int and 0 <= size < 2**48 for size in shape
    )
    if not is_shape or not 0 <= begin <= end or math.prod(shape) * itemsize != end - begin:
        raise UnsafeFile(
            file, f"tensor {shown(name)} has a shape that is not that of its {end - begin} bytes"
        )
    if not name or not name.isprintable():
        raise UnsafeFile(file, f"it has a tensor called {shown(name)}")
    return begin, end, TensorInfo(name, known, tuple(shape))
