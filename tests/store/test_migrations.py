"""Migrations: there and back, complete, and safe to run twice at once."""

import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from store.migrate import check_is_at_head, migrate_to_head, migrations_of
from store.session import make_engine
from store.settings import StoreSettings
from store.tables import Base

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").new_database()
    return f"sqlite:///{tmp_path / 'empty.db'}"


@pytest.fixture
def empty_engine(database_url):
    engine = make_engine(StoreSettings(database_url=database_url))
    yield engine
    engine.dispose()


def tables(engine):
    return set(inspect(engine).get_table_names()) - {"alembic_version"}


def test_there_is_one_head(database_url):
    assert len(ScriptDirectory.from_config(migrations_of(database_url)).get_heads()) == 1


def test_up_down_and_up_again(database_url, empty_engine):
    config = migrations_of(database_url)
    for _ in range(2):
        command.upgrade(config, "head")
        assert tables(empty_engine) == set(Base.metadata.tables)
        command.downgrade(config, "base")
        assert tables(empty_engine) == set()
    command.upgrade(config, "head")
    assert tables(empty_engine) == set(Base.metadata.tables)


def test_the_migrations_make_the_tables_that_the_code_uses(database_url):
    migrate_to_head(database_url)
    command.check(migrations_of(database_url))


def test_jobs_keep_what_they_made_when_their_table_grows(database_url, empty_engine):
    """On SQLite a table that is copied and dropped takes with it all rows that refer to it."""
    config = migrations_of(database_url)
    command.upgrade(config, "0001")
    job = "'job', 'plan', 'succeeded', 1, 0, '{}', 'sha', 'mdl'"
    moment = "'2026-01-31 12:00:00'"
    with empty_engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO jobs (id, kind, state, attempt, lost_count, spec, spec_sha256, "
                f"model_id, created_at, queued_at) VALUES ({job}, {moment}, {moment})"
            )
        )
        connection.execute(
            text(f"INSERT INTO artifacts VALUES ('art', 'job', 'a', 'b', 1, 'sha', {moment})")
        )
    for _ in range(2):
        command.upgrade(config, "head")
        command.downgrade(config, "0001")
        with empty_engine.begin() as connection:
            assert connection.scalar(text("SELECT count(*) FROM jobs")) == 1
            assert connection.scalar(text("SELECT count(*) FROM artifacts")) == 1


def test_processes_that_migrate_at_once_take_turns(database_url, empty_engine):
    command_line = [sys.executable, "-m", "alembic", "upgrade", "head"]
    environment = {"SECATEUR_DATABASE_URL": database_url, "PYTHONWARNINGS": "error"}
    processes = [subprocess.Popen(command_line, env=environment, cwd=ROOT) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert tables(empty_engine) == set(Base.metadata.tables)


def test_a_database_behind_the_code_is_noticed(database_url, empty_engine):
    with pytest.raises(OSError, match="migration None"):
        check_is_at_head(empty_engine)
    migrate_to_head(database_url)
    check_is_at_head(empty_engine)
