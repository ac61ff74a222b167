"""The parts of HDF5 that Keras writes, read without a library: groups, plain arrays, one attribute.

HDF5 can do far more: links to other files, arrays that are kept in other files or computed from
others, filters that are plugins. None of it is in a file of Keras; whatever is not known here is
refused. The numbers themselves are not read.

Source: "HDF5 File Format Specification", version 3.0,
https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from formats.errors import shown
from formats.keras.findings import Finding

MAGIC = b"\x89HDF\r\n\x1a\n"
_MAX_OBJECTS = 500_000
_MAX_DEPTH = 64
_MAX_NAME = 4096
_MAX_MESSAGES = 65536
_MAX_RANK = 16
_MAX_ATTRIBUTE_BYTES = 2**25
# As of archives: an array may be this many times as large as its bytes in the file.
_RATIO = 200
_FREE_BYTES = 2**20

_SPACE, _LINK_INFO, _TYPE, _LINK, _EXTERNAL, _LAYOUT = 1, 2, 3, 6, 7, 8
_FILTERS, _ATTRIBUTE, _CONTINUED, _TABLE = 11, 12, 16, 17
_SHARED_FLAG = 0x02
_INTEGER, _FLOAT, _TEXT, _OPAQUE, _ENUMERATED, _VARIABLE = 0, 1, 3, 5, 8, 9
_COMPACT, _CONTIGUOUS, _CHUNKED = 0, 1, 2
_DEFLATE, _SHUFFLE = 1, 2
_SOFT_LINK = 2


@dataclass(frozen=True, slots=True)
class Array:
    """One array: where it is in the file, and how large."""

    path: str
    shape: tuple[int, ...]
    is_float: bool


class Hdf5:
    """A file, or a part of one, that may have been made by an enemy.

    Args:
        file: Seekable and binary. Read, never closed.
        offset: Where the HDF5 begins in it.
        size_bytes: How long it is.

    Raises:
        Finding: It is not laid out as Keras's library writes it.
    """

    def __init__(self, file: IO[bytes], *, offset: int, size_bytes: int) -> None:
        self._file = file
        self._offset = offset
        self._size_bytes = size_bytes
        self._seen: set[int] = set()
        # Honest files are read less than once: their numbers are not read at all.
        self._left_bytes = 2 * size_bytes + _FREE_BYTES
        head = self._read(0, 96)
        if not head.startswith(MAGIC):
            raise Finding("it is no HDF5")
        version, offset_bytes, length_bytes = head[8], head[13], head[14]
        base = int.from_bytes(head[24:32], "little")
        if (version, offset_bytes, length_bytes, base) != (0, 8, 8, 0):
            raise Finding(
                f"its HDF5 is of a layout (version {version}) that Keras does not write; save the "
                "model again with model.save"
            )
        self._root = int.from_bytes(head[64:72], "little")

    def arrays(self) -> Iterator[Array]:
        """Every array of the file, each once.

        Raises:
            Finding: Something in the file is not as Keras writes it.
        """
        self._seen.clear()
        yield from self._group(self._root, "", depth=0)

    def text_attribute(self, name: str) -> str | None:
        """A text that the outermost group has; None where it has none of this name.

        Raises:
            Finding: It is no text, or a long one.
        """
        for kind, body in self._messages(self._root):
            if kind == _ATTRIBUTE:
                found, value = self._attribute(body)
                if found == name:
                    return value
        return None

    def _read(self, offset: int, count: int) -> bytes:
        if not 0 <= offset <= offset + count <= self._size_bytes:
            raise Finding("a part of its HDF5 lies outside of the file")
        self._left_bytes -= count
        if self._left_bytes < 0:
            raise Finding("a part of its HDF5 is read again and again")
        self._file.seek(self._offset + offset)
        found = self._file.read(count)
        if len(found) != count:
            raise Finding("its HDF5 is cut short")
        return found

    def _messages(self, address: int) -> Iterator[tuple[int, bytes]]:
        """What an object's header says: the kind and body of each part."""
        head = self._read(address, 16)
        version, count, size = head[0], *struct.unpack_from("<H4xL", head, 2)
        if version != 1 or count > _MAX_MESSAGES:
            raise Finding("an object of its HDF5 has a header that Keras does not write")
        blocks = [(address + 16, size)]
        for start, length in blocks:
            block = self._read(start, length)
            at = 0
            while at + 8 <= length and count > 0:
                kind, body_bytes, flags = struct.unpack_from("<HHB", block, at)
                body = block[at + 8 : at + 8 + body_bytes]
                at += 8 + body_bytes
                count -= 1
                if flags & _SHARED_FLAG:
                    raise Finding("an object of its HDF5 shares a part of another")
                if kind == _CONTINUED:
                    further, length_bytes = _unpacked("<QQ", body)
                    blocks.append((further, length_bytes))
                else:
                    yield kind, body

    def _group(self, address: int, path: str, *, depth: int) -> Iterator[Array]:
        if depth > _MAX_DEPTH:
            raise Finding(f"its HDF5 has groups more than {_MAX_DEPTH} deep")
        if address in self._seen:
            raise Finding(f"{shown(path)} stands in two places of its HDF5")
        self._seen.add(address)
        if len(self._seen) > _MAX_OBJECTS:
            raise Finding(f"its HDF5 has more than {_MAX_OBJECTS} groups and arrays")
        messages = list(self._messages(address))
        kinds = {kind for kind, _ in messages}
        if kinds & {_LINK, _LINK_INFO}:
            raise Finding(f"the group {shown(path)} may hold links to other files")
        if _TABLE not in kinds:
            yield self._array(messages, path)
            return
        table = next(body for kind, body in messages if kind == _TABLE)
        tree, heap = _unpacked("<QQ", table)
        names = self._heap(heap)
        for name_offset, header, cache in self._entries(tree, depth=0):
            name = _name_at(names, name_offset)
            if cache == _SOFT_LINK:
                raise Finding(f"{shown(name)} is a link in its HDF5")
            yield from self._group(header, f"{path}/{name}" if path else name, depth=depth + 1)

    def _heap(self, address: int) -> bytes:
        """The names of a group's members."""
        head = self._read(address, 32)
        if not head.startswith(b"HEAP\0"):
            raise Finding("a group of its HDF5 has no names")
        size, _, start = struct.unpack_from("<QQQ", head, 8)
        return self._read(start, size)

    def _entries(self, address: int, *, depth: int) -> Iterator[tuple[int, int, int]]:
        """A group's members: where their names and headers are, and what kind of entry each is."""
        if depth > _MAX_DEPTH or address in self._seen:
            raise Finding("a group of its HDF5 holds itself")
        self._seen.add(address)
        head = self._read(address, 8)
        if head.startswith(b"SNOD\1"):
            (count,) = struct.unpack_from("<H", head, 6)
            rows = self._read(address + 8, count * 40)
            for at in range(0, count * 40, 40):
                yield struct.unpack_from("<QQL", rows, at)
            return
        (count,) = struct.unpack_from("<H", head, 6)
        if not head.startswith(b"TREE\0"):
            raise Finding("a group of its HDF5 has no list of members")
        pairs = self._read(address + 24, count * 16)
        for at in range(0, count * 16, 16):
            yield from self._entries(struct.unpack_from("<Q", pairs, at + 8)[0], depth=depth + 1)

    def _array(self, messages: list[tuple[int, bytes]], path: str) -> Array:
        by_kind = dict(messages)
        if not {_SPACE, _TYPE, _LAYOUT} <= by_kind.keys():
            raise Finding(f"{shown(path)} is neither a group nor an array")
        if _EXTERNAL in by_kind:
            raise Finding(f"the array {shown(path)} is kept in another file")
        shape = _shape(by_kind[_SPACE], path)
        kind, itemsize = _type(by_kind[_TYPE])
        is_opaque = kind == _OPAQUE and itemsize == 2
        if kind not in (_INTEGER, _FLOAT, _ENUMERATED) and not is_opaque:
            raise Finding(f"the array {shown(path)} holds no numbers")
        _check_filters(by_kind.get(_FILTERS), path)
        self._check_layout(by_kind[_LAYOUT], math.prod(shape) * itemsize, path)
        return Array(path, shape, is_float=kind == _FLOAT or is_opaque)

    def _check_layout(self, body: bytes, needed: int, path: str) -> None:
        version, kind = _unpacked("<BB", body)
        if version != 3 or kind not in (_COMPACT, _CONTIGUOUS, _CHUNKED):
            raise Finding(f"the array {shown(path)} is laid out in an unusual way")
        if kind == _CHUNKED:
            # How many pieces it has is for the library to find: it cannot be more than the file.
            is_held = needed <= self._size_bytes * _RATIO + _FREE_BYTES
        elif kind == _COMPACT:
            is_held = needed == _unpacked("<xxH", body)[0]
        else:
            start, size = _unpacked("<xxQQ", body)
            is_held = needed == size and (start + size <= self._size_bytes or size == 0)
        if not is_held:
            raise Finding(f"the array {shown(path)} has no bytes to fill its shape")

    def _attribute(self, body: bytes) -> tuple[str, str | None]:
        """The name of an attribute, and its value where it is one text."""
        version, name_bytes, type_bytes, space_bytes = _unpacked("<BxHHH", body)
        if version not in (1, 3):
            raise Finding("an attribute of its HDF5 is written in an unusual way")
        at = 8 if version == 1 else 9
        # Only the first version fills each part up to a multiple of eight.
        places = []
        for size in (name_bytes, type_bytes, space_bytes):
            places.append(body[at : at + size])
            at += -(-size // 8) * 8 if version == 1 else size
        name, kind, _ = places
        found = name.partition(b"\0")[0].decode("utf-8", errors="replace")
        if len(kind) < 8:
            return found, None
        class_, size = _type(kind)
        data = body[at:]
        if class_ == _TEXT and size <= len(data):
            return found, _decoded(data[:size])
        if class_ == _VARIABLE and len(data) >= 16:
            length, address, index = struct.unpack_from("<LQL", data)
            return found, _decoded(self._global_heap(address, index)[:length])
        return found, None

    def _global_heap(self, address: int, index: int) -> bytes:
        """One of the values that are as long as they like."""
        head = self._read(address, 16)
        (size,) = struct.unpack_from("<Q", head, 8)
        if not head.startswith(b"GCOL\1") or size > _MAX_ATTRIBUTE_BYTES:
            raise Finding("an attribute of its HDF5 has no value of a usual length")
        heap = self._read(address, size)
        at = 16
        while at + 16 <= size:
            number, length = struct.unpack_from("<H6xQ", heap, at)
            if number == index:
                return heap[at + 16 : at + 16 + length]
            if number == 0:
                break
            at += 16 + -(-length // 8) * 8
        raise Finding("an attribute of its HDF5 has no value")


def _unpacked(layout: str, body: bytes) -> tuple[int, ...]:
    if len(body) < struct.calcsize(layout):
        raise Finding("a part of its HDF5 is too short")
    return struct.unpack_from(layout, body)


def _name_at(names: bytes, offset: int) -> str:
    end = names.find(b"\0", offset)
    if not 0 <= offset < end <= offset + _MAX_NAME:
        raise Finding("a member of a group of its HDF5 has no name")
    try:
        name = names[offset:end].decode("utf-8")
    except UnicodeDecodeError:
        raise Finding("a name in its HDF5 is not UTF-8") from None
    if "/" in name or name in (".", ".."):
        raise Finding(f"a member of a group of its HDF5 is called {shown(name)}")
    return name


def _shape(body: bytes, path: str) -> tuple[int, ...]:
    version, rank, _, kind = _unpacked("<BBBB", body)
    is_plain = version == 1 or (version == 2 and kind in (0, 1))
    if not is_plain or rank > _MAX_RANK:
        raise Finding(f"the array {shown(path)} has no plain shape")
    start = 8 if version == 1 else 4
    return _unpacked(f"<{start}x{rank}Q", body)


def _type(body: bytes) -> tuple[int, int]:
    """The class of a type, and how many bytes one value has."""
    first, size = _unpacked("<B3xL", body)
    return first & 0x0F, size


def _check_filters(body: bytes | None, path: str) -> None:
    if body is None:
        return
    version, count = _unpacked("<BB", body)
    at = 8 if version == 1 else 2
    for _ in range(count):
        number, name_bytes, _, value_count = _unpacked("<HHHH", body[at:])
        if number not in (_DEFLATE, _SHUFFLE) or version != 1:
            raise Finding(f"the array {shown(path)} is packed in an unusual way")
        at += 8 + -(-name_bytes // 8) * 8 + 4 * (value_count + value_count % 2)


def _decoded(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", errors="replace")
