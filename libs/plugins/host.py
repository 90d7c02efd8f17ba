"""Serves any set of plug-ins on the bus: within a service, or as a process (`python -m libs.plugins`)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable

from libs.plugins.endpoints import OfferedTool, ToolEndpoints
from libs.plugins.loading import Plugin
from libs.plugins.runner import PluginRunner
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger

log = get_logger()

SERVICE = "plugins"
DESCRIPTION = "Plug-ins"


class PluginHost:
    """`counters` say how the calls ended: answered, refused, repeated, too_late, crashed, unusable, busy, stuck."""

    def __init__(self, bus: Bus, plugins: Iterable[Plugin], own: Iterable[Plugin] = ()) -> None:
        """`own`: plug-ins of the service itself, which run in its event loop and share its connections."""
        self._bus = bus
        self.counters: Counter[str] = Counter()
        self._runners = [
            *(PluginRunner(plugin, self.counters, in_thread=False) for plugin in own),
            *(PluginRunner(plugin, self.counters) for plugin in plugins),
        ]

    async def start(self, tasks: asyncio.TaskGroup) -> list[str]:
        """Start the plug-ins and offer those that did; their names. `stop` takes them off again."""
        self._endpoints = ToolEndpoints(self._bus, tasks, self.counters)
        up = [runner for runner in self._runners if await self._is_up(runner)]
        if up:
            tools = [OfferedTool(runner.description, runner.answer) for runner in up]
            await self._endpoints.start(SERVICE, DESCRIPTION, tools)
        self._runners = up
        return [runner.description.name for runner in up]

    async def stop(self) -> None:
        """No more requests; then each plug-in may close what it has."""
        await self._endpoints.stop()
        await asyncio.gather(*(runner.stop() for runner in self._runners))

    async def _is_up(self, runner: PluginRunner) -> bool:
        try:
            await runner.start()
        except Exception as error:  # noqa: BLE001  somebody else's code; the other plug-ins are served
            self.counters["not_started"] += 1
            problem = str(error) or type(error).__name__
            log.error("a plug-in did not start and is not offered", tool=runner.description.name, problem=problem)
            return False
        return True

    async def run(self, stopping: asyncio.Event, up: Callable[[], object]) -> None:
        """Serve until `stopping`, in a process that does nothing else; `up` is called when the tools are on the bus."""
        async with asyncio.TaskGroup() as tasks:
            names = await self.start(tasks)
            await self._bus.subscribed()
            log.info("plug-ins are offered", tools=names)
            up()
            await stopping.wait()
            await self.stop()
