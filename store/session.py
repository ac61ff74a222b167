"""Connections and transactions."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.engine.url import URL, make_url
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from store.settings import StoreSettings

_READ_ONLY = "secateur_read_only"


def make_engine(settings: StoreSettings) -> Engine:
    """The engine for `settings.database_url`. The caller disposes of it."""
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, settings)
    return create_engine(
        url,
        # A connection that the server has closed is noticed before it is used, not by a request.
        pool_pre_ping=True,
        pool_size=settings.database_pool_size,
        max_overflow=settings.database_pool_size,
        json_serializer=_as_json,
    )


@contextmanager
def session_scope(engine: Engine) -> Iterator[Session]:
    """One transaction that may write: committed at the end, rolled back if anything is raised."""
    with Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def read_scope(engine: Engine) -> Iterator[Session]:
    """One transaction that only reads: on SQLite it waits for no writer."""
    with Session(read_only(engine), expire_on_commit=False) as session:
        yield session


def read_only(engine: Engine) -> Engine:
    """The same engine, whose transactions only read."""
    return engine.execution_options(**{_READ_ONLY: True})


def _as_json(document: Any) -> str:
    """JSON, or a `ValueError`: NaN is none, though Python writes it and SQLite keeps it."""
    return json.dumps(document, allow_nan=False)


def _sqlite_engine(url: URL, settings: StoreSettings) -> Engine:
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url,
        pool_size=settings.database_pool_size,
        max_overflow=settings.database_pool_size,
        connect_args={"timeout": settings.database_lock_wait_s},
        json_serializer=_as_json,
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        assert isinstance(connection, sqlite3.Connection)
        # The driver's own BEGIN comes too late and is deferred; _begin below says it instead.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that starts as a reader and then writes fails at once, without waiting, when
        # another has written in between. A writer says so at its start, and waits for its turn.
        is_reading = connection.get_execution_options().get(_READ_ONLY, False)
        connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")

    return engine
