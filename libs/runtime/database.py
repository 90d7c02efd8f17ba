"""A service's own database: SQLite in a file by default, PostgreSQL by URL; migrated at start.

SQLite transactions begin as writers (`BEGIN IMMEDIATE`), so that reading rows and then writing them can never
meet "database is locked" half-way; on PostgreSQL the services' row locks do the same work. Sessions from
`reading` write nothing and wait for no writer.

Only services that own data import this; gateways and workers never touch a database.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, DateTime, Dialect, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.types import TypeDecorator

DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
# What is deleted must be gone from the file too (a caller's words), hence secure_delete.
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "foreign_keys=ON")
BUSY_TIMEOUT_S = 3.0  # waiting for another writer; below a tool's deadline, so that there is an answer at all
PROBE_EVERY_S, PROBE_TIMEOUT_S = 2.0, 5.0
READ_ONLY = "callbus_read_only"  # execution option of a connection
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


def masked(url: str) -> str:
    """A database URL for logs: without password and without the query part, which may hold one too."""
    try:
        shown = make_url(url).set(query={})
    except (ArgumentError, ValueError):
        return "(its URL cannot be read)"
    if "@" in (shown.host or ""):  # a password with an unquoted @: part of it was taken for the host
        return f"{shown.drivername}://***@{(shown.host or '').rpartition('@')[2]}/{shown.database or ''}"
    return shown.render_as_string(hide_password=True)


def failed(url: str, problem: Exception) -> OSError:
    """One sentence on why a service cannot go on with its database, without secrets."""
    return OSError(f"database {masked(url)}: {first_line(problem)}")


def first_line(problem: Exception) -> str:
    """What an error says, without the statement and the parameters that SQLAlchemy appends."""
    return str(problem).partition("\n")[0] or type(problem).__name__


def open_engine(url: str) -> AsyncEngine:
    """Connect lazily to `url`; a SQLite file and its folder are made, for the owner's eyes only.

    Raises:
        ValueError: it is not a database URL, or names another kind of database.
        OSError: the file cannot be made.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # theirs repeats parts of the URL, perhaps of the password
        raise ValueError("not a database URL; special characters in a password are written as %40") from None
    kind = parsed.get_backend_name()
    if kind not in DRIVERS:
        raise ValueError(f"database URL of kind {kind!r}: only sqlite and postgresql are supported")
    parsed = parsed.set(drivername=DRIVERS[kind])
    return _sqlite(parsed) if kind == "sqlite" else create_async_engine(parsed, pool_size=10, pool_pre_ping=True)


def _sqlite(url: URL) -> AsyncEngine:
    if url.database and url.database != ":memory:":
        file = Path(url.database).expanduser()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)  # it holds callers' words; journals take over the mode of the file
        url = url.set(database=str(file))
    engine = create_async_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # transactions are begun below, not by sqlite3
        cursor = connection.cursor()
        for pragma in PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get(READ_ONLY, False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


@asynccontextmanager
async def reading(sessions: async_sessionmaker[AsyncSession]) -> AsyncIterator[AsyncSession]:
    """A session for reading alone: on SQLite it neither waits for writers nor holds them up."""
    async with sessions() as session:
        await session.connection(execution_options={READ_ONLY: True})
        yield session


class Probe:
    """Looks again and again whether the database can be written to; `problem` is the readiness check."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._sessions = sessions
        self._problem: str | None = None

    def problem(self) -> str | None:
        """What was wrong at the last look; None while it works."""
        return self._problem

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self._problem = await self._look()
            await asyncio.sleep(PROBE_EVERY_S)

    async def _look(self) -> str | None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S), self._sessions.begin() as session:
                await session.execute(text("SELECT 1"))  # on SQLite BEGIN IMMEDIATE is what asks for the lock
        except TimeoutError:
            return f"the database did not answer within {PROBE_TIMEOUT_S:g} s"
        except (SQLAlchemyError, OSError) as problem:
            return first_line(problem)
        return None


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
