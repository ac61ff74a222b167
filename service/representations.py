"""Jobs as bytes."""

import hashlib
from collections.abc import Mapping
from http import HTTPStatus

from pydantic import BaseModel
from starlette.responses import Response

from secateur.jobs import Job


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


def job_etag(job: Job) -> str:
    """Strong: equal bytes, equal tag."""
    return f'"{hashlib.sha256(job.model_dump_json().encode()).hexdigest()[:32]}"'
