"""Starts the browser gateway: `python -m services.browser_gateway`."""

from __future__ import annotations

import asyncio
import sys

from libs.call_leg.gateway import CallLegs
from libs.call_leg.instruments import MediaTotals, show_ends
from libs.runtime.config_copy import ConfigCopy
from libs.runtime.log import get_logger
from libs.runtime.service import Service, run
from services.browser_gateway.gateway import BrowserGateway
from services.browser_gateway.instruments import TAKEN, WEB
from services.browser_gateway.settings import Settings
from services.browser_gateway.web import PageServer

log = get_logger()

FLUSH_S = 2.0


async def main(service: Service, settings: Settings) -> None:
    """Wire the gateway, serve until told to stop, let the calls finish."""
    legs = CallLegs(service.id, service.bus, service.outbox, capacity=settings.browser_max_calls)
    config = ConfigCopy(service.bus)
    gateway = BrowserGateway(settings, service.bus, legs, config)
    server = PageServer(settings, gateway, config)
    await legs.start()
    await gateway.admission.start()
    WEB.read_from(lambda: gateway.counters + server.counters + gateway.tokens.counters)
    TAKEN.read_from(lambda: len(gateway.taken))
    MediaTotals(lambda: gateway.media, legs.media).export()
    show_ends("browser")
    service.health.checks["workers"] = lambda: None if len(legs.roster) else "no AI worker is alive"
    service.health.checks["config"] = lambda: None if config.loaded.is_set() else "configuration not read yet"
    async with asyncio.TaskGroup() as tasks:
        background = [tasks.create_task(legs.run()), tasks.create_task(config.run()),
                      tasks.create_task(gateway.admission.run())]  # fmt: skip
        async with asyncio.timeout(10):
            await config.loaded.wait()
        await server.start()
        await gateway.listen()
        await service.bus.subscribed()
        log.info("serving browsers", url=gateway.url)
        service.is_up(lambda: not len(legs) and not gateway.last_words.speaking)
        await service.stopping.wait()
        log.info("draining", calls=len(legs), taken=len(gateway.taken), timeout_s=settings.browser_drain_timeout_s)
        legs.draining = True
        until = asyncio.get_running_loop().time() + settings.browser_drain_timeout_s
        await gateway.give_everything_back()
        await legs.drain(settings.browser_drain_timeout_s)
        await gateway.last_words.drain(until)
        await server.stop()
        await gateway.admission.flush(FLUSH_S)
        for task in background:
            task.cancel()
    gateway.ticker.close()


if __name__ == "__main__":
    sys.exit(run("browser_gateway", "gw", Settings, main))
