"""The parts of the service put together, for `__main__` and for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from libs.runtime.bus import Bus
from libs.runtime.database import Probe, first_line, migrate, open_engine
from libs.runtime.log import get_logger
from libs.runtime.outbox import EventOutbox
from services.catalog_tools.catalog import Catalog
from services.catalog_tools.importer import load_sample_if_empty
from services.catalog_tools.orders import forget_old
from services.catalog_tools.queries import Queries
from services.catalog_tools.relay import Relay
from services.catalog_tools.server import Server
from services.catalog_tools.settings import Settings
from services.catalog_tools.tools import Toolbox

log = get_logger()

FORGET_EVERY_S = 3600.0
MIGRATIONS = Path(__file__).with_name("migrations")


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    """The migrated database, with the sample catalogue if it never had another."""
    engine = open_engine(url)
    try:
        await migrate(engine, MIGRATIONS)
        sessions = async_sessionmaker(engine, expire_on_commit=False)
        async with sessions() as session:
            report = await load_sample_if_empty(session)
        if report is not None:
            log.info("sample catalogue loaded", products=report.imported, errors=report.errors)
        yield sessions
    finally:
        await engine.dispose()


class App:
    """Catalogue, tools, server and relay over one database."""

    def __init__(
        self, bus: Bus, outbox: EventOutbox, sessions: async_sessionmaker[AsyncSession], settings: Settings
    ) -> None:
        self._sessions = sessions
        self._refresh_s = settings.catalog_refresh_s
        self.probe = Probe(sessions)
        self.catalog = Catalog(sessions)
        self.relay = Relay(sessions, outbox, settings.catalog_refresh_s)
        self.toolbox = Toolbox(self.catalog, sessions, ordered=self.relay.wake)
        self.server = Server(bus, self.toolbox, Queries(self.catalog, sessions), settings.catalog_concurrency)

    async def run(self, stopping: asyncio.Event, *, listening: Callable[[], None] = lambda: None) -> None:
        """Serve until `stopping`, then answer what was asked and publish what was ordered."""
        await self.catalog.refresh()
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(self.relay.run(), name="relay"),
                tasks.create_task(self.probe.run(), name="probe"),
                tasks.create_task(self._again_and_again("refresh", self._refresh_s, self._follow_imports)),
                tasks.create_task(self._again_and_again("forget", FORGET_EVERY_S, self._forget)),
            ]
            await self.server.run(stopping, listening=listening)
            for task in background:
                task.cancel()
        while await self.relay.publish_pending():
            pass

    async def _again_and_again(self, what: str, wait_s: float, action: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await action()
            except (SQLAlchemyError, OSError) as problem:
                log.warning("the database failed, trying again", task=what, problem=first_line(problem))
            await asyncio.sleep(wait_s)

    async def _follow_imports(self) -> None:
        if await self.catalog.refresh():
            log.info("catalogue changed", products=len(self.catalog.index.articles))

    async def _forget(self) -> None:
        async with self._sessions.begin() as session:
            await forget_old(session, datetime.now(UTC))
