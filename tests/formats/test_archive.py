"""The rules for zip archives: what two readers could read in two ways is refused."""

import io
import stat
import struct
import zipfile

import pytest

from formats.archive import Archive, Limits, open_archive
from formats.errors import (
    ArchiveTooLarge,
    FormatError,
    TruncatedFile,
    UnreadableFile,
    UnsafeFile,
)

CENTRAL = b"PK\x01\x02"
LOCAL = b"PK\x03\x04"


def archive_of(members, *, method=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def read(data, **limits):
    """Check an archive and read all of it."""
    with Archive(io.BytesIO(data), limits=Limits(**limits)) as archive:
        return {name: archive.read(name, max_bytes=2**30) for name in archive.members}


def refusal(data, **limits):
    with pytest.raises(FormatError) as error:
        read(data, **limits)
    return error.value


def test_plain_archive_is_read(tmp_path):
    members = {"a/one": b"1", "a/two": b"2" * 5000}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert read(archive_of(members, method=method)) == members
    path = tmp_path / "plain.zip"
    path.write_bytes(archive_of(members))
    with open_archive(path) as archive:
        assert archive.root == "a/"
        one = archive.members["a/one"]
        assert path.read_bytes()[one.offset : one.offset + one.size_bytes] == b"1"


def test_archive_with_zip64_records_is_read():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("a", "w", force_zip64=True) as out:
        out.write(b"12345")
    assert read(buffer.getvalue()) == {"a": b"12345"}


def test_archive_that_was_written_as_a_stream_is_read():
    class Stream(io.RawIOBase):
        def __init__(self):
            self.data = b""

        def writable(self):
            return True

        def write(self, data):
            self.data += bytes(data)
            return len(data)

    stream = Stream()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a", b"12345")
        archive.writestr("b", b"678")
    assert read(stream.data) == {"a": b"12345", "b": b"678"}


def test_archive_with_a_zip64_directory_is_read(monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    members = {"a": b"1", "b": b"2", "c": b"3"}
    data = archive_of(members)
    assert b"PK\x06\x06" in data
    assert read(data) == members
    assert isinstance(refusal(data, member_count=2), ArchiveTooLarge)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../up",
        "a/../../up",
        "a/./b",
        "a//b",
        "C:/windows",
        "a\\b",
        "a\nb",
        "folder/",
        "\u202eexe",
    ],
)
def test_name_that_leaves_its_folder_is_refused(name):
    assert isinstance(refusal(archive_of({name: b"x"})), UnsafeFile)


def test_name_with_a_zero_byte_is_refused():
    data = archive_of({"abXcd": b"x"}).replace(b"abXcd", b"ab\x00cd")
    assert isinstance(refusal(data), UnsafeFile)


def test_member_given_twice_is_refused():
    data = archive_of({"a": b"1", "b": b"2"}).replace(b"b", b"a")
    assert "same name" in str(refusal(data))


def test_names_that_differ_in_case_alone_are_refused():
    assert "same name" in str(refusal(archive_of({"a": b"1", "A": b"2"})))


def test_link_is_refused():
    buffer = io.BytesIO()
    entry = zipfile.ZipInfo("link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    assert "link" in str(refusal(buffer.getvalue()))


def test_encrypted_member_is_refused():
    data = bytearray(archive_of({"a": b"1"}))
    for magic, offset in ((LOCAL, 6), (CENTRAL, 8)):
        data[data.index(magic) + offset] |= 1
    assert "encrypted" in str(refusal(bytes(data)))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression_is_refused(method):
    assert isinstance(refusal(archive_of({"a": b"1" * 100}, method=method)), UnsafeFile)


def test_bomb_is_refused_before_it_is_unpacked():
    data = archive_of({"a": bytes(20 * 2**20)}, method=zipfile.ZIP_DEFLATED)
    assert "compression ratio" in str(refusal(data))


@pytest.mark.parametrize("limit", ["member_bytes", "total_bytes"])
def test_archive_beyond_a_limit_is_refused(limit):
    assert isinstance(refusal(archive_of({"a": b"12", "b": b"34"}), **{limit: 1}), ArchiveTooLarge)


def test_member_larger_than_asked_for_is_not_read():
    with (
        Archive(io.BytesIO(archive_of({"a": b"1234"}))) as archive,
        pytest.raises(ArchiveTooLarge),
    ):
        archive.read("a", max_bytes=3)


def test_size_that_lies_is_found_when_it_is_unpacked():
    data = bytearray(archive_of({"a": b"1" * 1000}, method=zipfile.ZIP_DEFLATED))
    for magic, offset in ((LOCAL, 22), (CENTRAL, 24)):
        struct.pack_into("<L", data, data.index(magic) + offset, 10)
    assert isinstance(refusal(bytes(data)), UnreadableFile)


def test_changed_bytes_are_found_by_their_checksum():
    data = bytearray(archive_of({"a": b"honest"}))
    data[data.index(b"honest")] = 0
    assert "damaged" in str(refusal(bytes(data)))


@pytest.mark.parametrize(
    ("offset", "value"), [(6, 0x800), (8, 8), (14, 1), (18, 1), (22, 1)], ids=str
)
def test_member_that_its_header_and_the_directory_describe_differently_is_refused(offset, value):
    data = bytearray(archive_of({"a": b"12345"}))
    struct.pack_into("<H", data, data.index(LOCAL) + offset, value)
    assert "disagree" in str(refusal(bytes(data)))


def test_member_with_another_name_in_its_own_header_is_refused():
    data = archive_of({"inner": b"12345"}).replace(b"inner", b"other", 1)
    assert "disagree" in str(refusal(data))


def test_two_names_for_the_same_bytes_are_refused():
    data = bytearray(archive_of({"a": b"12345", "b": b"12345"}))
    second = data.index(CENTRAL, data.index(CENTRAL) + 1)
    # The second entry of the directory points to the first member.
    struct.pack_into("<L", data, second + 42, 0)
    assert isinstance(refusal(bytes(data)), UnsafeFile)


def test_member_inside_the_bytes_of_another_is_refused():
    inner = archive_of({"b": b"secret"})
    inner_local = inner[: inner.index(CENTRAL)]
    data = bytearray(archive_of({"a": inner_local, "b": b"secret"}))
    second = data.index(CENTRAL, data.index(CENTRAL) + 1)
    struct.pack_into("<L", data, second + 42, data.index(inner_local, 1))
    assert "overlaps" in str(refusal(bytes(data)))


def moved(data, by):
    """Move everything but the first member's bytes, as if ``by`` bytes stood before it."""
    changed = bytearray(by + data)
    shift = len(by)
    position = changed.index(CENTRAL)
    end = changed.index(b"PK\x05\x06")
    while changed[position : position + 4] == CENTRAL:
        (old,) = struct.unpack_from("<L", changed, position + 42)
        struct.pack_into("<L", changed, position + 42, old + shift)
        name, extra, comment = struct.unpack_from("<3H", changed, position + 28)
        position += 46 + name + extra + comment
    (directory,) = struct.unpack_from("<L", changed, end + 16)
    struct.pack_into("<L", changed, end + 16, directory + shift)
    return bytes(changed)


def test_bytes_before_the_first_member_are_refused():
    data = archive_of({"a": b"12345"})
    assert isinstance(refusal(b"#!/bin/sh\n" + data), UnreadableFile)
    assert isinstance(refusal(moved(data, LOCAL + b"hidden")), UnsafeFile)


def test_bytes_between_members_and_directory_are_refused():
    data = archive_of({"a": b"12345"})
    start, end = data.index(CENTRAL), data.index(b"PK\x05\x06")
    hidden = bytearray(data[:start] + b"hide" + data[start:])
    struct.pack_into("<L", hidden, end + 4 + 16, start + 4)
    assert "hidden" in str(refusal(bytes(hidden)))


@pytest.mark.parametrize("tail", [b"more", b"\x00" * 30])
def test_bytes_after_the_directory_are_refused(tail):
    assert isinstance(refusal(archive_of({"a": b"1"}) + tail), TruncatedFile)


def test_comment_is_refused():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", b"1")
        archive.comment = b"PK\x05\x06"
    assert isinstance(refusal(buffer.getvalue()), FormatError)


def test_count_of_members_that_lies_is_refused():
    data = bytearray(archive_of({"a": b"1", "b": b"2"}))
    end = data.index(b"PK\x05\x06")
    struct.pack_into("<2H", data, end + 8, 1, 1)
    assert isinstance(refusal(bytes(data)), UnreadableFile)


def test_every_way_to_cut_an_archive_short_is_refused():
    data = archive_of({"a": b"12345", "b/c": b"6"}, method=zipfile.ZIP_DEFLATED)
    for length in range(len(data)):
        refusal(data[:length])


def test_zip64_record_beyond_every_file_is_refused(monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 0)
    data = bytearray(archive_of({"a": b"1"}))
    struct.pack_into("<Q", data, data.index(b"PK\x06\x07") + 8, 2**63)
    assert isinstance(refusal(bytes(data)), UnreadableFile)


def test_file_that_is_no_archive_is_unreadable():
    assert isinstance(refusal(b"hello"), UnreadableFile)
    assert isinstance(refusal(b""), UnreadableFile)


def with_a_folder(name="a/", data=b"", mode=stat.S_IFDIR):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        archive.writestr(entry, data)
        archive.writestr("a/one", b"1")
    return buffer.getvalue()


def test_entries_of_folders_are_no_members_where_they_are_allowed():
    with Archive(io.BytesIO(with_a_folder()), allow_folders=True) as archive:
        assert list(archive.members) == ["a/one"]
        assert archive.root == "a/"
    assert isinstance(refusal(with_a_folder()), UnsafeFile)


@pytest.mark.parametrize(
    "folder",
    [
        {"data": b"x"},
        {"mode": stat.S_IFLNK},
        {"mode": stat.S_IFREG},
        {"name": "../"},
        {"name": "/"},
        {"name": "a//"},
    ],
)
def test_folder_that_is_none_is_refused(folder):
    with pytest.raises(UnsafeFile):
        Archive(io.BytesIO(with_a_folder(**folder)), allow_folders=True)
