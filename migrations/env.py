"""How migrations run: all that are due in one transaction, one process at a time."""

from alembic import context
from sqlalchemy import Connection, func, select

from store.session import make_engine
from store.settings import StoreSettings
from store.tables import Base

# Any number, as long as nothing else in this database locks the same.
MIGRATION_LOCK = 0x5EC_A7E_04


def database_settings() -> StoreSettings:
    url = context.config.attributes.get("database_url")
    return StoreSettings() if url is None else StoreSettings(database_url=url)


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        # SQLite cannot change a constraint in place: Alembic copies the table.
        render_as_batch=True,
        # store.session says BEGIN itself, so SQLite too takes a migration back if it fails.
        transactional_ddl=True,
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        context.run_migrations()


def run() -> None:
    engine = make_engine(database_settings())
    try:
        with engine.connect() as connection:
            migrate(connection)
    finally:
        engine.dispose()


if context.is_offline_mode():
    raise SystemExit("migrations/env.py connects to the database: run without --sql")
run()
