"""Blobs as files of one folder."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from store.blobs import Digest
from store.errors import BlobNotFound, DigestMismatch


class FileBlobs:
    """A `BlobStore` on a local or shared file system.

    ::

        blobs/ab/ab12...   a blob: its name is its sha256, its first two letters the folder
        unfinished/        files being written; in the same file system, so commit is a rename
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._blobs = root / "blobs"
        self._unfinished = root / "unfinished"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._unfinished.mkdir(exist_ok=True)

    def writer(self) -> "FileBlobWriter":
        return FileBlobWriter(self, self._unfinished)

    def contains(self, digest: str) -> bool:
        return self.place(Digest(digest)).is_file()

    def open(self, digest: str) -> BinaryIO:
        try:
            return self.place(Digest(digest)).open("rb")
        except FileNotFoundError as error:
            raise BlobNotFound(digest) from error

    def path(self, digest: str) -> Path:
        path = self.place(Digest(digest))
        if not path.is_file():
            raise BlobNotFound(digest)
        return path

    def delete(self, digest: str) -> None:
        self.place(Digest(digest)).unlink(missing_ok=True)

    def digests(self) -> Iterator[str]:
        for path in self._blobs.glob("*/*"):
            yield path.name

    def stored_at(self, digest: str) -> datetime:
        try:
            return _changed_at(self.place(Digest(digest)))
        except FileNotFoundError as error:
            raise BlobNotFound(digest) from error

    def abort_stale(self, before: datetime) -> int:
        count = 0
        for path in self._unfinished.iterdir():
            try:
                if _changed_at(path) < before:
                    path.unlink()
                    count += 1
            except FileNotFoundError:  # Its writer finished just now.
                continue
        return count

    def check(self) -> None:
        with tempfile.TemporaryFile(dir=self._unfinished) as file:
            file.write(b"\0")

    def place(self, digest: Digest) -> Path:
        """Where the blob is, or would be."""
        return self._blobs / digest[:2] / digest


class FileBlobWriter:
    """A `BlobWriter` into a temporary file, hashing as it goes."""

    def __init__(self, blobs: FileBlobs, folder: Path) -> None:
        self._blobs = blobs
        self._hash = hashlib.sha256()
        self._size_bytes = 0
        descriptor, name = tempfile.mkstemp(dir=folder)
        self._path = Path(name)
        self._file = os.fdopen(descriptor, "wb")

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def path(self) -> Path:
        return self._path

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._hash.update(chunk)
        self._size_bytes += len(chunk)

    def seal(self) -> str:
        if not self._file.closed:
            # The bytes reach the disk before the name does: no blob is ever half there.
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        return self._hash.hexdigest()

    def commit(self, expected_sha256: str | None = None) -> str:
        actual = self.seal()
        if expected_sha256 is not None and expected_sha256 != actual:
            self.abort()
            raise DigestMismatch(expected=expected_sha256, actual=actual)
        target = self._blobs.place(Digest(actual))
        target.parent.mkdir(exist_ok=True)
        # Over a blob with the same bytes too: it is as good, and counts as stored now.
        os.utime(self._path)
        self._path.chmod(0o444)
        self._path.replace(target)
        _sync_folder(target.parent)
        return actual

    def abort(self) -> None:
        self._path.unlink(missing_ok=True)
        # Closing writes what is left in the buffer, which fails on a full disk. It closes still.
        with suppress(OSError):
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()


def _changed_at(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
