"""The tools that documents declare, kept on the bus as the documents in KV `config` say; no restart is needed."""

from __future__ import annotations

import asyncio
import importlib
from collections import Counter
from collections.abc import Mapping

import nats.errors

from libs.contracts.external_tools import HttpTool, McpTools
from libs.contracts.tool import ToolReply, ToolRequest
from libs.plugins.endpoints import OfferedTool, ToolEndpoints
from libs.runtime.bus import Bus
from libs.runtime.config_copy import ConfigCopy
from libs.runtime.log import get_logger
from libs.runtime.tasks import stop_if_cancelled
from services.catalog_tools.guard import Guard
from services.catalog_tools.http_tool import HttpToolClient, describe

log = get_logger()

RETRY_S = 1.0

Document = HttpTool | McpTools


class DeclaredTools:
    """`run` is one task; `taken` are the names that this service's own tools have already."""

    def __init__(
        self, bus: Bus, config: ConfigCopy, guard: Guard, secrets: Mapping[str, str], taken: frozenset[str]
    ) -> None:
        self._bus, self._config, self._guard, self._secrets, self._taken = bus, config, guard, secrets, taken
        self.counters: Counter[str] = Counter()
        self._changed = asyncio.Event()
        self._offered: dict[str, tuple[Document, asyncio.Task[None]]] = {}
        config.on_change.append(self._changed.set)

    async def run(self) -> None:
        """Follow the documents until cancelled."""
        async with HttpToolClient(self._guard, self._secrets, self.counters) as http, asyncio.TaskGroup() as tasks:
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._reconcile(self._config.external_tools(), http, tasks)

    async def _reconcile(self, wanted: Mapping[str, Document], http: HttpToolClient, tasks: asyncio.TaskGroup) -> None:
        for key, (document, task) in list(self._offered.items()):
            if wanted.get(key) != document:
                task.cancel()
                await asyncio.wait({task})  # raises nothing of the task's, and our own cancellation is not lost
                del self._offered[key]
        for key, document in wanted.items():
            if key in self._offered:
                continue
            if isinstance(document, HttpTool) and document.name in self._taken:
                log.error("a declared tool has the name of another one and is not offered", tool=document.name)
                continue
            self._offered[key] = document, tasks.create_task(self._serve(document, http, tasks), name=key)

    async def _serve(self, document: Document, http: HttpToolClient, tasks: asyncio.TaskGroup) -> None:
        """Until cancelled; the bus may be away for a while."""
        while True:
            try:
                if isinstance(document, HttpTool):
                    await self._http_tool(document, http, tasks)
                else:
                    await self._mcp(document, tasks)
            except (nats.errors.Error, OSError) as error:
                log.warning("a declared tool could not be offered, trying again", key=document.key, problem=str(error))
            stop_if_cancelled()
            await asyncio.sleep(RETRY_S)

    async def _http_tool(self, document: HttpTool, http: HttpToolClient, tasks: asyncio.TaskGroup) -> None:
        async def answer(request: ToolRequest) -> ToolReply:
            return await http.answer(document, request)

        endpoints = ToolEndpoints(self._bus, tasks, self.counters)
        offered = OfferedTool(describe(document), answer, document.org)
        try:
            await endpoints.start("declared_tool", document.name, [offered])
            log.info("a declared tool is offered", tool=document.name, org=document.org)
            await asyncio.get_running_loop().create_future()  # until the document changes
        finally:
            await endpoints.stop()

    async def _mcp(self, document: McpTools, tasks: asyncio.TaskGroup) -> None:
        present: list[ToolEndpoints] = []

        async def offer(tools: list[OfferedTool]) -> None:
            free = [tool for tool in tools if tool.description.name not in self._taken]
            following: list[ToolEndpoints] = []
            if free:
                following.append(ToolEndpoints(self._bus, tasks, self.counters))
                await following[0].start("mcp_tools", document.name, free)
            for old in present:  # after its successor is there
                await old.stop()
            present[:] = following

        # A third of this service's start, and few declare such a server; in a thread, since others may be calling.
        await asyncio.to_thread(importlib.import_module, "services.catalog_tools.mcp_server")
        from services.catalog_tools.mcp_server import McpServer

        try:
            await McpServer(document, self._guard, self._secrets, offer, self.counters).run()
        finally:
            await offer([])
