"""Blobs: immutable bytes, named by their sha256."""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self, final

from store.errors import BlobNotFound

CHUNK_BYTES = 1 << 20
"""A good size for a piece of a blob: few calls, little memory."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


class BlobWriter(Protocol):
    """Bytes on their way to being a blob. Nobody sees them before `commit`.

    As a context manager it aborts what was not committed.
    """

    @property
    def size_bytes(self) -> int:
        """How much was written so far."""

    @property
    def path(self) -> Path:
        """A local file with all that was written; good between `seal` and `commit`."""

    def write(self, chunk: bytes) -> None:
        """Add bytes. Chunks may have any size."""

    def seal(self) -> str:
        """Say that everything was written, and get the sha256 in hexadecimal."""

    def commit(self, expected_sha256: str | None = None) -> str:
        """Make it a blob, and get its sha256. A blob with the same bytes is kept as it is.

        Raises:
            DigestMismatch: It is not what was expected. It is gone, as after `abort`.
        """

    def abort(self) -> None:
        """Forget what was written. After `commit` this does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class BlobStore(Protocol):
    """Where blobs are kept. A digest in an argument is a sha256 in lower-case hexadecimal."""

    def writer(self) -> BlobWriter:
        """Begin a new blob."""

    def contains(self, digest: str) -> bool:
        """Whether there is such a blob."""

    def open(self, digest: str) -> BinaryIO:
        """Open for reading.

        Raises:
            BlobNotFound: There is no such blob.
        """

    def path(self, digest: str) -> Path:
        """A local file with the blob's bytes, to read and never to write.

        Raises:
            BlobNotFound: There is no such blob.
        """

    def delete(self, digest: str) -> None:
        """Remove a blob; nothing happens if there is none."""

    def digests(self) -> Iterator[str]:
        """Every blob, in any order."""

    def stored_at(self, digest: str) -> datetime:
        """When a blob with these bytes was last committed.

        Raises:
            BlobNotFound: There is no such blob.
        """

    def abort_stale(self, before: datetime) -> int:
        """Remove what writers left behind that died before this time. Gives how many."""

    def check(self) -> None:
        """Raise `OSError` if a blob could not be written now."""


def put(blobs: BlobStore, chunks: Iterable[bytes], *, expected_sha256: str | None = None) -> str:
    """Write a whole blob.

    Raises:
        DigestMismatch: The chunks are not what was expected.
    """
    with blobs.writer() as writer:
        for chunk in chunks:
            writer.write(chunk)
        return writer.commit(expected_sha256)


def file_chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, in pieces."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


@final
class Digest(str):
    """A checked digest: safe to make a path of."""

    __slots__ = ()

    def __new__(cls, digest: str) -> Self:
        if not _DIGEST.fullmatch(digest):
            raise BlobNotFound(digest)
        return super().__new__(cls, digest)
