"""Tar archives, plain or packed by gzip, read by rules as strict as those for zip archives.

Only regular files and folders are taken. Readers of tar differ in its extensions: which of two
sizes holds, where a long name comes from, what a sparse file is. So a name or a size comes from one
place alone, and what is not known is refused. No library unpacks anything: members are read from
where they were found here.
"""

import re
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from formats.archive import Limits, Member, Members
from formats.errors import ArchiveTooLarge, TruncatedFile, UnreadableFile, UnsafeFile, shown

_BLOCK = 512
_GZIP = b"\x1f\x8b"
_CHUNK_BYTES = 2**20
_MAX_EXTENSION_BYTES = 2**16
_REGULAR = (b"0", b"\0", b"7")
_FOLDER = b"5"
_LONG_NAME, _PAX_GLOBAL = b"L", b"g"
_EXTENSIONS = (_LONG_NAME, b"x", _PAX_GLOBAL)
_SPECIAL = {
    b"1": "it is a hard link",
    b"2": "it is a link",
    b"3": "it is a device",
    b"4": "it is a device",
    b"6": "it is a pipe",
    b"S": "it is a sparse file",
    b"K": "it is a link",
}
_OCTAL = re.compile(rb" *([0-7]+)[ \0]*")
_PAX_LENGTH = re.compile(rb"([1-9][0-9]{0,5}) ")
# What says nothing of where the bytes of a member are, or of what it is.
_PAX_IGNORED = re.compile(r"[acm]time|[ug]id|[ug]name|comment|(LIBARCHIVE|SCHILY|MSWINDOWS)\.[^=]+")
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    is_folder: bool
    size_bytes: int
    offset: int


@dataclass(slots=True)
class _Extensions:
    """What stands before a member, and holds for it instead of its own header."""

    long_name: str | None = None
    records: dict[str, str] = field(default_factory=dict)


class Tar(Members):
    """A tar archive whose structure has been checked.

    Args:
        file: A seekable binary file, not packed. Read, never closed.
        limits: What is too much.

    Raises:
        FormatError: The file is not a tar archive that follows the rules.
    """

    def __init__(self, file: IO[bytes], *, limits: Limits | None = None) -> None:
        self._file = file
        limits = limits or Limits()
        found: dict[str, _Entry] = {}
        total_bytes = 0
        for entry in _entries(file, limits):
            _check_name(entry.name)
            if entry.name.casefold() in found:
                raise UnsafeFile(entry.name, "another member has the same name")
            found[entry.name.casefold()] = entry
            total_bytes += entry.size_bytes
            if total_bytes > limits.total_bytes:
                raise ArchiveTooLarge("unpacked bytes", found=total_bytes, limit=limits.total_bytes)
        for name, entry in found.items():
            parts = name.split("/")
            above = (found.get("/".join(parts[:depth])) for depth in range(1, len(parts)))
            if any(folder is not None and not folder.is_folder for folder in above):
                raise UnsafeFile(entry.name, "what should be its folder is a file")
        self.members = {
            entry.name: Member(
                name=entry.name, size_bytes=entry.size_bytes, offset=entry.offset, is_stored=True
            )
            for entry in found.values()
            if not entry.is_folder
        }

    def chunks(self, name: str) -> Iterator[bytes]:
        """Read a member piece by piece."""
        member = self.members[name]
        for start in range(0, member.size_bytes, _CHUNK_BYTES):
            yield _read_at(
                self._file, member.offset + start, min(_CHUNK_BYTES, member.size_bytes - start)
            )


@contextmanager
def open_tar(path: Path, *, limits: Limits | None = None) -> Iterator[Tar]:
    """Open the tar archive at ``path``, packed by gzip or not, and check its structure.

    One that is packed needs as much room in the folder for temporary files as it takes unpacked.

    Raises:
        FormatError: The file is not a tar archive that follows the rules.
    """
    with path.open("rb") as file:
        if file.read(len(_GZIP)) != _GZIP:
            yield Tar(file, limits=limits)
            return
        with tempfile.TemporaryFile(prefix="secateur-tar-") as unpacked:
            _unpack(file, unpacked, limits or Limits())
            yield Tar(unpacked, limits=limits)


def _unpack(file: IO[bytes], target: IO[bytes], limits: Limits) -> None:
    """Unpack all of a gzip file.

    Raises:
        FormatError: It is damaged, goes on behind its end, or becomes too large.
    """
    file.seek(0)
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    packed_bytes = unpacked_bytes = 0
    waiting = b""
    while not unpacker.eof:
        if not waiting:
            waiting = file.read(_CHUNK_BYTES)
            packed_bytes += len(waiting)
        is_at_end = not waiting
        try:
            piece = unpacker.decompress(waiting, _CHUNK_BYTES)
        except zlib.error as error:
            raise UnreadableFile(f"it is damaged ({error})") from None
        waiting = unpacker.unconsumed_tail
        if is_at_end and not piece and not unpacker.eof:
            raise TruncatedFile("it starts as a gzip file, and does not end as one")
        unpacked_bytes += len(piece)
        if unpacked_bytes > limits.total_bytes:
            raise ArchiveTooLarge("unpacked bytes", found=unpacked_bytes, limit=limits.total_bytes)
        ratio = unpacked_bytes // max(packed_bytes - len(waiting), 1)
        if unpacked_bytes > limits.ratio_from_bytes and ratio > limits.ratio:
            raise ArchiveTooLarge("a compression ratio", found=ratio, limit=limits.ratio)
        target.write(piece)
    if unpacker.unused_data or file.read(1):
        raise UnreadableFile("something follows behind the end of its gzip stream")
    target.flush()


def _entries(file: IO[bytes], limits: Limits) -> Iterator[_Entry]:
    """List regular files and folders, in order."""
    file_bytes = file.seek(0, 2)
    offset = count = 0
    extensions = _Extensions()
    while True:
        header = _read_at(file, offset, _BLOCK)
        if len(header) < _BLOCK:
            raise TruncatedFile("it starts as a tar archive, and does not end as one")
        if header == bytes(_BLOCK):
            if extensions != _Extensions():
                raise UnreadableFile("its last member is missing")
            _check_end(file, offset)
            return
        _check_header(header, is_first=not offset)
        count += 1
        # Each member may have two extensions.
        if count > limits.member_count * 3:
            raise ArchiveTooLarge("a number of members", found=count, limit=limits.member_count * 3)
        offset += _BLOCK
        if header[156:157] in _EXTENSIONS:
            size_bytes = _number(header[124:136])
            if size_bytes > _MAX_EXTENSION_BYTES:
                raise ArchiveTooLarge(
                    "a header with bytes", found=size_bytes, limit=_MAX_EXTENSION_BYTES
                )
            _extend(extensions, header[156:157], _read_at(file, offset, size_bytes))
        else:
            entry = _member(header, extensions, offset)
            size_bytes = entry.size_bytes
            if size_bytes > limits.member_bytes:
                raise ArchiveTooLarge(
                    "a member with bytes", found=size_bytes, limit=limits.member_bytes
                )
            extensions = _Extensions()
            # The folder that was packed is often the first member itself.
            if not (entry.is_folder and entry.name == "."):
                yield entry
        offset += -(-size_bytes // _BLOCK) * _BLOCK
        if offset > file_bytes:
            raise TruncatedFile("it ends in the middle of a member")


def _extend(extensions: _Extensions, kind: bytes, data: bytes) -> None:
    if kind == _LONG_NAME:
        if extensions.long_name is not None:
            raise UnreadableFile("one of its members has two names")
        extensions.long_name = _text(data.removesuffix(b"\0"))
        return
    records = _pax_records(data)
    if kind == _PAX_GLOBAL and records:
        raise UnreadableFile("it gives all its members one name or size")
    if extensions.records:
        raise UnreadableFile("one of its members has two headers")
    extensions.records = records


def _member(header: bytes, extensions: _Extensions, offset: int) -> _Entry:
    kind, size_bytes = header[156:157], _number(header[124:136])
    name = _name_in(header) if extensions.long_name is None else extensions.long_name
    if extensions.long_name is not None and "path" in extensions.records:
        raise UnsafeFile(name, "it has two names")
    name = extensions.records.get("path", name)
    if kind in _SPECIAL:
        raise UnsafeFile(name, _SPECIAL[kind])
    is_folder = kind == _FOLDER
    if kind not in _REGULAR and not is_folder:
        raise UnsafeFile(name, f"it is of the kind {shown(kind)}, which is not taken")
    if any(header[157:257]):
        raise UnsafeFile(name, "it is a link")
    if name.endswith("/") and not is_folder:
        raise UnsafeFile(name, "it is a file with the name of a folder")
    # Where an extension has the size, the header says 0 or the same.
    extended = int(extensions.records.get("size", size_bytes))
    if size_bytes not in (0, extended):
        raise UnsafeFile(name, "it has two sizes")
    if extended and is_folder:
        raise UnsafeFile(name, "it is a folder, and has bytes")
    plain = name.removesuffix("/") if is_folder else name
    # Some archivers put "./" in front of every name.
    return _Entry(
        name=plain.removeprefix("./"), is_folder=is_folder, size_bytes=extended, offset=offset
    )


def _check_end(file: IO[bytes], offset: int) -> None:
    """Check that nothing but zeros follows, and enough of them to be an end."""
    file.seek(offset)
    total = 0
    while piece := file.read(_CHUNK_BYTES):
        total += len(piece)
        if piece.count(0) != len(piece):
            raise UnreadableFile("something is hidden behind the end of the archive")
    if total < 2 * _BLOCK:
        raise TruncatedFile("the end of the archive is missing")


def _check_header(header: bytes, *, is_first: bool) -> None:
    if header[257:262] != b"ustar":
        raise UnreadableFile(
            "it is no tar archive" if is_first else "one of its headers is not that of a member"
        )
    expected = sum(header[:148]) + 8 * ord(" ") + sum(header[156:])
    if _number(header[148:156]) != expected:
        raise UnreadableFile("one of its headers does not have its checksum")


def _number(field: bytes) -> int:
    # Sizes of 8 GiB and more, in GNU's way: a bit, then a number of 95.
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    found = _OCTAL.fullmatch(field)
    if found is None:
        raise UnreadableFile(f"one of its headers has {shown(field)} where a number should be")
    return int(found[1], 8)


def _name_in(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    # In GNU's own format other things are where POSIX has the start of a long name.
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UnsafeFile(shown(data), "its name is not in UTF-8") from None


def _pax_records(data: bytes) -> dict[str, str]:
    """Read the lines of an extended header: only a name or a size matters, and no other may."""
    records: dict[str, str] = {}
    position = 0
    while position < len(data):
        found = _PAX_LENGTH.match(data, position)
        end = position + int(found[1]) if found else position
        if found is None or end > len(data) or data[end - 1 : end] != b"\n":
            raise UnreadableFile("one of its extended headers is damaged")
        key_bytes, _, value_bytes = data[found.end() : end - 1].partition(b"=")
        key = _text(key_bytes)
        position = end
        if _PAX_IGNORED.fullmatch(key):
            continue
        value = _text(value_bytes)
        is_known = key == "path" or (key == "size" and re.fullmatch("[0-9]{1,19}", value))
        if not is_known or key in records:
            raise UnsafeFile(
                key, "an extended header has it, which is not taken, or is there twice"
            )
        records[key] = value
    return records


def _check_name(name: str) -> None:
    if not name.isprintable() or "\\" in name:
        raise UnsafeFile(name, "its name has characters that are not taken")
    if name.startswith("/") or _DRIVE.match(name):
        raise UnsafeFile(name, "its name is an absolute path")
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise UnsafeFile(name, "its name leaves its folder, or names no file")


def _read_at(file: IO[bytes], offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)
