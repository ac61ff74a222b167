"""What routes are given: services, and parameters that several of them share."""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Query, Request
from sqlalchemy import Engine

from service.errors import MalformedDigest, MediaTypeUnsupported
from service.files import DatasetService, ModelService
from service.jobs import JobService
from service.settings import ServiceSettings
from service.sweeps import SweepService
from service.uploads import Upload
from store.blobs import BlobStore

PAGE_MAX_ROWS = 100
# PostgreSQL knows no text with a zero in it.
NO_ZERO = r"^[^\x00]*$"

_SHA256_MEMBER = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]*):\s*(?:$|,|;)")


@dataclass(frozen=True)
class Services:
    """Everything that a running service is made of."""

    settings: ServiceSettings
    engine: Engine
    blobs: BlobStore
    models: ModelService
    datasets: DatasetService
    jobs: JobService
    sweeps: SweepService


async def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def upload_of(
    request: Request,
    filename: Annotated[
        str | None,
        Query(
            max_length=255,
            pattern=r"^[^\x00-\x1f\x7f/\\]+$",
            description="The file's name, for people to recognize it.",
            examples=["resnet20.pt2"],
        ),
    ] = None,
    repr_digest: Annotated[str | None, Header()] = None,
) -> Upload:
    """A request whose body is the file itself.

    Raises:
        MediaTypeUnsupported: The file is wrapped in a form.
        MalformedDigest: There is a `Repr-Digest`, and no sha-256 in it that can be read.
    """
    media_type = request.headers.get("content-type", "")
    if media_type.lower().startswith("multipart/"):
        raise MediaTypeUnsupported(
            media_type, allowed="the file itself as the body, as application/octet-stream"
        )
    length = request.headers.get("content-length", "")
    return Upload(
        chunks=request.stream(),
        filename=filename,
        announced_bytes=int(length) if length.isdecimal() else None,
        announced_sha256=None if repr_digest is None else _sha256_in(repr_digest),
    )


def _sha256_in(repr_digest: str) -> str:
    """The sha256 in a `Repr-Digest` header (RFC 9530), in hexadecimal."""
    found = _SHA256_MEMBER.search(repr_digest)
    try:
        digest = base64.b64decode(found[1], validate=True) if found else b""
    except binascii.Error:
        digest = b""
    if len(digest) != 32:
        raise MalformedDigest(repr_digest)
    return digest.hex()


ServicesDependency = Annotated[Services, Depends(services_of)]
UploadDependency = Annotated[Upload, Depends(upload_of)]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX_ROWS, description="Rows on the page.")]
Cursor = Annotated[
    str | None,
    Query(max_length=200, description="`next_cursor` of the page before this one."),
]
Sha256Filter = Annotated[
    str | None,
    Query(
        pattern=r"^[0-9a-f]{64}$",
        description="Only the file with this digest: ask before sending it again.",
    ),
]
Wait = Annotated[
    float,
    Query(
        ge=0,
        allow_inf_nan=False,
        description="Seconds to wait for news; more than `limits.wait_s` is cut to it.",
    ),
]
IfNoneMatch = Annotated[str | None, Header(description="An `ETag` that you have.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="Any text of your own that is new for every new request: a UUID.",
        examples=["8f14e45f-ceea-467f-a8f5-0e1d1c1e3f9b"],
    ),
]
UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "description": "The file itself. It is hashed and checked while it streams in.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
