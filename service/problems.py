"""Errors as answers: RFC 9457 documents, and what the OpenAPI document says of them."""

import json
import logging
from collections.abc import Iterable
from itertools import islice
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from formats.errors import FormatError
from secateur.capabilities import STEPS
from secateur.grids import LISTED
from secateur.problems import FieldProblem, Problem
from service import errors
from service.errors import ServiceError
from service.json_bodies import is_json

logger = logging.getLogger("secateur.service")

MEDIA_TYPE = "application/problem+json"
_MOST_PROBLEMS = 100


def problem_response(error: ServiceError, scope: Scope) -> Response:
    """The answer to a request that ends with this error."""
    problem = Problem(
        type=f"/errors/{error.code}",
        title=error.title,
        status=error.status,
        detail=error.detail,
        instance=scope["path"],
        code=error.code,
        errors=error.errors,
        retryable=error.is_retryable,
        request_id=request_id_of(scope),
    )
    # Escaped to ASCII: what a caller sent is quoted in it, and may be any text at all.
    body = json.dumps(problem.model_dump(mode="json")).encode()
    return Response(body, status_code=error.status, headers=error.headers, media_type=MEDIA_TYPE)


def request_id_of(scope: Scope) -> str:
    request_id: str = scope["state"]["request_id"]
    return request_id


async def on_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return problem_response(error, request.scope)


async def on_database_error(request: Request, error: Exception) -> Response:
    """The database is down, locked for too long, full, or not migrated."""
    logger.error(
        "secateur.service.database_failed",
        # The driver's own words: SQLAlchemy's quote the statement, and what callers sent with it.
        extra={"request_id": request_id_of(request.scope), "error": getattr(error, "orig", error)},
    )
    return problem_response(errors.NotReady(["database"]), request.scope)


async def on_invalid_request(request: Request, error: Exception) -> Response:
    """What FastAPI found wrong with a request, as ours."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    media_type = request.headers.get("content-type", "")
    if any(_is_unread_body(each) for each in found) and not is_json(media_type):
        unsupported = errors.MediaTypeUnsupported(media_type, allowed="application/json")
        return problem_response(unsupported, request.scope)
    return problem_response(errors.RequestInvalid(field_problems(found)), request.scope)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """What Starlette answers by itself, as ours."""
    assert isinstance(error, HTTPException)
    ours: ServiceError
    if error.status_code == errors.MethodNotAllowed.status:
        ours = errors.MethodNotAllowed(request.method, allowed=_allowed(request))
    elif error.status_code == errors.NotFound.status:
        ours = errors.RouteNotFound()
    else:
        problem = FieldProblem(pointer="", code="malformed", detail=str(error.detail))
        ours = errors.RequestInvalid([problem])
    return problem_response(ours, request.scope)


def _allowed(request: Request) -> str:
    """The methods of all routes of this path; Starlette names those of the first one alone."""
    methods = {
        method
        for route in (*request.app.state.routes, *request.app.routes)
        if isinstance(route, Route) and route.path_regex.match(request.url.path)
        for method in route.methods or ()
    }
    return ", ".join(sorted(methods))


def field_problems(found: Iterable[Any]) -> list[FieldProblem]:
    """Pydantic's findings, each with a JSON pointer into the body, or `query:name`.

    Not more than anybody reads, so that no answer is ten times its request.
    """
    telling = (each for each in found if not _is_echo(each))
    return [_field_problem(each) for each in islice(telling, _MOST_PROBLEMS)]


def _is_echo(found: Any) -> bool:
    """A list is said to be too short as well if all that is in it is wrong."""
    least = found.get("ctx", {}).get("min_length")
    return found["type"] == "too_short" and least is not None and len(found["input"]) >= least


def _field_problem(found: Any) -> FieldProblem:
    place, *path = found["loc"]
    if place == "body":
        # A union's tag is in pydantic's path, and not in the document.
        pointer = "".join(f"/{_escaped(part)}" for part in _without_tags(path))
    else:
        pointer = f"{place}:{'.'.join(str(part) for part in path)}"
    return FieldProblem(pointer=pointer, code=str(found["type"]), detail=_detail(found))


def _detail(found: Any) -> str:
    message = str(found["msg"]).removeprefix("Value error, ")
    value = found.get("input")
    if isinstance(value, str | int | float | bool) and found["type"] != "missing":
        return f"{message}; got {(repr if isinstance(value, str) else str)(value)[:100]}"
    return message


def _without_tags(path: list[str | int]) -> list[str | int]:
    """Drop the tags that pydantic puts after the place of a tagged union."""
    return [
        part
        for before, part in zip(("", *path), path, strict=False)
        if not (isinstance(before, int) and part in STEPS)
        and (before, part) != ("criteria", LISTED)
    ]


def _escaped(part: str | int) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")


def _is_unread_body(found: Any) -> bool:
    return tuple(found["loc"]) == ("body",) and found["type"] != "missing"


UPLOAD_PROBLEMS = (
    errors.RequestInvalid,
    errors.MalformedDigest,
    errors.MediaTypeUnsupported,
    errors.UploadTooLarge,
    errors.ChecksumMismatch,
    errors.FileRefused,
    errors.OutOfSpace,
)
"""How an upload may end, of whatever kind the file is."""


def problems(*kinds: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route that may end with these errors."""
    responses: dict[int | str, dict[str, Any]] = {}
    for status in sorted({kind.status for kind in kinds}):
        of_status = [kind for kind in kinds if kind.status == status]
        said = "\n".join(f"* {_codes(kind)}: {kind.title}." for kind in of_status)
        responses[status.value] = {
            "description": said,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return responses


def _codes(kind: type[ServiceError]) -> str:
    codes = file_codes() if kind is errors.FileRefused else [kind.code]
    return ", ".join(f"`{code}`" for code in codes)


def file_codes() -> list[str]:
    """The codes of all refusals of files."""
    found, kinds = set(), [FormatError]
    while kinds:
        kind = kinds.pop()
        kinds.extend(kind.__subclasses__())
        if "code" in vars(kind):
            found.add(kind.code)
    return sorted(found)
