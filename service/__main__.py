"""`python -m service`: serve HTTP until told to stop."""

import asyncio
import resource
import socket
import sys
from contextlib import suppress
from pathlib import Path

import uvicorn

from service.app import create_app
from service.logs import configure_logs
from service.protocol import BoundedHttp
from service.settings import ServiceSettings


class Server(uvicorn.Server):
    """uvicorn, which says where it listens once it does."""

    def __init__(self, config: uvicorn.Config, settings: ServiceSettings) -> None:
        super().__init__(config)
        self._settings = settings

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            announce(self._url(), self._settings.url_file)

    def _url(self) -> str:
        if self._settings.socket_path is not None:
            return f"unix:{self._settings.socket_path}"
        host, port, *_ = self.servers[0].sockets[0].getsockname()
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def announce(url: str, url_file: Path | None) -> None:
    """Tell whoever started the service where it is: a line on standard output, and a file."""
    if url_file is not None:
        # Whole or not at all, for somebody who reads it as soon as it is there.
        unfinished = url_file.with_suffix(".unfinished")
        unfinished.write_text(url)
        unfinished.replace(url_file)
    sys.stdout.write(f"secateur.service.ready url={url}\n")
    sys.stdout.flush()


def main() -> None:
    """Run the service with settings from the environment."""
    settings = ServiceSettings()
    configure_logs()
    _allow_open_files()
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        uds=str(settings.socket_path) if settings.socket_path else None,
        http=BoundedHttp,
        ws="none",
        log_config=None,  # configure_logs did it.
        access_log=False,  # RequestContext writes ours.
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
    )
    asyncio.run(Server(config, settings).serve())


def _allow_open_files() -> None:
    """Take all that we may have: a request that waits is a connection here, and one to Redis."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS says "without limit", and then has one.
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    main()
