"""The rules for tar archives: what two readers could read in two ways is refused."""

import gzip
import io
import os
import subprocess
import tarfile

import pytest

from formats.archive import Limits
from formats.errors import (
    ArchiveTooLarge,
    FormatError,
    TruncatedFile,
    UnreadableFile,
    UnsafeFile,
)
from formats.tar import open_tar

MEMBERS = {"a/one": b"1", "a/two": b"2" * 5000, "a/b/three": b""}


def info(name, size=0, kind=tarfile.REGTYPE, **more):
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, kind
    for key, value in more.items():
        setattr(entry, key, value)
    return entry


def tar_of(members, *, form=tarfile.PAX_FORMAT):
    """Write members, which are bytes by name, or an entry that is no regular file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, member in members.items():
            if isinstance(member, bytes):
                archive.addfile(info(name, len(member)), io.BytesIO(member))
            else:
                archive.addfile(member)
    return buffer.getvalue()


@pytest.fixture
def read(tmp_path):
    def read(data, **limits):
        path = tmp_path / "archive.tar"
        path.write_bytes(data)
        with open_tar(path, limits=Limits(**limits)) as archive:
            return {name: archive.read(name, max_bytes=2**30) for name in archive.members}

    return read


@pytest.fixture
def refusal(read):
    def refusal(data, kind=FormatError, **limits):
        with pytest.raises(kind) as error:
            read(data, **limits)
        return error.value.detail

    return refusal


def with_checksum(data, at=0):
    """Write the checksum of the header that begins at a place anew."""
    header = bytearray(data[at : at + 512])
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + 512 :]


def changed(data, start, new):
    return with_checksum(data[:start] + new + data[start + len(new) :])


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archive_of_each_format_is_read(form, read):
    data = tar_of(MEMBERS, form=form)
    assert read(data) == MEMBERS
    assert read(gzip.compress(data)) == MEMBERS


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_read(form, read):
    members = {"a" * 90 + "/" + "b" * 90: b"1"}
    assert read(tar_of(members, form=form)) == members


def test_names_beyond_ascii_are_read(read):
    assert read(tar_of({"é/ü": b"1"})) == {"é/ü": b"1"}


@pytest.mark.parametrize("flags", [["-cf"], ["-czf"]])
@pytest.mark.parametrize("what", [["."], ["model"]])
def test_archive_that_tar_makes_is_read(flags, what, tmp_path, read):
    folder = tmp_path / "model" / "variables"
    folder.mkdir(parents=True)
    (folder / "data").write_bytes(b"12345")
    path = tmp_path / "made.tar"
    subprocess.run(
        ["tar", *flags, path, "-C", tmp_path, "--exclude", "made.tar", *what], check=True
    )
    assert read(path.read_bytes()) == {"model/variables/data": b"12345"}


def test_the_one_folder_that_all_is_in_is_found(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of(MEMBERS))
    with open_tar(path) as archive:
        assert archive.root == "a/"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (tarfile.SYMTYPE, "link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "pipe"),
        (tarfile.GNUTYPE_SPARSE, "sparse"),
        (b"V", "not taken"),
        (b"\xff", "not taken"),
    ],
)
def test_what_is_no_file_is_refused(kind, reason, refusal):
    data = tar_of({"a": info("a", kind=kind)}, form=tarfile.GNU_FORMAT)
    assert reason in refusal(data, UnsafeFile)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_link_with_a_long_target_is_refused(form, refusal):
    entry = info("a", kind=tarfile.SYMTYPE, linkname="x/" * 40)
    assert refusal(tar_of({"a": entry}, form=form), UnsafeFile)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../a",
        "a/../../b",
        "a/./b",
        "a//b",
        "C:/a",
        "a\\b",
        "a\x1b[31m",
        "",
        ".",
        "..",
    ],
)
def test_name_that_leaves_the_folder_is_refused(name, refusal):
    assert refusal(tar_of({name: info(name)}), UnsafeFile)


def test_name_in_an_extension_is_checked_too(refusal):
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        refusal(tar_of({"x": info("../" * 50 + "b")}, form=form), UnsafeFile)


def test_two_members_of_one_name_are_refused(refusal):
    once = tar_of({"a": b"1"})[:1024]
    for second in ("a", "A", "./a"):
        assert "same name" in refusal(once + tar_of({second: b"2"}), UnsafeFile)


def test_file_that_is_a_folder_to_another_is_refused(refusal):
    assert "should be its folder" in refusal(tar_of({"a": b"1", "a/b/c": b"2"}), UnsafeFile)


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ({"GNU.sparse.major": "1"}, "not taken"),
        ({"linkpath": "/etc"}, "not taken"),
        ({"size": "-1"}, "not taken"),
        ({"hdrcharset": "BINARY"}, "not taken"),
        ({"size": "4"}, "two sizes"),
    ],
)
def test_extension_that_readers_differ_in_is_refused(records, reason, refusal):
    entry = info("a", 5, pax_headers=records)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(entry, io.BytesIO(b"12345"))
    assert reason in refusal(buffer.getvalue(), UnsafeFile)


def test_extension_for_all_members_is_refused(refusal):
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"path": "b"}
    ) as archive:
        archive.addfile(info("a"))
    assert "all its members" in refusal(buffer.getvalue(), UnreadableFile)


def test_extensions_that_say_nothing_of_the_bytes_are_passed_over(read):
    entry = info("a", 1, pax_headers={"SCHILY.xattr.user.x": "1", "mtime": "1.5", "comment": "c"})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(entry, io.BytesIO(b"1"))
    assert read(buffer.getvalue()) == {"a": b"1"}


def test_two_long_names_for_one_member_are_refused(refusal):
    name = tar_of({"n" * 120: b""}, form=tarfile.GNU_FORMAT)
    assert "two names" in refusal(name[:1024] + name, UnreadableFile)


def test_header_is_checked(refusal):
    data = tar_of({"a": b"1"})
    assert "checksum" in refusal(b"b" + data[1:], UnreadableFile)
    assert "where a number should be" in refusal(changed(data, 124, b"1x"), UnreadableFile)
    assert "no tar archive" in refusal(changed(data, 257, b"USTAR"), UnreadableFile)
    assert "it is a link" in refusal(changed(data, 157, b"x"), UnsafeFile)


def test_archive_cut_short_is_refused(refusal):
    data = tar_of(MEMBERS).rstrip(b"\0")
    for length in (0, 1, 511, 512, 513, 1024, 1536, len(data)):
        assert refusal(data[:length], TruncatedFile)
    packed = gzip.compress(tar_of(MEMBERS))
    for length in (2, 10, len(packed) // 2, len(packed) - 1):
        assert refusal(packed[:length], TruncatedFile)


def test_what_is_hidden_behind_the_end_is_refused(refusal):
    data = tar_of(MEMBERS)
    assert "hidden" in refusal(data + b"x", UnreadableFile)
    assert "follows behind" in refusal(gzip.compress(data) + b"x", UnreadableFile)
    assert "follows behind" in refusal(gzip.compress(data) * 2, UnreadableFile)


def test_size_in_another_base_is_read_as_a_size(refusal):
    data = changed(tar_of({"a": b"1"}), 124, b"\x80" + bytes(6) + (2**39).to_bytes(5, "big"))
    assert str(2**39) in refusal(data, ArchiveTooLarge)
    data = changed(tar_of({"a": b"1"}), 124, b"\xff" * 12)
    assert "number should be" in refusal(data, UnreadableFile)


@pytest.mark.parametrize(
    "limits", [{"member_bytes": 4000}, {"total_bytes": 5000}, {"member_count": 0}]
)
def test_archive_that_is_too_large_is_refused(limits, refusal):
    assert refusal(tar_of(MEMBERS), ArchiveTooLarge, **limits)


def test_bomb_is_refused_while_it_is_unpacked(refusal):
    data = gzip.compress(tar_of({"zeros": bytes(30_000_000)}))
    assert "compression ratio" in refusal(data, ArchiveTooLarge)
    assert "unpacked bytes" in refusal(data, ArchiveTooLarge, total_bytes=2**20, ratio=10**6)


def test_damaged_gzip_is_refused(refusal):
    data = bytearray(gzip.compress(tar_of({"a": os.urandom(5000)})))
    data[-6] ^= 1
    assert refusal(bytes(data), UnreadableFile)
