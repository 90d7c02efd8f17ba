"""A live copy of KV `config`: agents, routes, organisations. Reading it never waits.

The watch is made anew whenever the bus comes back, and the whole bucket is read again then: a live call
never depends on a watch that went deaf.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import nats.errors
from nats.js.errors import Error as JetStreamError

from libs.contracts import subjects, wire
from libs.contracts.agent import AgentConfig
from libs.contracts.config import AnyDocument, OrgConfig, RouteConfig, RouteTable
from libs.contracts.external_tools import HttpTool, McpTools
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger
from libs.runtime.streams import bucket
from libs.runtime.tasks import stop_if_cancelled

log = get_logger()

RETRY_S = 0.5
QUIET_S = 1.0


class ConfigCopy:
    """`run()` is one task of the service's TaskGroup; `loaded` is set once the first copy is complete."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._decoder = wire.config_decoder()
        self._documents: dict[str, AnyDocument] = {}
        self._routes = RouteTable([])
        self._again = False
        self.loaded = asyncio.Event()
        self.on_change: list[Callable[[], None]] = []
        bus.control_link.on_up.append(self._restart)

    def agent(self, org: str, name: str) -> AgentConfig | None:
        """The published agent of this name."""
        found = self._documents.get(f"agent.{org}.{name}")
        return found if isinstance(found, AgentConfig) else None

    def organisation(self, name: str) -> OrgConfig | None:
        """The organisation of this name."""
        found = self._documents.get(f"org.{name}")
        return found if isinstance(found, OrgConfig) else None

    def organisations(self) -> list[OrgConfig]:
        """All that are published."""
        return [each for each in self._documents.values() if isinstance(each, OrgConfig)]

    def route(self, callee: str, entrance: str = "sip", trunk: str | None = None) -> RouteConfig | None:
        """The route that serves a dialled number or SIP user."""
        return self._routes.find(callee, entrance, trunk)

    def external_tools(self) -> dict[str, HttpTool | McpTools]:
        """The tools that documents declare, by key."""
        return {key: each for key, each in self._documents.items() if isinstance(each, HttpTool | McpTools)}

    def _restart(self) -> None:
        self._again = True

    async def run(self) -> None:
        """Follow the bucket until cancelled."""
        while True:
            stop_if_cancelled()
            try:
                await self._follow()
            except (nats.errors.Error, JetStreamError, OSError) as error:
                log.debug("configuration watch starts again", problem=str(error))
            await asyncio.sleep(RETRY_S)

    async def _follow(self) -> None:
        self._again = False
        store = await bucket(self._bus.js, subjects.KV_CONFIG)
        watcher = await store.watchall()
        fresh: set[str] = set()
        complete = False
        try:
            while not self._again:
                stop_if_cancelled()
                try:
                    entry = await watcher.updates(timeout=QUIET_S)  # type: ignore[no-untyped-call]
                except nats.errors.TimeoutError:
                    continue
                if entry is None:  # all present values were sent
                    if not complete:
                        complete = True
                        for key in self._documents.keys() - fresh:
                            del self._documents[key]
                        self._changed()
                    continue
                fresh.add(entry.key)
                self._take(entry.key, None if entry.operation else entry.value)
                if complete:
                    self._changed()
        finally:
            await watcher.stop()  # type: ignore[no-untyped-call]

    def _take(self, key: str, value: bytes | None) -> None:
        document = self._decoder.decode(value) if value else None
        if document is not None:
            self._documents[key] = document
        elif value is None:
            self._documents.pop(key, None)
        else:
            log.error("a configuration document cannot be read; the former one stays", key=key)

    def _changed(self) -> None:
        self._routes = RouteTable(doc for doc in self._documents.values() if isinstance(doc, RouteConfig))
        self.loaded.set()
        for callback in self.on_change:
            callback()
