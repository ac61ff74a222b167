"""The contract of blob stores, on each of them."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.blobs import CHUNK_BYTES, file_chunks, put
from store.errors import BlobNotFound, DigestMismatch
from store.file_blobs import FileBlobs
from store.memory_blobs import MemoryBlobs

CONTENT = b"some bytes"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
OTHER = hashlib.sha256(b"others").hexdigest()


@pytest.fixture(params=["file", "memory"])
def blobs(request, tmp_path):
    if request.param == "file":
        yield FileBlobs(tmp_path / "blobs")
        return
    memory = MemoryBlobs()
    yield memory
    memory.close()


def content_of(blobs, digest):
    with blobs.open(digest) as file:
        return file.read()


def test_a_blob_is_read_as_it_was_written(blobs):
    assert put(blobs, [b"some ", b"bytes"]) == DIGEST
    assert content_of(blobs, DIGEST) == CONTENT
    assert blobs.path(DIGEST).read_bytes() == CONTENT
    assert blobs.contains(DIGEST)
    assert list(blobs.digests()) == [DIGEST]


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.binary(max_size=20)))
def test_any_cutting_into_chunks_gives_the_same_digest(blobs, chunks):
    whole = b"".join(chunks)
    assert put(blobs, chunks) == hashlib.sha256(whole).hexdigest()


def test_nobody_sees_a_blob_before_its_commit(blobs):
    with blobs.writer() as writer:
        writer.write(CONTENT)
        assert writer.seal() == DIGEST
        assert not blobs.contains(DIGEST)
        assert (writer.size_bytes, writer.path.read_bytes()) == (len(CONTENT), CONTENT)
        assert writer.commit() == DIGEST
    assert blobs.contains(DIGEST)


def test_the_same_bytes_are_one_blob(blobs):
    assert put(blobs, [CONTENT]) == put(blobs, [CONTENT])
    assert list(blobs.digests()) == [DIGEST]
    assert content_of(blobs, DIGEST) == CONTENT


def test_what_was_announced_is_accepted(blobs):
    assert put(blobs, [CONTENT], expected_sha256=DIGEST) == DIGEST


def test_what_was_not_announced_is_refused_and_forgotten(blobs):
    with pytest.raises(DigestMismatch) as caught:
        put(blobs, [CONTENT], expected_sha256=OTHER)
    assert (caught.value.expected, caught.value.actual) == (OTHER, DIGEST)
    assert list(blobs.digests()) == []
    assert blobs.abort_stale(datetime.max.replace(tzinfo=UTC)) == 0


def test_a_writer_that_is_left_without_commit_leaves_nothing(blobs):
    with blobs.writer() as writer:
        writer.write(CONTENT)
    assert list(blobs.digests()) == []
    assert blobs.abort_stale(datetime.max.replace(tzinfo=UTC)) == 0


def test_aborting_after_the_commit_keeps_the_blob(blobs):
    writer = blobs.writer()
    writer.write(CONTENT)
    writer.commit()
    writer.abort()
    assert content_of(blobs, DIGEST) == CONTENT


def test_what_dead_writers_left_is_removed_and_what_lives_stays(blobs):
    writer = blobs.writer()
    writer.write(CONTENT)
    hour = timedelta(hours=1)
    assert blobs.abort_stale(datetime.now(UTC) - hour) == 0
    assert blobs.abort_stale(datetime.now(UTC) + hour) == 1
    writer.abort()


def test_a_deleted_blob_is_gone_and_deleting_again_is_no_error(blobs):
    put(blobs, [CONTENT])
    for _ in range(2):
        blobs.delete(DIGEST)
        assert not blobs.contains(DIGEST)


@pytest.mark.parametrize("digest", [OTHER, "", "..", "../" * 10 + "etc/passwd", DIGEST.upper()])
def test_what_is_no_blob_is_not_found(blobs, digest):
    put(blobs, [CONTENT])
    for method in (blobs.open, blobs.path, blobs.stored_at):
        with pytest.raises(BlobNotFound):
            method(digest)


def test_writing_again_makes_a_blob_young(blobs):
    put(blobs, [CONTENT])
    first = blobs.stored_at(DIGEST)
    put(blobs, [CONTENT])
    assert blobs.stored_at(DIGEST) >= first


def test_aborting_on_a_full_disk_leaves_nothing(tmp_path):
    blobs = FileBlobs(tmp_path / "blobs")
    writer = blobs.writer()
    writer._file.close()
    writer._file = Path("/dev/full").open("wb")  # noqa: SIM115 - The writer closes it.
    writer.write(CONTENT)
    with pytest.raises(OSError, match="No space left"):
        writer.seal()
    writer.abort()
    assert list((tmp_path / "blobs" / "unfinished").iterdir()) == []


def test_a_working_store_says_so(blobs):
    blobs.check()


def test_a_folder_that_is_gone_is_noticed(tmp_path):
    blobs = FileBlobs(tmp_path / "blobs")
    (tmp_path / "blobs" / "unfinished").rmdir()
    with pytest.raises(OSError, match="unfinished"):
        blobs.check()


def test_a_file_is_read_in_pieces(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * (CHUNK_BYTES + 1))
    assert [len(chunk) for chunk in file_chunks(path)] == [CHUNK_BYTES, 1]
