"""The parts of the service put together, for `__main__` and for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from libs.plugins import ExternalPlugin
from libs.plugins.host import PluginHost
from libs.plugins.loading import load
from libs.runtime.bus import Bus
from libs.runtime.config_copy import ConfigCopy
from libs.runtime.database import Probe, first_line, migrate, open_engine
from libs.runtime.log import get_logger
from libs.runtime.outbox import EventOutbox
from services.catalog_tools.catalog import Catalog
from services.catalog_tools.customers import Crm
from services.catalog_tools.declared import DeclaredTools
from services.catalog_tools.guard import Guard
from services.catalog_tools.importer import load_sample_if_empty
from services.catalog_tools.included import CustomerLookup, TakeMessage
from services.catalog_tools.orders import forget_old
from services.catalog_tools.queries import Queries
from services.catalog_tools.relay import Relay
from services.catalog_tools.server import Server
from services.catalog_tools.settings import Settings
from services.catalog_tools.tools import TOOLS, Toolbox

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


def _plugins(
    sessions: async_sessionmaker[AsyncSession], settings: Settings
) -> tuple[list[ExternalPlugin[Any]], list[ExternalPlugin[Any]]]:
    """The plug-ins that the settings name: the included ones, and those of installed packages."""
    token = settings.crm_token.get_secret_value() if settings.crm_token is not None else None
    crm = Crm(settings.crm_url, token, settings.crm_timeout_s) if settings.crm_url is not None else None
    included: dict[str, ExternalPlugin[Any]] = {
        plugin.name: plugin for plugin in (CustomerLookup(sessions, crm), TakeMessage(sessions))
    }
    loaded = load(name for name in settings.plugins if name not in included)
    for problem in loaded.problems:
        log.error("a plug-in cannot be loaded", problem=problem)
    own = [plugin for name, plugin in included.items() if name in settings.plugins]
    return own, [plugin for plugin in loaded.plugins if plugin.name not in {*included, *TOOLS}]


class App:
    """Catalogue, tools, plug-ins, server and relay over one database."""

    def __init__(
        self, bus: Bus, outbox: EventOutbox, sessions: async_sessionmaker[AsyncSession], settings: Settings
    ) -> None:
        self._sessions = sessions
        self._refresh_s = settings.catalog_refresh_s
        self.probe = Probe(sessions)
        self.catalog = Catalog(sessions)
        self.relay = Relay(sessions, outbox, settings.catalog_refresh_s)
        self.toolbox = Toolbox(self.catalog, sessions, ordered=self.relay.wake)
        queries = Queries(self.catalog, sessions, settings.catalog_country)
        self.server = Server(bus, self.toolbox, queries, settings.catalog_concurrency)
        own, others = _plugins(sessions, settings)
        self.plugins = PluginHost(bus, others, own)
        self._config = ConfigCopy(bus)
        secrets = {name: secret.get_secret_value() for name, secret in settings.tool_secrets.items()}
        taken = frozenset((*TOOLS, *(plugin.name for plugin in (*own, *others))))
        self.declared = DeclaredTools(bus, self._config, Guard(settings.tool_private_hosts), secrets, taken)

    async def run(self, stopping: asyncio.Event, *, listening: Callable[[], None] = lambda: None) -> None:
        """Serve until `stopping`, then answer what was asked and publish what was ordered."""
        await self.catalog.refresh()
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(self.relay.run(), name="relay"),
                tasks.create_task(self.probe.run(), name="probe"),
                tasks.create_task(self._config.run(), name="config"),
                tasks.create_task(self.declared.run(), name="declared"),
                tasks.create_task(self._again_and_again("refresh", self._refresh_s, self._follow_imports)),
                tasks.create_task(self._again_and_again("forget", FORGET_EVERY_S, self._forget)),
            ]
            names = await self.plugins.start(tasks)
            log.info("plug-ins are offered", tools=names)
            await self.server.run(stopping, listening=listening)
            await self.plugins.stop()
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
