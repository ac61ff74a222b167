"""What happens around every request."""

import logging
import re
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTooLarge, InternalError
from service.problems import problem_response
from store.ids import new_id

logger = logging.getLogger("secateur.service")

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:/+=-]{1,128}")
_CLIENT_CLOSED = 499  # nginx's number for a client that did not wait for the answer.


class RequestContext:
    """Give each request an id, log it, and answer for it if everything else fails."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope))
        # A copy: the server hands the same dictionary to every request of its lifespan.
        scope["state"] = {**scope.get("state", {}), "request_id": request_id}
        started_s = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = status or _CLIENT_CLOSED
        except Exception:  # The one place that catches what nobody expected.
            logger.exception("secateur.service.failed", extra={"request_id": request_id})
            if status:  # Half of an answer is out: ending the connection is all that says so.
                raise
            await problem_response(InternalError(), scope)(scope, receive, send_with_id)
        finally:
            fields = {
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "duration_ms": round((time.perf_counter() - started_s) * 1000, 1),
                "request_id": request_id,
            }
            logger.info("secateur.service.request", extra=fields)


class BodyLimit:
    """Refuse a body that is larger than a request of its kind needs, however it is sent."""

    def __init__(
        self, app: ASGIApp, *, limit_bytes: int, is_upload: Callable[[Scope], bool]
    ) -> None:
        self._app = app
        self._limit_bytes = limit_bytes
        self._is_upload = is_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_upload(scope):
            await self._app(scope, receive, send)
            return
        # Read here and handed on whole: a body of this size fits in memory by definition.
        body = bytearray()
        announced = Headers(scope=scope).get("content-length", "0")
        too_large = announced.isdecimal() and int(announced) > self._limit_bytes
        message: Message = {"type": "http.request", "more_body": True}
        while not too_large and message["type"] == "http.request" and message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
            too_large = len(body) > self._limit_bytes
        if too_large:
            refusal = BodyTooLarge(limit_bytes=self._limit_bytes)
            await problem_response(refusal, scope)(scope, receive, send)
            return
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        await self._app(scope, _replay(bytes(body), receive), send)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body first, and then what comes after it."""
    is_given = False

    async def give() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return give


def _request_id(headers: Headers) -> str:
    """The caller's own id where it is a plain word, or else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else new_id("req")
