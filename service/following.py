"""Answering whoever follows a job or a sweep."""

from collections.abc import Callable
from http import HTTPStatus

from starlette.responses import Response

from secateur.jobs import Job
from secateur.sweeps import Sweep
from service.conditions import is_match
from service.messages import Messages
from service.representations import document_etag, json_response
from service.settings import ServiceSettings
from service.waiting import document_when

Followed = Job | Sweep


async def followed(
    get: Callable[[str], Followed],
    document_id: str,
    messages: Messages,
    settings: ServiceSettings,
    *,
    wait_s: float,
    if_none_match: str | None,
) -> Response:
    """The document once there is news of it, or after a while; 304 if there is none.

    News is another `ETag` than the caller has, or without one that it has ended.

    Raises:
        NotFound: There is no such thing, or no longer.
    """

    def is_news(document: Followed) -> bool:
        if if_none_match is not None:
            return not is_match(if_none_match, document_etag(document))
        return document.state.is_final

    document = await document_when(
        get,
        document_id,
        messages,
        is_awaited=is_news,
        wait_s=min(wait_s, settings.wait_max_s),
    )
    etag = document_etag(document)
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if not document.state.is_final:
        headers["Retry-After"] = str(settings.retry_after_s)
    if is_match(if_none_match, etag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return json_response(document, headers=headers)
