"""Data sets as ``.npz``: arrays called ``inputs`` (or ``inputs_0``, ...) and ``targets``.

An array file can be a pickle (dtype ``object``), and its header is a Python literal. Here the
header must be, character for character, what NumPy writes for a plain array of numbers; it is never
evaluated.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from formats.archive import Archive, Limits, Member, open_archive
from formats.errors import DatasetUnreadable, FormatError, UnsafeFile, shown
from formats.sniff import describe, describe_archive
from formats.tensors import TensorInfo

_LIMITS = Limits(member_count=64)
_MAGIC = b"\x93NUMPY"
_ZIP = b"PK\x03\x04"
# Where the length of the header stands, and how long it is, by version.
_LENGTH_BYTES = {(1, 0): 2, (2, 0): 4, (3, 0): 4}
_MAX_HEADER_BYTES = 4096
_HEADER = re.compile(
    r"\{'descr': '(?P<descr>[<>|=]?[a-zA-Z][0-9]{1,3})', "
    r"'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>(?:[0-9]{1,18}(?:, [0-9]{1,18})*,?)?)\),? ?\} *\n"
)
_DTYPES = {
    "|b1": ("bool", 1),
    "|u1": ("uint8", 1),
    "|i1": ("int8", 1),
    "<i2": ("int16", 2),
    "<i4": ("int32", 4),
    "<i8": ("int64", 8),
    "<f2": ("float16", 2),
    "<f4": ("float32", 4),
    "<f8": ("float64", 8),
}
_INPUT = re.compile(r"inputs(?:_(?P<index>0|[1-9][0-9]?))?")
_ALLOWED_NAMES = "'inputs' (or 'inputs_0', 'inputs_1', ... for several), and 'targets'"
_HEAD_BYTES = 512


@dataclass(frozen=True, slots=True)
class ArrayLocation:
    """Where the elements of an array are in its member.

    ``offset`` counts from the start of the unpacked member; ``fortran_order`` means columns first.
    """

    member: Member
    offset: int
    shape: tuple[int, ...]
    fortran_order: bool


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What a ``.npz`` file says about its arrays. ``row_count`` is their common first dimension."""

    arrays: Mapping[str, TensorInfo]
    row_count: int
    locations: Mapping[str, ArrayLocation]


def inspect_npz(path: Path) -> DatasetInfo:
    """Check a ``.npz`` file, and say what is in it. The elements themselves are not read.

    Raises:
        FormatError: It is no data set, or something in it is not as NumPy writes it.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head.startswith(_ZIP):
        raise DatasetUnreadable(
            f"a .npz file is a zip archive, and this looks like {describe(head)}"
        )
    with open_archive(path, limits=_LIMITS) as archive:
        return _inspect(archive)


def _inspect(archive: Archive) -> DatasetInfo:
    if any(not name.endswith(".npy") for name in archive.members):
        looks_like = describe_archive(set(archive.members))
        raise DatasetUnreadable(f"a .npz file holds arrays, and this looks like {looks_like}")
    arrays: dict[str, TensorInfo] = {}
    locations: dict[str, ArrayLocation] = {}
    for member in archive.members.values():
        name = member.name.removesuffix(".npy")
        arrays[name], locations[name] = _read_header(archive, member, name)
    _check_array_names(arrays)
    return DatasetInfo(arrays=arrays, row_count=_count_rows(arrays), locations=locations)


def _read_header(archive: Archive, member: Member, name: str) -> tuple[TensorInfo, ArrayLocation]:
    head = _first_bytes(archive, member)
    length_bytes = _LENGTH_BYTES.get((head[6], head[7])) if len(head) > len(_MAGIC) + 1 else None
    if not head.startswith(_MAGIC) or length_bytes is None:
        raise DatasetUnreadable(f"array {shown(name)} does not start as NumPy's .npy files do")
    start = len(_MAGIC) + 2 + length_bytes
    length = int.from_bytes(head[start - length_bytes : start], "little")
    offset = start + length
    if length > _MAX_HEADER_BYTES or offset > len(head):
        raise UnsafeFile(member.name, f"its header claims {length} bytes")
    text = head[start:offset].decode("latin-1")
    found = _HEADER.fullmatch(text)
    if found is None:
        raise _why_bad_header(name, text)
    descr = found["descr"]
    if descr not in _DTYPES:
        raise DatasetUnreadable(
            f"array {shown(name)} has the dtype {descr}; taken are little-endian floats of 16, 32 "
            "and 64 bits, signed integers, uint8 and bool"
        )
    dtype, itemsize = _DTYPES[descr]
    shape = tuple(int(size) for size in found["shape"].split(",") if size.strip())
    if offset + math.prod(shape) * itemsize != member.size_bytes:
        raise DatasetUnreadable(
            f"array {shown(name)} of shape {shape} and dtype {dtype} has "
            f"{member.size_bytes - offset} bytes, not {math.prod(shape) * itemsize}"
        )
    is_fortran = found["fortran"] == "True"
    return (
        TensorInfo(name=name, dtype=dtype, shape=shape),
        ArrayLocation(member=member, offset=offset, shape=shape, fortran_order=is_fortran),
    )


def _first_bytes(archive: Archive, member: Member) -> bytes:
    for piece in archive.chunks(member.name):
        # A piece is longer than any header that is taken.
        return piece
    return b""


def _why_bad_header(name: str, text: str) -> FormatError:
    if "'|O'" in text:
        return DatasetUnreadable(
            f"array {shown(name)} holds Python objects, which are pickles; use arrays of numbers "
            "(rows of one length)"
        )
    if "'descr': [" in text:
        return DatasetUnreadable(f"array {shown(name)} has fields; use one plain array for each")
    return UnsafeFile(f"{name}.npy", f"its header is not one that NumPy writes: {shown(text)}")


def _check_array_names(arrays: Mapping[str, TensorInfo]) -> None:
    unknown = [name for name in arrays if name != "targets" and not _INPUT.fullmatch(name)]
    if unknown:
        raise DatasetUnreadable(
            f"array {shown(unknown[0])} has another name; the arrays are called {_ALLOWED_NAMES}"
        )
    inputs = {name for name in arrays if name != "targets"}
    numbered = {f"inputs_{index}" for index in range(len(inputs))}
    if inputs != {"inputs"} and (not inputs or inputs != numbered):
        raise DatasetUnreadable(
            f"its input arrays are {', '.join(sorted(inputs)) or 'none'}; "
            f"the arrays are called {_ALLOWED_NAMES}, numbered from 0"
        )


def _count_rows(arrays: Mapping[str, TensorInfo]) -> int:
    rows: dict[str, int] = {}
    for name, array in arrays.items():
        first = array.shape[0] if array.shape else 0
        if not isinstance(first, int) or first < 1:
            raise DatasetUnreadable(f"array {name} of shape {array.shape} has no rows")
        rows[name] = first
    if len(set(rows.values())) != 1:
        listed = ", ".join(f"{name} {count}" for name, count in sorted(rows.items()))
        raise DatasetUnreadable(f"its arrays have different numbers of rows: {listed}")
    return next(iter(rows.values()))
