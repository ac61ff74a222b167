"""Files on their way to the service, and back."""

import base64
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from secateur.errors import ConnectionFailed, DownloadCorrupt
from secateur.jobs import Artifact
from secateur.transport import Request, Transport

CHUNK_BYTES = 1 << 20

OnBytes = Callable[[int, int], None]
"""Called with the bytes that are done, and all there are."""


@dataclass(frozen=True)
class Source:
    """Bytes to upload, which can be read as often as needed."""

    name: str | None
    size_bytes: int
    sha256: str
    chunks: Callable[[], Iterator[bytes]]

    @property
    def headers(self) -> dict[str, str]:
        """What the service checks the bytes against."""
        digest = base64.b64encode(bytes.fromhex(self.sha256)).decode()
        return {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(self.size_bytes),
            "Repr-Digest": f"sha-256=:{digest}:",
        }

    def counted(self, on_bytes: OnBytes) -> Iterator[bytes]:
        """The bytes, with a call after each piece that was taken."""
        done = 0
        for chunk in self.chunks():
            yield chunk
            done += len(chunk)
            on_bytes(done, self.size_bytes)


def source_of(content: Path | bytes) -> Source:
    """A file, or bytes, ready to be sent."""
    if isinstance(content, bytes):
        return Source(
            name=None,
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            chunks=lambda: _pieces(content),
        )
    return Source(
        name=content.name,
        size_bytes=content.stat().st_size,
        sha256=_sha256_of(content).hexdigest(),
        chunks=lambda: _file_chunks(content),
    )


def download(transport: Transport, artifact: Artifact, path: Path, on_bytes: OnBytes) -> None:
    """Download an artifact to `path`: the whole file, or none.

    What arrived before a connection broke is kept beside `path`, and the next call goes on there.

    Raises:
        DownloadCorrupt: What arrived is not what the service announced.
        ConnectionFailed: The connection broke again and again, without a byte between.
    """
    partial = path.with_name(f".{path.name}.{artifact.sha256[:16]}.part")
    digest = _sha256_of(partial) if partial.exists() else hashlib.sha256()
    done = partial.stat().st_size if partial.exists() else 0
    with partial.open("ab") as file:
        while done < artifact.size_bytes:
            before = done
            try:
                for chunk in _rest(transport, artifact, start=done):
                    file.write(chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    on_bytes(done, artifact.size_bytes)
            except httpx.TransportError as error:
                if done == before:
                    raise ConnectionFailed(transport.url, type(error).__name__) from error
        file.flush()
        os.fsync(file.fileno())
    if digest.hexdigest() != artifact.sha256 or done != artifact.size_bytes:
        partial.unlink()
        raise DownloadCorrupt(path, expected=artifact.sha256, actual=digest.hexdigest())
    partial.replace(path)


def _rest(transport: Transport, artifact: Artifact, *, start: int) -> Iterator[bytes]:
    """The artifact's bytes from `start` on."""
    etag = f'"{artifact.sha256}"'
    headers = {"Range": f"bytes={start}-", "If-Range": etag} if start else {}
    request = Request(
        method="GET",
        path=f"/v1/artifacts/{artifact.id}",
        query={},
        # Compressed on the way, its positions would not be the file's.
        headers={"Accept-Encoding": "identity", **headers},
        body=lambda: b"",
        is_repeatable=True,
    )
    with transport.stream(request) as response:
        skip = 0 if response.status_code == httpx.codes.PARTIAL_CONTENT else start
        # As they come: what waits for a whole chunk is lost when the connection breaks.
        for chunk in response.iter_bytes():
            yield chunk[skip:]
            skip = max(0, skip - len(chunk))


def _pieces(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), CHUNK_BYTES):
        yield content[start : start + CHUNK_BYTES]


def _file_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _sha256_of(path: Path) -> "hashlib._Hash":
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")
