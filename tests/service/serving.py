"""A real HTTP server in a thread, for one app after the other."""

import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from service.protocol import BoundedHttp


class Switch:
    """Serves whichever app is plugged in now."""

    app: ASGIApp

    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: threading.Event) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()


@contextmanager
def served() -> Iterator[Switch]:
    """Serve on a unix socket until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="secateur-http-") as folder:
        switch = Switch(f"{folder}/socket")
        config = uvicorn.Config(
            switch,
            uds=switch.socket_path,
            lifespan="off",
            http=BoundedHttp,
            ws="none",
            log_config=None,
            access_log=False,
        )
        ready = threading.Event()
        server = _Server(config, ready)
        thread = threading.Thread(target=server.run)
        thread.start()
        ready.wait()
        try:
            yield switch
        finally:
            server.should_exit = True
            thread.join()
