"""What holds for every test: a clean environment, and servers to those who ask."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from store.migrate import migrate_to_head
from tests.servers import PostgresServer, postgres_server, valkey_server

# A busy machine is slow, and that is no failure. The same examples every time: a red run is red
# again.
settings.register_profile(
    "unhurried",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("unhurried")

# Tests run side by side: each that takes all cores for its matrices slows all others, and tiny
# ones are the slowest so. Read by PyTorch when it is first imported, here and in child processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests changes them."""
    for name in os.environ:
        if name.startswith("SECATEUR_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server; it makes a database for each who asks."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def valkey_socket() -> Iterator[str]:
    """The path of a Valkey server's unix socket."""
    with valkey_server() as socket:
        yield socket


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite file, to be copied."""
    path = tmp_path_factory.mktemp("template") / "secateur.db"
    migrate_to_head(f"sqlite:///{path}")
    return path
