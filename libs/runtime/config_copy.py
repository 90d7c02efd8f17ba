"""A live copy of KV `config`: agents, routes, organisations. Reading it never waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from libs.contracts import subjects, wire
from libs.contracts.agent import AgentConfig
from libs.contracts.config import AnyDocument, OrgConfig, RouteConfig, RouteTable
from libs.contracts.external_tools import HttpTool, McpTools
from libs.runtime.bucket_watch import BucketWatch
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger

log = get_logger()


class ConfigCopy:
    """`run()` is one task of the service's TaskGroup; `loaded` is set once the first copy is complete."""

    def __init__(self, bus: Bus) -> None:
        self._watch = BucketWatch(bus, subjects.KV_CONFIG, self)
        self._decoder = wire.config_decoder()
        self._documents: dict[str, AnyDocument] = {}
        self._routes = RouteTable([])
        self._fresh: set[str] = set()  # keys of the bucket as it is being read
        self._is_complete = False
        self.loaded = asyncio.Event()
        self.on_change: list[Callable[[], None]] = []

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

    async def run(self) -> None:
        """Follow the bucket until cancelled."""
        await self._watch.run()

    # -- the watch ---------------------------------------------------------------------------------------

    def begin(self) -> None:
        """See `Copy`."""
        self._fresh, self._is_complete = set(), False

    def take(self, key: str, value: bytes | None) -> None:
        """See `Copy`."""
        self._fresh.add(key)
        self._take(key, value)
        if self._is_complete:
            self._changed()

    def complete(self) -> None:
        """See `Copy`. What was deleted while nobody watched goes."""
        if not self._is_complete:
            self._is_complete = True
            for key in self._documents.keys() - self._fresh:
                del self._documents[key]
            self._changed()

    def quiet(self) -> None:
        """See `Copy`."""

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
