"""Starts the SIP gateway: `python -m services.sip_gateway`."""

from __future__ import annotations

import asyncio
import sys

from libs.call_leg.gateway import CallLegs
from libs.call_leg.instruments import ORIGINATIONS, MediaTotals, show_ends
from libs.runtime.config_copy import ConfigCopy
from libs.runtime.log import get_logger
from libs.runtime.service import Service, run
from services.sip_gateway.gateway import SipGateway
from services.sip_gateway.instruments import SIP, TRACE
from services.sip_gateway.pyvoip_service import serve_pyvoip
from services.sip_gateway.settings import Settings

log = get_logger()

FLUSH_S = 1.0  # of the places that the calls had within their organisations' limits
LINGER_S = 2.0  # at the end, for the answers to the last BYEs and refusals


async def main(service: Service, settings: Settings) -> None:
    """Wire the gateway, serve until told to stop, let the calls finish."""
    if settings.sip_stack == "pyvoip":
        await serve_pyvoip(service, settings)
        return
    legs = CallLegs(service.id, service.bus, service.outbox, capacity=settings.max_calls)
    config = ConfigCopy(service.bus)
    gateway = SipGateway(settings, service.bus, legs, config, service.outbox)
    transport, ticker = gateway.transport, gateway.ticker
    await legs.start()
    SIP.read_from(lambda: transport.counters + gateway.counters)
    TRACE.read_from(lambda: gateway.trace.counters)
    ORIGINATIONS.read_from(lambda: gateway.originations.counters)
    MediaTotals(lambda: gateway.media, legs.media).export()
    show_ends("sip")
    service.health.checks["workers"] = lambda: None if len(legs.roster) else "no AI worker is alive"
    service.health.checks["config"] = lambda: None if config.loaded.is_set() else "configuration not read yet"
    async with asyncio.TaskGroup() as tasks:
        background = [tasks.create_task(legs.run()), tasks.create_task(config.run()), tasks.create_task(gateway.run())]
        async with asyncio.timeout(10):
            await config.loaded.wait()
        await gateway.open()
        networks = ", ".join(str(network) for network in settings.sip_allowed_sources)
        listening = ", ".join(f"{port}/{kind}" for kind, port in transport.ports.items())
        log.info("answering SIP", address=settings.sip_listen_host, ports=listening, only_from=networks)
        gateway.trunks.export()
        service.is_up(lambda: not len(legs) and not gateway.exchange.last_words.speaking)
        await service.stopping.wait()
        log.info("draining", calls=len(legs), timeout_s=settings.drain_timeout_s)
        await gateway.leave()
        until = asyncio.get_running_loop().time() + settings.drain_timeout_s
        await legs.drain(settings.drain_timeout_s)
        await gateway.exchange.last_words.drain(until)
        await gateway.admission.flush(FLUSH_S)
        for task in background:
            task.cancel()
    await transport.linger(LINGER_S)
    transport.close()
    ticker.close()


if __name__ == "__main__":
    sys.exit(run("sip_gateway", "gw", Settings, main))
