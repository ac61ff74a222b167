"""A file from a stream of bytes: measured, hashed, checked, and only then kept."""

import errno
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from anyio.to_thread import run_sync

from formats.errors import FormatError
from service.errors import ChecksumMismatch, FileRefused, OutOfSpace, UploadTooLarge
from store.blobs import CHUNK_BYTES, BlobStore, BlobWriter

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True)
class Upload:
    """A file on its way, and what was said of it before its first byte."""

    chunks: AsyncIterable[bytes]
    filename: str | None
    announced_bytes: int | None
    announced_sha256: str | None


@dataclass(frozen=True)
class Received:
    """A file that has arrived whole, and is nobody's yet."""

    writer: BlobWriter
    sha256: str
    size_bytes: int


@asynccontextmanager
async def received(
    upload: Upload, blobs: BlobStore, *, limit_bytes: int
) -> AsyncIterator[Received]:
    """Write a stream to a file that is gone at the end unless it was committed.

    If the stream raises, for the client went away, nothing is left.

    Raises:
        UploadTooLarge: It is larger than `limit_bytes`; at once, if its size was announced.
        ChecksumMismatch: What came is not what was announced.
        OutOfSpace: It does not fit on the disk.
    """
    if upload.announced_bytes is not None and upload.announced_bytes > limit_bytes:
        raise UploadTooLarge(limit_bytes=limit_bytes)
    with _full_disk_told(), await run_sync(blobs.writer) as writer:
        sha256 = await _write_all(upload.chunks, writer, limit_bytes=limit_bytes)
        announced = upload.announced_sha256
        if announced is not None and announced != sha256:
            raise ChecksumMismatch(announced=announced, received=sha256)
        yield Received(writer, sha256, writer.size_bytes)


@contextmanager
def refusals_told() -> Iterator[None]:
    """Give the caller the reason for which a file is not read."""
    try:
        yield
    except FormatError as error:
        raise FileRefused(error.code, error.detail) from error


@contextmanager
def _full_disk_told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise OutOfSpace from error
        raise


async def _write_all(chunks: AsyncIterable[bytes], writer: BlobWriter, *, limit_bytes: int) -> str:
    """Write in pieces that are worth a change of threads; give the sha256."""
    pending = bytearray()
    received_bytes = 0
    async for chunk in chunks:
        received_bytes += len(chunk)
        if received_bytes > limit_bytes:
            raise UploadTooLarge(limit_bytes=limit_bytes)
        pending += chunk
        if len(pending) >= CHUNK_BYTES:
            await run_sync(writer.write, bytes(pending))
            pending.clear()
    await run_sync(writer.write, bytes(pending))
    return await run_sync(writer.seal)
