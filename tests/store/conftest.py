"""A migrated, empty database for each test: on SQLite, and again on PostgreSQL."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from store.session import make_engine
from store.settings import StoreSettings
from store.tables import Base
from tests.servers import PostgresServer


@pytest.fixture(scope="session")
def postgres_engine(postgres: PostgresServer) -> Iterator[Engine]:
    """One database for all tests, for making one takes as long as ten of them."""
    engine = make_engine(StoreSettings(database_url=postgres.new_migrated_database()))
    yield engine
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(
    request: pytest.FixtureRequest, tmp_path: Path, sqlite_template: Path
) -> Iterator[Engine]:
    """A migrated, empty database."""
    if request.param == "postgresql":
        engine: Engine = request.getfixturevalue("postgres_engine")
        with engine.begin() as connection:
            connection.execute(text(f"TRUNCATE {', '.join(Base.metadata.tables)}"))
        yield engine
        return
    path = tmp_path / "secateur.db"
    shutil.copy(sqlite_template, path)
    engine = make_engine(StoreSettings(database_url=f"sqlite:///{path}"))
    yield engine
    engine.dispose()
