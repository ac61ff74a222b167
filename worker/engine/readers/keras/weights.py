"""HDF5 that may have been made by an enemy: plain arrays in plain groups, copied into a new file.

An HDF5 file can hold links to other files, arrays whose bytes are in other files, arrays that are
views of others, filters that are plugins, and arrays of any size without any bytes. What is copied
has none of that, and the copy is all that Keras reads.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from formats.errors import KerasFileUnreadable, UnsafeFile, shown

_MAX_OBJECTS = 500_000
_MAX_DEPTH = 64
_MAX_DIMENSIONS = 16
# As of archives: an array may be this many times as large as its bytes in the file.
_RATIO = 200
_FREE_BYTES = 2**20
_MAX_ATTRIBUTE_BYTES = 2**20
_KINDS = frozenset("fiub")
_FILTERS = frozenset({h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE})
# How the optimizer stood: of no use without its training.
_LEFT_OUT = frozenset({"optimizer", "optimizer_weights"})
_LISTS = ("layer_names", "weight_names")


def copy_checked(source: Path, target: Path, *, where: str) -> int:
    """Write a new file with the arrays of another, and say how many bytes they have.

    Args:
        source: HDF5, read by h5py: in a sandbox.
        target: Written; must not exist.
        where: What the file is called in messages.

    Raises:
        FormatError: It holds something else than plain arrays, or more than its size can hold.
    """
    try:
        with h5py.File(source, "r") as old, h5py.File(target, "w") as new:
            return _Copy(where, source.stat().st_size).group(old, new, depth=0)
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise KerasFileUnreadable(f"its HDF5 part is damaged ({shown(str(error))})") from None


class _Copy:
    """One copy: what was seen so far, and how much."""

    def __init__(self, where: str, file_bytes: int) -> None:
        self.where = where
        self.limit_bytes = file_bytes * _RATIO + _FREE_BYTES
        self.seen: set[Any] = set()
        self.total_bytes = 0

    def group(self, old: h5py.Group, new: h5py.Group, *, depth: int) -> int:
        if depth > _MAX_DEPTH:
            raise UnsafeFile(self.where, f"groups more than {_MAX_DEPTH} deep")
        for name in _names(old):
            if depth == 0 and name in _LEFT_OUT:
                continue
            link = old.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise UnsafeFile(self.where, f"{shown(name)} is a link ({type(link).__name__})")
            self.count(old, name)
            item = old[name]
            if isinstance(item, h5py.Group):
                self.group(item, new.create_group(name), depth=depth + 1)
            elif isinstance(item, h5py.Dataset):
                self.array(item, new, name)
            else:
                raise UnsafeFile(self.where, f"{shown(name)} is neither a group nor an array")
        for name in ("backend", "keras_version"):
            text = _text(old, name, self.where, _MAX_ATTRIBUTE_BYTES)
            if text is not None:
                new.attrs[name] = text
        for stem in _LISTS:
            for name in (stem, *(f"{stem}{at}" for at in range(len(old.attrs)))):
                if name in old.attrs:
                    new.attrs[name] = _texts(old, name, self.where)
        return self.total_bytes

    def count(self, group: h5py.Group, name: str) -> None:
        """Take each object once: the same group twice, level after level, has no end."""
        info = h5py.h5o.get_info(group.id, name.encode())
        place = (info.fileno, info.addr)
        if place in self.seen:
            raise UnsafeFile(self.where, f"{shown(name)} stands in two places")
        self.seen.add(place)
        if len(self.seen) > _MAX_OBJECTS:
            raise UnsafeFile(self.where, f"more than {_MAX_OBJECTS} groups and arrays")

    def array(self, item: h5py.Dataset, new: h5py.Group, name: str) -> None:
        plist = item.id.get_create_plist()
        if plist.get_external_count() or item.is_virtual:
            raise UnsafeFile(self.where, f"the array {shown(name)} is in another file")
        filters = {plist.get_filter(at)[0] for at in range(plist.get_nfilters())}
        if filters - _FILTERS:
            raise UnsafeFile(self.where, f"the array {shown(name)} is packed in an unusual way")
        kind = item.id.get_type()
        is_bfloat16 = self.is_bfloat16(item)
        if not is_bfloat16 and not isinstance(
            kind, h5py.h5t.TypeFloatID | h5py.h5t.TypeIntegerID | h5py.h5t.TypeEnumID
        ):
            raise UnsafeFile(self.where, f"the array {shown(name)} holds no numbers")
        dtype = item.dtype
        if not is_bfloat16 and (dtype.kind not in _KINDS or dtype.metadata or dtype.itemsize > 8):
            raise UnsafeFile(self.where, f"the array {shown(name)} holds no plain numbers")
        shape = item.shape
        if shape is None or len(shape) > _MAX_DIMENSIONS:
            raise UnsafeFile(self.where, f"the array {shown(name)} has no plain shape")
        size_bytes = math.prod(shape) * dtype.itemsize
        self.total_bytes += size_bytes
        allowed = item.id.get_storage_size() * _RATIO + _FREE_BYTES
        if size_bytes > allowed or self.total_bytes > self.limit_bytes:
            raise UnsafeFile(
                self.where, f"the array {shown(name)} of shape {shape} has no bytes to fill it"
            )
        copied = new.create_dataset(name, data=np.asarray(item[()]))
        if is_bfloat16:
            copied.attrs["dtype"] = "bfloat16"

    def is_bfloat16(self, item: h5py.Dataset) -> bool:
        """Whether an array is of two opaque bytes each, which Keras marks so."""
        return (
            isinstance(item.id.get_type(), h5py.h5t.TypeOpaqueID)
            and item.dtype.itemsize == 2
            and _text(item, "dtype", self.where, _MAX_ATTRIBUTE_BYTES) == "bfloat16"
        )


def _names(group: h5py.Group) -> Iterator[str]:
    for name in list(group):
        if not isinstance(name, str) or name in ("", ".", ".."):
            raise UnsafeFile("model.weights.h5", f"an object is called {shown(name)}")
        yield name


def _text(item: h5py.Group | h5py.Dataset, name: str, where: str, max_bytes: int) -> str | None:
    """One text attribute; None where there is none."""
    if name not in item.attrs:
        return None
    _check_texts(item, name, where)
    value = item.attrs[name]
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if not isinstance(value, str) or len(value) > max_bytes:
        raise UnsafeFile(where, f"the attribute {shown(name)} is no text of a usual length")
    return value


def _texts(item: h5py.Group, name: str, where: str) -> list[bytes]:
    _check_texts(item, name, where)
    values = np.atleast_1d(item.attrs[name]).tolist()
    # No names at all are written as an empty array of numbers.
    return [value if isinstance(value, bytes) else str(value).encode() for value in values]


def _check_texts(item: h5py.Group | h5py.Dataset, name: str, where: str) -> None:
    attribute = item.attrs.get_id(name)
    is_text = isinstance(attribute.get_type(), h5py.h5t.TypeStringID)
    is_empty = math.prod(attribute.shape) == 0
    is_long = not is_empty and attribute.get_storage_size() > _MAX_ATTRIBUTE_BYTES
    if not (is_text or is_empty) or is_long:
        raise UnsafeFile(where, f"the attribute {shown(name)} is no text")
