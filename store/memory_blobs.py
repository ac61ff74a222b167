"""Blobs in memory, for tests and for trying things out."""

import hashlib
import io
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from store.blobs import Digest
from store.errors import BlobNotFound, DigestMismatch


class MemoryBlobs:
    """A `BlobStore` that forgets. Files appear in a temporary folder when `path` is asked for."""

    def __init__(self) -> None:
        self._blobs: dict[str, tuple[bytes, datetime]] = {}
        self._writers: dict[MemoryBlobWriter, datetime] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="secateur-blobs-")

    def close(self) -> None:
        """Remove the temporary folder."""
        self._folder.cleanup()

    def writer(self) -> "MemoryBlobWriter":
        writer = MemoryBlobWriter(self)
        self._writers[writer] = datetime.now(UTC)
        return writer

    def contains(self, digest: str) -> bool:
        return Digest(digest) in self._blobs

    def open(self, digest: str) -> BinaryIO:
        return io.BytesIO(self._get(digest)[0])

    def path(self, digest: str) -> Path:
        return self.as_file(self._get(digest)[0])

    def delete(self, digest: str) -> None:
        self._blobs.pop(Digest(digest), None)

    def digests(self) -> Iterator[str]:
        yield from list(self._blobs)

    def stored_at(self, digest: str) -> datetime:
        return self._get(digest)[1]

    def abort_stale(self, before: datetime) -> int:
        stale = [writer for writer, begun_at in self._writers.items() if begun_at < before]
        for writer in stale:
            writer.abort()
        return len(stale)

    def check(self) -> None:
        """Memory is always there to be written."""

    def add(self, content: bytes) -> None:
        """Keep these bytes; the writer calls it."""
        digest = hashlib.sha256(content).hexdigest()
        self._blobs[digest] = (content, datetime.now(UTC))

    def forget(self, writer: "MemoryBlobWriter") -> None:
        """Stop counting a writer; the writer calls it."""
        self._writers.pop(writer, None)

    def as_file(self, content: bytes) -> Path:
        """A file in the temporary folder that holds these bytes."""
        path = Path(self._folder.name) / hashlib.sha256(content).hexdigest()
        path.write_bytes(content)
        return path

    def _get(self, digest: str) -> tuple[bytes, datetime]:
        try:
            return self._blobs[Digest(digest)]
        except KeyError:
            raise BlobNotFound(digest) from None


class MemoryBlobWriter:
    """A `BlobWriter` into memory."""

    def __init__(self, blobs: MemoryBlobs) -> None:
        self._blobs = blobs
        self._content = bytearray()

    @property
    def size_bytes(self) -> int:
        return len(self._content)

    @property
    def path(self) -> Path:
        return self._blobs.as_file(bytes(self._content))

    def write(self, chunk: bytes) -> None:
        self._content += chunk

    def seal(self) -> str:
        return hashlib.sha256(self._content).hexdigest()

    def commit(self, expected_sha256: str | None = None) -> str:
        actual = self.seal()
        if expected_sha256 is not None and expected_sha256 != actual:
            self.abort()
            raise DigestMismatch(expected=expected_sha256, actual=actual)
        self._blobs.add(bytes(self._content))
        self._blobs.forget(self)
        return actual

    def abort(self) -> None:
        self._content.clear()
        self._blobs.forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()
