"""A service's own database: SQLite in a file by default, PostgreSQL by URL; migrated at start.

SQLite transactions begin as writers (`BEGIN IMMEDIATE`), so that reading rows and then writing them can never
meet "database is locked" half-way; on PostgreSQL the services' row locks do the same work.

Only services that own data import this; gateways and workers never touch a database.
"""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, DateTime, Dialect, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.types import TypeDecorator

DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
# What is deleted must be gone from the file too (a caller's words), hence secure_delete.
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "foreign_keys=ON", "busy_timeout=10000")
CONSTRAINT_NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time with its zone, which SQLite would drop."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """In UTC, always."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """With its zone, always."""
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)


def open_engine(url: str) -> AsyncEngine:
    """Connect lazily to `url`; the folder of a SQLite file is made.

    Raises:
        sqlalchemy.exc.ArgumentError: it is not a database URL.
        ValueError: it names another kind of database.
    """
    parsed = make_url(url)
    kind = parsed.get_backend_name()
    if kind not in DRIVERS:
        raise ValueError(f"database URL of kind {kind!r}: only sqlite and postgresql are supported")
    parsed = parsed.set(drivername=DRIVERS[kind])
    return _sqlite(parsed) if kind == "sqlite" else create_async_engine(parsed, pool_size=10, pool_pre_ping=True)


def _sqlite(url: URL) -> AsyncEngine:
    if url.database:
        Path(url.database).expanduser().parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(url, connect_args={"timeout": 10})

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # transactions are begun below, not by sqlite3
        cursor = connection.cursor()
        for pragma in PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


async def migrate(engine: AsyncEngine, migrations: Path) -> None:
    """Bring the schema up to the newest Alembic script in `migrations`; replicas may run this at once."""
    async with engine.begin() as connection:
        if connection.dialect.name == "postgresql":  # replicas that start together migrate one after the other
            lock = zlib.crc32(migrations.parent.name.encode())
            await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({lock})")
        await connection.run_sync(_upgrade, migrations)


def _upgrade(connection: Connection, migrations: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
