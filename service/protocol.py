"""HTTP as bytes: what comes before there is a request that could be refused."""

import asyncio
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import HeadTooLarge, RequestMalformed, ServiceError
from service.problems import problem_response
from store.ids import new_id

# More than common proxies take.
HEAD_MAX_BYTES = 64 << 10
HEAD_MAX_S = 30.0


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol, which would keep the head of a request however long it gets.

    The head is all before the body. A stranger without a key can send one: it may not be larger, or
    take longer, than an honest one.
    """

    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(  # type: ignore[override]  # As uvicorn's own.
        self, transport: asyncio.Transport
    ) -> None:
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        head = self._head_timer
        super().data_received(data)
        if head is not None and head is self._head_timer:  # All of it was of one head.
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_MAX_BYTES:
                self._refuse(HeadTooLarge(limit_bytes=HEAD_MAX_BYTES))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin_head()

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        del msg  # The same for everything that is no HTTP.
        self._refuse(RequestMalformed())

    def _begin_head(self) -> None:
        if self._head_timer is None:
            self._head_bytes = 0
            self._head_timer = self.loop.call_later(HEAD_MAX_S, self.transport.close)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, error: ServiceError) -> None:
        """Answer without an app, and hang up: where the next request would begin is unknown."""
        self._end_head()
        response = problem_response(error, {"path": "", "state": {"request_id": new_id("req")}})
        lines = [b"HTTP/1.1 %d %s" % (error.status, HTTPStatus(error.status).phrase.encode())]
        lines += [b"%s: %s" % header for header in response.raw_headers]
        lines += [b"connection: close", b"", bytes(response.body)]
        self.transport.write(b"\r\n".join(lines))
        self.transport.close()
