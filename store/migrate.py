"""The database brought up to date."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from store.session import read_only

_ROOT = Path(__file__).parent.parent


def migrations_of(database_url: str) -> Config:
    """Alembic's configuration for one database."""
    config = Config(_ROOT / "alembic.ini")
    config.attributes["database_url"] = database_url
    return config


def migrate_to_head(database_url: str) -> None:
    """Run every migration that this database has not seen. Safe to call from several processes."""
    command.upgrade(migrations_of(database_url), "head")


def check_is_at_head(engine: Engine) -> None:
    """Raise `OSError` if the database does not answer, or has not seen all migrations."""
    head = _head()
    try:
        with read_only(engine).connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
    except SQLAlchemyError as error:
        raise ConnectionError("the database does not answer") from error
    if current != head:
        raise ConnectionError(f"the database is at migration {current}, not {head}")


@cache
def _head() -> str | None:
    return ScriptDirectory(str(_ROOT / "migrations")).get_current_head()
