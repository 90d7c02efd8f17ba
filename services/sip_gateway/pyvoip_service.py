"""The SIP gateway with SIP_STACK=pyvoip, from start to end."""

from __future__ import annotations

import asyncio
import socket

from nats.aio.msg import Msg

from libs.call_leg.fences import OutboundFence
from libs.call_leg.gateway import CallLegs
from libs.call_leg.instruments import ORIGINATIONS, MediaTotals, show_ends
from libs.contracts import subjects
from libs.contracts.rpc import RpcReply
from libs.runtime.config_copy import ConfigCopy
from libs.runtime.log import get_logger
from libs.runtime.respond import respond
from libs.runtime.service import Service
from services.sip_gateway.instruments import SIP, TRUNK_STATE
from services.sip_gateway.settings import Settings
from services.sip_gateway.stream import WILDCARDS
from services.sip_gateway.transport import local_address_towards
from services.sip_gateway.trunks import DEFAULT

log = get_logger()

RTP_PORTS = (10_000, 20_000)  # pyVoIP wants a range
SIP_PORT = 5060


async def serve_pyvoip(service: Service, settings: Settings) -> None:
    """Register, serve until told to stop, let the calls finish."""
    from services.sip_gateway.pyvoip import PyVoipGateway
    from services.sip_gateway.pyvoip_phone import Account

    trunk = settings.trunks().named(DEFAULT)
    login = trunk.login if trunk is not None else None
    assert trunk is not None  # the settings see to it
    assert login is not None
    assert trunk.server
    found = await asyncio.get_running_loop().getaddrinfo(trunk.server, trunk.port or SIP_PORT, family=socket.AF_INET)
    server = str(found[0][4][0])
    listen = settings.sip_listen_host
    account = Account(
        server, trunk.port or SIP_PORT, login.username, login.password,
        local_address_towards(server) if listen in WILDCARDS else listen, settings.sip_listen_port,
        settings.rtp_ports or RTP_PORTS, settings.pyvoip_answer_delay_s,
    )  # fmt: skip
    legs = CallLegs(service.id, service.bus, service.outbox, capacity=settings.max_calls)
    config = ConfigCopy(service.bus)
    gateway = PyVoipGateway(account, OutboundFence(trunk.rules), service.bus, legs, config, settings.default_country)
    await legs.start()
    SIP.read_from(lambda: gateway.counters)
    TRUNK_STATE.read_from(lambda: {(DEFAULT, gateway.state): 1.0})
    ORIGINATIONS.read_from(lambda: gateway.originations.counters)
    MediaTotals(lambda: gateway.media, legs.media).export()
    show_ends("sip")
    service.health.checks["workers"] = lambda: None if len(legs.roster) else "no AI worker is alive"

    async def tell_trunks(message: Msg) -> None:
        told = {"name": DEFAULT, "state": gateway.state, "registers": True, "server": trunk.server or ""}
        await respond(service.bus, message, RpcReply(ok=True, data=[told]))

    await service.bus.control.subscribe(subjects.rpc("sip_gateway", "trunks"), cb=tell_trunks)
    async with asyncio.TaskGroup() as tasks:
        background = [tasks.create_task(legs.run()), tasks.create_task(config.run()), tasks.create_task(gateway.run())]
        async with asyncio.timeout(10):
            await config.loaded.wait()
        await gateway.start()
        log.info("answering SIP with pyVoIP", address=f"{account.local_host}:{account.local_port}/udp")
        service.is_up(lambda: not len(legs))
        await service.stopping.wait()
        await gateway.originations.stop()
        await legs.drain(settings.drain_timeout_s)
        for task in background:
            task.cancel()
    await gateway.stop()
    gateway.ticker.close()
