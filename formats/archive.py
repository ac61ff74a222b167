"""Zip archives, read by rules that leave no room for two readers to disagree.

A zip says everything twice: in the central directory at its end, and in front of each member.
Readers differ in which they believe, in which of two equal names they take, and in what they skip
in between; a file that passes one reader's check and shows another reader other bytes is the oldest
trick there is. So here the two must agree, the members must follow each other without a gap from
the first byte to the directory, and the directory must end the file.
"""

import os
import re
import stat
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from formats.errors import ArchiveTooLarge, TruncatedFile, UnreadableFile, UnsafeFile

_LOCAL_HEADER = struct.Struct("<4s2B4HL2L2H")
_END = struct.Struct("<4s4H2LH")
_END_64_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCAL_MAGIC, _END_MAGIC = b"PK\x03\x04", b"PK\x05\x06"
_LOCATOR_MAGIC, _END_64_MAGIC = b"PK\x06\x07", b"PK\x06\x06"

_DESCRIPTOR_MAGIC = b"PK\x07\x08"

_DESCRIPTOR_FOLLOWS = 0x0008
_NAME_IS_UTF8 = 0x0800
# Deflate's level, a trailing descriptor, a name in UTF-8. Encryption and patches are not here.
_ALLOWED_FLAGS = 0x0002 | 0x0004 | _DESCRIPTOR_FOLLOWS | _NAME_IS_UTF8
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# With and without its signature, with sizes of four and of eight bytes.
_DESCRIPTOR_SIZES = (12, 16, 20, 24)
_ZIP64_EXTRA = 0x0001
_IN_EXTRA = 0xFFFFFFFF
_CHUNK_BYTES = 2**20
_MAX_OFFSET = 2**63
# A directory entry with the longest name that anything honest has.
_LONGEST_ENTRY_BYTES = 1024
_DRIVE = re.compile(r"[A-Za-z]:")

# What zipfile raises on damaged bytes, by its own source: it has no base class for them.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    OverflowError,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much an archive may hold. Sizes are of the unpacked members."""

    member_count: int = 50_000
    member_bytes: int = 64 * 2**30
    total_bytes: int = 128 * 2**30
    ratio: int = 200
    # A few compressible bytes are no bomb, whatever their ratio.
    ratio_from_bytes: int = 2**20


@dataclass(frozen=True, slots=True)
class Member:
    """One file in an archive. ``offset`` is where its bytes, packed or not, begin."""

    name: str
    size_bytes: int
    offset: int
    is_stored: bool


class Members(ABC):
    """What every archive has whose structure has been checked."""

    members: Mapping[str, Member]

    @abstractmethod
    def chunks(self, name: str) -> Iterator[bytes]:
        """Read a member piece by piece."""

    @property
    def root(self) -> str:
        """The one folder that every member is in, with a slash after it; empty where none is."""
        roots = {name.partition("/")[0] if "/" in name else "" for name in self.members}
        only = roots.pop() if len(roots) == 1 else ""
        return f"{only}/" if only else ""

    def read(self, name: str, *, max_bytes: int) -> bytes:
        """Read a whole member, and check it.

        Raises:
            FormatError: It is larger than ``max_bytes``, or damaged.
        """
        size_bytes = self.members[name].size_bytes
        if size_bytes > max_bytes:
            raise ArchiveTooLarge(f"a member {name} with bytes", found=size_bytes, limit=max_bytes)
        return b"".join(self.chunks(name))


class Archive(Members):
    """An archive whose structure has been checked. Members are checked (CRC) as they are read.

    Args:
        file: A seekable binary file. Read, never closed.
        limits: What is too much.
        allow_folders: Whether there may be entries for folders, as archivers write them. They are
            checked, and are no members.

    Raises:
        FormatError: The file is not a zip archive that follows the rules.
    """

    def __init__(
        self, file: IO[bytes], *, limits: Limits | None = None, allow_folders: bool = False
    ) -> None:
        self._limits = limits or Limits()
        self._file = file
        directory = _find_directory(file, self._limits)
        try:
            self._zip = zipfile.ZipFile(file)
        except _DAMAGE as error:
            raise UnreadableFile(f"its directory is damaged ({error})") from None
        entries = self._zip.infolist()
        if len(entries) != directory.count:
            raise UnreadableFile(
                f"it announces {directory.count} members, and its directory has {len(entries)}"
            )
        self._entries = {entry.filename: entry for entry in entries}
        _check_names(entries, allow_folders=allow_folders)
        _check_sizes(entries, self._limits)
        self.members = {
            member.name: member
            for member in _check_layout(file, entries, directory.offset)
            if not member.name.endswith("/")
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._zip.close()

    def chunks(self, name: str) -> Iterator[bytes]:
        """Read a member piece by piece; the last piece comes only if its checksum is right."""
        expected = self.members[name].size_bytes
        found = 0
        try:
            with self._zip.open(self._entries[name]) as stream:
                while piece := stream.read(_CHUNK_BYTES):
                    found += len(piece)
                    yield piece
        except _DAMAGE as error:
            raise UnreadableFile(f"member {name} is damaged ({error})") from None
        if found != expected:
            raise UnreadableFile(f"member {name} has {found} bytes, not {expected}")


@contextmanager
def open_archive(
    path: Path, *, limits: Limits | None = None, allow_folders: bool = False
) -> Iterator[Archive]:
    """Open the archive at ``path``, check its structure, and close it in the end.

    Raises:
        FormatError: The file is not a zip archive that follows the rules.
    """
    with (
        path.open("rb") as file,
        Archive(file, limits=limits, allow_folders=allow_folders) as archive,
    ):
        yield archive


@dataclass(frozen=True, slots=True)
class _Directory:
    offset: int
    count: int


def _find_directory(file: IO[bytes], limits: Limits) -> _Directory:
    file_bytes = file.seek(0, os.SEEK_END)
    if _read_at(file, 0, 4) not in (_LOCAL_MAGIC, _END_MAGIC):
        raise UnreadableFile("it is no zip archive")
    end_offset = file_bytes - _END.size
    end = _read_at(file, max(end_offset, 0), _END.size)
    if len(end) < _END.size or not end.startswith(_END_MAGIC):
        raise TruncatedFile("it starts as a zip archive, and does not end as one")
    _, disk, first_disk, here, count, size_bytes, offset, comment_bytes = _END.unpack(end)
    if disk or first_disk or here != count or comment_bytes:
        raise UnreadableFile("its last record is that of an archive in parts, or with a comment")
    if _read_at(file, end_offset - _END_64_LOCATOR.size, 4) == _LOCATOR_MAGIC:
        end_offset, count, size_bytes, offset = _read_zip64_end(file, end_offset)
    if count > limits.member_count:
        raise ArchiveTooLarge("a number of members", found=count, limit=limits.member_count)
    if offset + size_bytes != end_offset:
        raise UnreadableFile("its directory does not end where it says")
    if size_bytes > limits.member_count * _LONGEST_ENTRY_BYTES:
        raise ArchiveTooLarge(
            "a directory with bytes",
            found=size_bytes,
            limit=limits.member_count * _LONGEST_ENTRY_BYTES,
        )
    return _Directory(offset=offset, count=count)


def _read_zip64_end(file: IO[bytes], end_offset: int) -> tuple[int, int, int, int]:
    locator_offset = end_offset - _END_64_LOCATOR.size
    _, disk, end_64_offset, disks = _END_64_LOCATOR.unpack(
        _read_at(file, locator_offset, _END_64_LOCATOR.size)
    )
    record = _read_at(file, end_64_offset, _END_64.size)
    if len(record) < _END_64.size or not record.startswith(_END_64_MAGIC):
        raise UnreadableFile("its zip64 record is not where it should be")
    _, record_bytes, *_, disk_2, disk_3, here, count, size_bytes, offset = _END_64.unpack(record)
    # The record's own length leaves out its first twelve bytes.
    is_in_place = end_64_offset + 12 + record_bytes == locator_offset
    if disk or disk_2 or disk_3 or disks > 1 or here != count or not is_in_place:
        raise UnreadableFile("its zip64 record is that of an archive in parts, or has more in it")
    return end_64_offset, count, size_bytes, offset


def _read_at(file: IO[bytes], offset: int, count: int) -> bytes:
    # The operating system refuses to go to places that a zip64 record can name.
    if not 0 <= offset < _MAX_OFFSET:
        return b""
    file.seek(offset)
    return file.read(count)


def _check_names(entries: list[zipfile.ZipInfo], *, allow_folders: bool) -> None:
    seen: set[str] = set()
    for entry in entries:
        name = entry.orig_filename
        is_folder = allow_folders and name.endswith("/") and not entry.file_size
        if reason := _why_bad_name(entry, name.removesuffix("/") if is_folder else name):
            raise UnsafeFile(name, reason)
        if name.casefold() in seen:
            raise UnsafeFile(name, "another member has the same name")
        seen.add(name.casefold())
        if entry.flag_bits & ~_ALLOWED_FLAGS:
            raise UnsafeFile(name, "it is encrypted, or packed in an unusual way")
        if entry.compress_type not in _METHODS:
            raise UnsafeFile(name, f"compression method {entry.compress_type} is not taken")
        # The upper half holds a Unix mode, where the writer gave one.
        expected_kind = stat.S_IFDIR if is_folder else stat.S_IFREG
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, expected_kind):
            raise UnsafeFile(name, "it is a link or another special file")


def _why_bad_name(entry: zipfile.ZipInfo, name: str) -> str:
    if entry.filename != entry.orig_filename or not name.isprintable() or "\\" in name:
        return "its name has characters that are not taken"
    if not name.isascii() and not entry.flag_bits & _NAME_IS_UTF8:
        return "its name is not ASCII and not declared as UTF-8"
    if name.startswith("/") or _DRIVE.match(name):
        return "its name is an absolute path"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "its name leaves its folder, or names no file"
    return ""


def _check_sizes(entries: list[zipfile.ZipInfo], limits: Limits) -> None:
    total_bytes = 0
    for entry in entries:
        total_bytes += entry.file_size
        if entry.file_size > limits.member_bytes:
            raise ArchiveTooLarge(
                "a member with bytes", found=entry.file_size, limit=limits.member_bytes
            )
        if total_bytes > limits.total_bytes:
            raise ArchiveTooLarge("unpacked bytes", found=total_bytes, limit=limits.total_bytes)
        if entry.compress_type == zipfile.ZIP_STORED:
            if entry.file_size != entry.compress_size:
                raise UnreadableFile(f"member {entry.filename} is stored, with two sizes")
        elif entry.file_size > limits.ratio_from_bytes:
            ratio = entry.file_size // max(entry.compress_size, 1)
            if ratio > limits.ratio:
                raise ArchiveTooLarge(
                    "a member with a compression ratio", found=ratio, limit=limits.ratio
                )


def _check_layout(
    file: IO[bytes], entries: list[zipfile.ZipInfo], directory_offset: int
) -> Iterator[Member]:
    """Check that members follow each other, each as the directory describes it."""
    expected_offset = 0
    in_order = sorted(entries, key=lambda entry: entry.header_offset)
    next_offsets = [entry.header_offset for entry in in_order[1:]] + [directory_offset]
    for entry, next_offset in zip(in_order, next_offsets, strict=True):
        if entry.header_offset != expected_offset:
            raise UnsafeFile(entry.filename, "it overlaps another member, or hides bytes before it")
        data_offset = _check_local_header(file, entry)
        data_end = data_offset + entry.compress_size
        if data_end > next_offset:
            raise UnsafeFile(entry.filename, "it overlaps the member after it")
        trailer = _read_at(file, data_end, min(next_offset - data_end, max(_DESCRIPTOR_SIZES)))
        if trailer and trailer not in _descriptors(entry):
            raise UnsafeFile(entry.filename, "something is hidden behind it")
        expected_offset = data_end + len(trailer)
        yield Member(
            name=entry.filename,
            size_bytes=entry.file_size,
            offset=data_offset,
            is_stored=entry.compress_type == zipfile.ZIP_STORED,
        )
    if expected_offset != directory_offset:
        raise UnreadableFile("bytes between its members and its directory belong to neither")


def _check_local_header(file: IO[bytes], entry: zipfile.ZipInfo) -> int:
    """Check a member's own header against the directory; say where its bytes begin."""
    header = _read_at(file, entry.header_offset, _LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(_LOCAL_MAGIC):
        raise UnreadableFile(f"member {entry.filename} has no header of its own")
    (_, _, _, flags, method, _, _, crc, packed, unpacked, name_bytes, extra_bytes) = (
        _LOCAL_HEADER.unpack(header)
    )
    name = file.read(name_bytes)
    extra = file.read(extra_bytes)
    if _IN_EXTRA in (packed, unpacked):
        packed, unpacked = _sizes_in_extra(extra, packed=packed, unpacked=unpacked)
    is_same = (
        flags == entry.flag_bits
        and method == entry.compress_type
        and name == entry.orig_filename.encode("utf-8" if flags & _NAME_IS_UTF8 else "cp437")
    )
    said = (crc, packed, unpacked)
    expected = (entry.CRC, entry.compress_size, entry.file_size)
    # Only a writer that gives the sizes afterwards may leave them out here.
    if flags & _DESCRIPTOR_FOLLOWS:
        is_same &= all(here in (0, there) for here, there in zip(said, expected, strict=True))
    else:
        is_same &= said == expected
    if not is_same:
        raise UnsafeFile(entry.filename, "its own header and the directory disagree")
    return entry.header_offset + len(header) + len(name) + len(extra)


def _sizes_in_extra(extra: bytes, *, packed: int, unpacked: int) -> tuple[int, int]:
    """Find the sizes that did not fit into a header: the unpacked one comes first."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        field = extra[position + 4 : position + 4 + length]
        if kind == _ZIP64_EXTRA:
            values = [value for (value,) in struct.iter_unpack("<Q", field[: length // 8 * 8])]
            if unpacked == _IN_EXTRA and values:
                unpacked = values.pop(0)
            if packed == _IN_EXTRA and values:
                packed = values.pop(0)
            break
        position += 4 + length
    return packed, unpacked


def _descriptors(entry: zipfile.ZipInfo) -> set[bytes]:
    """Write what may follow a member whose header left its sizes out."""
    if not entry.flag_bits & _DESCRIPTOR_FOLLOWS:
        return set()
    found = set()
    for sizes in ("<3L", "<L2Q"):
        try:
            plain = struct.pack(sizes, entry.CRC, entry.compress_size, entry.file_size)
        except struct.error:  # Too large for four bytes.
            continue
        found |= {plain, _DESCRIPTOR_MAGIC + plain}
    return found
