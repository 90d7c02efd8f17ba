"""A service's own database: no secrets in sentences, nobody else's eyes, readers that wait for nobody, a probe."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from libs.runtime import database
from libs.runtime.database import Probe, failed, masked, open_engine, reading
from services.catalog_tools.tools import TIMEOUT_MS
from tests.support.waiting import until


@pytest.fixture
async def sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.1)
    engine = open_engine(f"sqlite:///{tmp_path / 'x.db'}")
    sessions = async_sessionmaker(engine)
    async with sessions.begin() as session:
        await session.execute(text("CREATE TABLE t (n INTEGER)"))
    yield sessions
    await engine.dispose()


@pytest.fixture
def writer(tmp_path: Path, sessions: object) -> sqlite3.Connection:
    """Another process that holds the write lock."""
    connection = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    return connection


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://callbus:geheim@db:5432/calls", "postgresql://callbus:***@db:5432/calls"),
        ("postgresql://callbus:geheim@db/calls?password=geheim&sslmode=require", "postgresql://callbus:***@db/calls"),
        ("postgresql://callbus:x@geheim@db/calls", "postgresql://***@db/calls"),
        ("postgresql://callbus:geheim", "(its URL cannot be read)"),
        ("geheim", "(its URL cannot be read)"),
        ("sqlite:///var/calls.db", "sqlite:///var/calls.db"),
    ],
)
def test_a_database_is_named_without_its_password(url: str, shown: str) -> None:
    assert masked(url) == shown
    assert str(failed(url, OSError("it is away\n[SQL: x]"))) == f"database {shown}: it is away"


@pytest.mark.parametrize("url", ["postgresql://callbus:geheim", "geheim", "geheim://x"])
def test_a_url_that_cannot_be_read_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="database URL") as refused:
        open_engine(url)
    assert "callbus" not in str(refused.value)


def test_a_database_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    open_engine(f"sqlite:///{tmp_path / 'calls.db'}")
    assert (tmp_path / "calls.db").stat().st_mode & 0o777 == 0o600


def test_journals_are_for_their_owner_alone_too(writer: sqlite3.Connection, tmp_path: Path) -> None:
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert modes == {"x.db": 0o600, "x.db-wal": 0o600, "x.db-shm": 0o600}
    writer.close()


async def test_a_reader_does_not_wait_for_a_writer(
    sessions: async_sessionmaker[AsyncSession], writer: sqlite3.Connection
) -> None:
    async with reading(sessions) as session:
        assert (await session.execute(text("SELECT count(*) FROM t"))).scalar() == 0
    with pytest.raises(OperationalError, match="locked"):
        async with sessions.begin() as session:
            await session.execute(text("SELECT 1"))
    writer.close()


async def test_a_writer_gives_up_after_the_time_set(
    sessions: async_sessionmaker[AsyncSession], writer: sqlite3.Connection
) -> None:
    began = time.monotonic()
    with pytest.raises(OperationalError, match="locked"):
        async with sessions.begin() as session:
            await session.execute(text("INSERT INTO t VALUES (1)"))
    assert time.monotonic() - began < 1.0
    writer.close()


def test_waiting_for_a_writer_leaves_time_to_answer() -> None:
    assert database.BUSY_TIMEOUT_S < TIMEOUT_MS / 1000 / 2
    assert database.PROBE_TIMEOUT_S > database.BUSY_TIMEOUT_S


async def test_the_probe_notices_a_locked_database_and_its_recovery(
    sessions: async_sessionmaker[AsyncSession], writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PROBE_EVERY_S", 0.01)
    probe = Probe(sessions)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(probe.run())
        await until(probe.problem, 5)
        assert "database is locked" in str(probe.problem())
        writer.close()
        await until(lambda: probe.problem() is None, 5)
        running.cancel()
