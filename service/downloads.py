"""Blobs as answers."""

import base64
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import BinaryIO

from anyio.to_thread import run_sync
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from secateur.jobs import Artifact
from service.conditions import ByteRange
from store.blobs import CHUNK_BYTES


class FileResponse(StreamingResponse):
    """A part of an open file; closes the file whatever happens.

    Starlette's own answers with other kinds of documents to bad ranges, knows no `If-None-Match`,
    and goes through a thread for every 64 KiB.
    """

    def __init__(
        self, file: BinaryIO, part: ByteRange, *, status_code: int, headers: Mapping[str, str]
    ) -> None:
        self._file = file
        super().__init__(_chunks(file, part), status_code=status_code, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)


def artifact_etag(artifact: Artifact) -> str:
    """Strong: equal bytes, equal tag."""
    return f'"{artifact.sha256}"'


def artifact_headers(artifact: Artifact) -> dict[str, str]:
    """What is true of the artifact, whatever part of it is asked for."""
    digest = base64.b64encode(bytes.fromhex(artifact.sha256)).decode()
    return {
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
        "Content-Disposition": f'attachment; filename="{_quotable(artifact.name)}"',
        "Content-Type": artifact.media_type,
        "ETag": artifact_etag(artifact),
        "Repr-Digest": f"sha-256=:{digest}:",
        # A file from a user's model is never a page of this site.
        "X-Content-Type-Options": "nosniff",
    }


def not_modified(artifact: Artifact) -> Response:
    headers = artifact_headers(artifact)
    kept = {name: headers[name] for name in ("Cache-Control", "ETag")}
    return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=kept)


def head(artifact: Artifact) -> Response:
    """The answer to HEAD: all headers of the whole, and nothing else."""
    headers = {**artifact_headers(artifact), "Content-Length": str(artifact.size_bytes)}
    return Response(headers=headers)


def download(artifact: Artifact, file: BinaryIO, part: ByteRange | None) -> Response:
    """The answer to GET: the whole, or a part of it."""
    headers = artifact_headers(artifact)
    whole = ByteRange(0, artifact.size_bytes)
    status = HTTPStatus.OK
    if part is not None:
        status = HTTPStatus.PARTIAL_CONTENT
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{artifact.size_bytes}"
    sent = part or whole
    headers["Content-Length"] = str(sent.stop - sent.start)
    return FileResponse(file, sent, status_code=status, headers=headers)


async def _chunks(file: BinaryIO, part: ByteRange) -> AsyncIterator[bytes]:
    await run_sync(file.seek, part.start)
    left = part.stop - part.start
    while left > 0 and (chunk := await run_sync(file.read, min(left, CHUNK_BYTES))):
        left -= len(chunk)
        yield chunk


def _quotable(name: str) -> str:
    """Workers name artifacts plainly; what is not plain all the same cannot end the header."""
    return "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "_" for c in name)
