"""Documents and pictures as bytes."""

import hashlib
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response

from service.picture import Format

CREATED: dict[str, Any] = {
    "description": "Queued. `Location` says where to follow it, `Retry-After` when to ask again.",
    "headers": {
        "Location": {"schema": {"type": "string"}},
        "Retry-After": {"schema": {"type": "integer"}},
        "Idempotency-Replayed": {
            "description": "`true` if this key came before: the answer is the first one's.",
            "schema": {"type": "string"},
        },
    },
}
"""What OpenAPI says of the answer to a request that makes something."""

_MEDIA_TYPES: dict[Format, str] = {"svg": "image/svg+xml", "png": "image/png"}
# A picture that was made from users' words is never a page of this site.
_PICTURE_HEADERS = {
    "Cache-Control": "private, no-cache",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    "X-Content-Type-Options": "nosniff",
}


def json_response(
    document: BaseModel,
    *,
    status_code: int = HTTPStatus.OK,
    headers: Mapping[str, str] | None = None,
) -> Response:
    return Response(
        document.model_dump_json(),
        status_code=status_code,
        headers=headers,
        media_type="application/json",
    )


def picture_response(drawn: bytes, file_format: Format) -> Response:
    return Response(drawn, headers=_PICTURE_HEADERS, media_type=_MEDIA_TYPES[file_format])


def document_etag(document: BaseModel) -> str:
    """Strong: equal bytes, equal tag."""
    return f'"{hashlib.sha256(document.model_dump_json().encode()).hexdigest()[:32]}"'
