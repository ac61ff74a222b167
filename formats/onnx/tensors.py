"""Tensors of an ONNX model: each has exactly the bytes that its shape needs, wherever they are."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from formats.errors import ExternalDataMissing, UnsafeFile, UnsupportedProgram, shown
from formats.onnx import tables
from formats.protobuf import Message

# Names as torch and NumPy have them, and bits; by the numbers of TensorProto.DataType.
DTYPES = {
    1: ("float32", 32),
    2: ("uint8", 8),
    3: ("int8", 8),
    4: ("uint16", 16),
    5: ("int16", 16),
    6: ("int32", 32),
    7: ("int64", 64),
    9: ("bool", 8),
    10: ("float16", 16),
    11: ("float64", 64),
    12: ("uint32", 32),
    13: ("uint64", 64),
    14: ("complex64", 64),
    15: ("complex128", 128),
    16: ("bfloat16", 16),
    17: ("float8_e4m3fn", 8),
    18: ("float8_e4m3fnuz", 8),
    19: ("float8_e5m2", 8),
    20: ("float8_e5m2fnuz", 8),
    21: ("uint4", 4),
    22: ("int4", 4),
    23: ("float4_e2m1", 4),
    24: ("float8_e8m0fnu", 8),
    25: ("uint2", 2),
    26: ("int2", 2),
}
_STRING = 8
# How many bytes one number in these fields has; of those that are only counted, one.
_FIELDS = {
    "float_data": 4,
    "double_data": 8,
    "int32_data": 1,
    "int64_data": 1,
    "uint64_data": 1,
}
_FIELD_OF = {
    "float32": "float_data",
    "complex64": "float_data",
    "float64": "double_data",
    "complex128": "double_data",
    "int64": "int64_data",
    "uint32": "uint64_data",
    "uint64": "uint64_data",
}
_EXTERNAL = 1
_MAX_RANK = 64
_MAX_SIZE = 2**40
_NUMBER = re.compile(r"[0-9]{1,19}")
_KEYS = {"location", "offset", "length", "checksum"}
_DRIVE_OR_URL = re.compile(r"[A-Za-z]:|[A-Za-z][A-Za-z0-9+.-]*:/")


@dataclass(frozen=True, slots=True)
class External:
    """Where the elements of a tensor are, in a file of its own. ``length`` may be left out."""

    location: str
    offset: int
    length: int | None


@dataclass(frozen=True, slots=True)
class Tensor:
    """What was found out about one tensor. The size is that of elements in another file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    external: External | None
    size_bytes: int = 0

    @property
    def element_count(self) -> int:
        return math.prod(self.shape)


def byte_count(data_type: int, shape: tuple[int, ...]) -> int:
    """Say how many bytes the elements of a tensor need: several share one, where they are small."""
    return -(-math.prod(shape) * DTYPES[data_type][1] // 8)


def external_of(entries: Mapping[str, str], *, tensor: str) -> External:
    """Read where a tensor's elements are, from the words of the model.

    Raises:
        FormatError: It is no file beside the model.
    """
    location = entries.get("location", "")
    if reason := _why_bad_location(location):
        raise UnsafeFile(
            location, f"the elements of tensor {shown(tensor)} are there, and {reason}"
        )
    numbers = {}
    for key in ("offset", "length"):
        value = entries.get(key, "0")
        if not _NUMBER.fullmatch(value):
            raise UnsafeFile(location, f"tensor {shown(tensor)} has {shown(value)} as its {key}")
        numbers[key] = int(value)
    length = numbers["length"] if "length" in entries else None
    return External(location=location, offset=numbers["offset"], length=length)


def _why_bad_location(location: str) -> str:
    if not location or not location.isprintable() or "\\" in location:
        return "its path is empty, or has characters that are not taken"
    if location.startswith("/") or _DRIVE_OR_URL.match(location):
        return "its path is absolute, or a web address"
    if any(part in ("", ".", "..") for part in location.split("/")):
        return "its path leaves the model's folder, or names no file"
    return ""


def read_tensor(message: Message, *, name: str) -> Tensor:
    """Check that a tensor has the bytes that its shape needs.

    Args:
        message: The tensor.
        name: What it is called in messages.

    Raises:
        FormatError: It has not.
        ProtobufError: It breaks the rules.
    """
    shape = message.integers("dims")
    if len(shape) > _MAX_RANK or not all(0 <= size < _MAX_SIZE for size in shape):
        raise UnsafeFile(name, f"a tensor cannot have the shape {_brief(shape)}")
    if message.has("segment"):
        raise UnsupportedProgram(f"tensor {shown(name)} is given in segments")
    data_type = message.integer("data_type")
    dtype = "str" if data_type == _STRING else DTYPES.get(data_type, ("", 0))[0]
    if not dtype:
        raise UnsupportedProgram(
            f"tensor {shown(name)} has {data_type} as its data type, which is not known here"
        )
    _check_sources(message, name)
    location = message.integer("data_location")
    if location not in (0, _EXTERNAL) or message.has("external_data") != (location == _EXTERNAL):
        raise UnsafeFile(name, "it does not say clearly whether its elements are in another file")
    if location == _EXTERNAL:
        external = _read_external(message, name)
        if data_type == _STRING:
            raise UnsafeFile(name, "texts cannot be in another file")
        expected = byte_count(data_type, shape)
        if external.length not in (None, expected):
            raise UnsafeFile(name, _wrong_bytes(shape, dtype, external.length, expected))
        return Tensor(name=name, dtype=dtype, shape=shape, external=external, size_bytes=expected)
    _check_elements(message, name, data_type, shape, dtype)
    return Tensor(name=name, dtype=dtype, shape=shape, external=None)


def _check_sources(message: Message, name: str) -> None:
    """Check that the elements are in one place: readers differ in which they would take."""
    sources = ["raw_data", "string_data", "external_data", *_FIELDS]
    filled = [field for field in sources if message.has(field)]
    if len(filled) > 1:
        raise UnsafeFile(name, f"its elements are in two places: {' and '.join(filled)}")


def _check_elements(
    message: Message, name: str, data_type: int, shape: tuple[int, ...], dtype: str
) -> None:
    raw = message.span_of("raw_data")
    if raw is not None:
        expected = byte_count(data_type, shape) if data_type != _STRING else 0
        if raw.size_bytes != expected:
            raise UnsafeFile(name, _wrong_bytes(shape, dtype, raw.size_bytes, expected))
        return
    if data_type == _STRING:
        field, found = "string_data", sum(1 for _ in message.spans("string_data"))
        expected = math.prod(shape)
    else:
        field = _FIELD_OF.get(dtype, "int32_data")
        found = message.count(field)
        bits = DTYPES[data_type][1]
        # A complex number is two; of those with less than a byte, several share a number.
        if dtype.startswith("complex"):
            numbers = math.prod(shape) * 2
        elif bits < 8:
            numbers = -(-math.prod(shape) * bits // 8)
        else:
            numbers = math.prod(shape)
        expected = numbers * _FIELDS[field]
    others = [other for other in ("string_data", *_FIELDS) if message.has(other) and other != field]
    if found != expected or others:
        raise UnsafeFile(
            name,
            f"a tensor of shape {_brief(shape)} and dtype {dtype} needs {expected} in {field}, and "
            f"has {found}" + "".join(f", and something in {other}" for other in others),
        )


def _read_external(message: Message, name: str) -> External:
    entries: dict[str, str] = {}
    for entry in message.messages("external_data", tables.ENTRY):
        key = entry.text("key")
        if key in entries or key not in _KEYS:
            raise UnsafeFile(name, f"its external data has {shown(key)}, or has it twice")
        entries[key] = entry.text("value")
    return external_of(entries, tensor=name)


def check_external(tensors: list[Tensor], sizes: Mapping[str, int]) -> None:
    """Check that what is in other files is there, and that no two tensors share bytes.

    Args:
        tensors: Those whose elements are in other files.
        sizes: Bytes of each file that came along, by its path from the model's folder.

    Raises:
        FormatError: It is not.
    """
    ranges: dict[str, list[tuple[int, int, str]]] = {}
    for tensor in tensors:
        external = tensor.external
        assert external is not None
        if external.location not in sizes:
            raise ExternalDataMissing(external.location, tensor=tensor.name)
        end = external.offset + tensor.size_bytes
        if end > sizes[external.location]:
            raise UnsafeFile(
                external.location,
                f"tensor {shown(tensor.name)} reaches to byte {end} of it, and it has "
                f"{sizes[external.location]}",
            )
        if end > external.offset:
            ranges.setdefault(external.location, []).append((external.offset, end, tensor.name))
    for location, found in ranges.items():
        found.sort()
        for (_, end, first), (start, _, second) in pairwise(found):
            if start < end:
                raise UnsafeFile(
                    location, f"tensors {shown(first)} and {shown(second)} claim the same bytes"
                )


def _wrong_bytes(shape: tuple[int, ...], dtype: str, found: int | None, expected: int) -> str:
    return f"a tensor of shape {_brief(shape)} and dtype {dtype} has {found} bytes, not {expected}"


def _brief(shape: tuple[int, ...]) -> str:
    cut = ", ".join(str(size) for size in shape[:8])
    return f"({cut}, ...)" if len(shape) > 8 else f"({cut})"
