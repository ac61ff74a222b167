"""For those who run the service, and for programs that watch it."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import PlainTextResponse

import secateur
from secateur.schema import Output
from service.dependencies import ServicesDependency
from service.errors import ErrorCodeNotFound, NotReady
from service.problems import problems
from store.migrate import check_is_at_head

router = APIRouter(tags=["operations"])

_ERRORS_PAGE = Path(__file__).parents[2] / "docs" / "errors.md"


class Health(Output):
    """The service is there."""

    status: str


class Version(Output):
    """What runs here."""

    version: str


@router.get("/healthz", summary="Whether the process lives", response_model=Health)
async def healthz() -> Health:
    """Answers as long as the process can answer at all. Needs no key."""
    return Health(status="ok")


@router.get(
    "/readyz",
    summary="Whether requests can be served",
    response_model=Health,
    responses=problems(NotReady),
)
def readyz(services: ServicesDependency) -> Health:
    """Asks the database, the broker and the blob folder; 503 names what does not work.

    Needs no key.
    """
    checks: dict[str, Callable[[], None]] = {
        "database": lambda: check_is_at_head(services.engine),
        "broker": services.jobs.messages.check,
        "blobs": services.blobs.check,
    }
    failing = [name for name, check in checks.items() if not _passes(check)]
    if failing:
        raise NotReady(failing)
    return Health(status="ok")


@router.get("/version", summary="Which version runs", response_model=Version)
async def version() -> Version:
    """The version of the service. Needs no key."""
    return Version(version=secateur.__version__)


@router.get(
    "/errors/{code}",
    summary="What an error code means",
    response_class=PlainTextResponse,
    responses={
        200: {"description": "Markdown.", "content": {"text/markdown": {}}},
        **problems(ErrorCodeNotFound),
    },
)
def explain_error(code: str) -> PlainTextResponse:
    """What an error is, and what to do: where `type` of a problem leads. Needs no key."""
    section = _error_sections().get(code)
    if section is None:
        raise ErrorCodeNotFound(code)
    return PlainTextResponse(section, media_type="text/markdown")


@cache
def _error_sections() -> dict[str, str]:
    """The sections of docs/errors.md by the code in their heading."""
    chapters = _ERRORS_PAGE.read_text(encoding="utf-8").split("\n## ")
    sections = [section for chapter in chapters for section in chapter.split("\n### `")[1:]]
    return {section.partition("`")[0]: f"### `{section.strip()}\n" for section in sections}


def _passes(check: Callable[[], None]) -> bool:
    try:
        check()
    except OSError:
        return False
    return True
