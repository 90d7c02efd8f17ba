"""A Twilio gateway in this process on a real nats-server, a scripted worker, and Twilio as it is documented."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest_asyncio
from nats.js.errors import NoKeysError

from libs.call_leg.admission_shell import Admission
from libs.call_leg.gateway import CallLegs
from libs.call_leg.originate import Originations
from libs.contracts import events, subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.config import RouteConfig
from libs.contracts.ids import new_process_id
from libs.contracts.originate import Originate, OriginateReply
from libs.contracts.wire import event_decoder
from libs.runtime.bus import Bus
from libs.runtime.config_copy import ConfigCopy
from libs.runtime.outbox import EventOutbox
from libs.runtime.streams import bucket, provision
from services.twilio_gateway.__main__ import rest_api
from services.twilio_gateway.gateway import TwilioGateway
from services.twilio_gateway.settings import Settings
from services.twilio_gateway.web import WebServer
from tests.support.fake_worker import FakeWorker
from tests.support.nats import NatsServer, nats_server
from tests.unit.twilio_gateway.twilio import ACCOUNT, AUTH_TOKEN, FakeTwilio

PUBLIC_URL = "https://calls.example.com/callbus"
AGENT = AgentConfig(name="bestellung", greeting="Guten Tag.")
ROUTE = RouteConfig(name="bestellung", match=("+49301234567",), agent="bestellung")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server() -> AsyncIterator[NatsServer]:
    async with nats_server() as running:
        yield running


class World:
    """The gateway, its Twilio, and what it published."""

    def __init__(self, bus: Bus, url: str, twilio: FakeTwilio, settings: Settings) -> None:
        self.bus = bus
        self.url = url
        self.twilio = twilio
        self.stack = AsyncExitStack()
        self.outbox = EventOutbox(bus)
        self.legs = CallLegs(bus.process_id, bus, self.outbox, capacity=settings.max_calls)
        self.config = ConfigCopy(bus)
        self.api = rest_api(settings)
        self.admission = Admission(bus, self.legs, self.config)
        self.gateway = TwilioGateway(settings, bus, self.legs, self.admission, self.api)
        self.originations = Originations(
            "twilio", self.legs, self.config, self.admission, self.gateway.fences, self.gateway.place
        )
        self.web = WebServer(settings, self.gateway)
        self.events: list[events.CallEvent] = []
        self._decoder = event_decoder()

    async def worker(self, **behaviour) -> FakeWorker:
        worker = await self.stack.enter_async_context(FakeWorker(self.url, **behaviour))
        await self.until(lambda: self.legs.roster.is_alive(worker.wk))
        return worker

    async def originate(self, to: str = "+49301111111", **request) -> OriginateReply:
        """Ask for an outbound call on the bus."""
        wanted = Originate(to=to, agent="bestellung", **request)
        data = await self.bus.request(subjects.originate("default", "twilio"), wanted.to_json(), 2)
        return OriginateReply.model_validate_json(data)

    async def take(self, msg) -> None:
        event = self._decoder.decode(msg.data)
        if event is not None:
            self.events.append(event)

    async def until(self, happened, limit_s: float = 5.0) -> None:
        async with asyncio.timeout(limit_s):
            while not happened():  # noqa: ASYNC110  state of other objects has no event
                await asyncio.sleep(0.005)

    async def event(self, kind, count: int = 1, limit_s: float = 5.0):
        await self.until(lambda: len(self.of(kind)) >= count, limit_s)
        return self.of(kind)[count - 1]

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


@asynccontextmanager
async def world(server: NatsServer, *documents: AgentConfig | RouteConfig, **settings) -> AsyncIterator[World]:
    bus = await Bus.connect(server.url, new_process_id("gw"))
    await provision(bus.js)
    await bus.js.purge_stream(subjects.EVENTS_STREAM)
    store = await bucket(bus.js, subjects.KV_CONFIG)
    for key in await _keys(store):
        await store.purge(key)
    for document in documents or (AGENT, ROUTE):
        await store.put(document.key, document.to_json())
    async with FakeTwilio(settings.get("public_url", PUBLIC_URL)) as twilio:
        given = {
            "twilio_account_sid": ACCOUNT, "twilio_auth_token": AUTH_TOKEN, "twilio_api_base_url": twilio.api_url,
            "twilio_listen_port": 0, "public_url": PUBLIC_URL, "twilio_from": "+4930555000",
        } | settings  # fmt: skip
        made = World(bus, server.url, twilio, Settings(_env_file=None, **given))
        watching = await bus.js.subscribe(subjects.EVENTS_FILTER, cb=made.take, ordered_consumer=True)
        await made.legs.start()
        await made.admission.start()
        tasks = [
            asyncio.create_task(it.run()) for it in (made.outbox, made.legs, made.config, made.admission, made.gateway)
        ]
        try:
            await asyncio.wait_for(made.config.loaded.wait(), 5)
            await made.web.start()
            await made.originations.start(bus)
            twilio.connect_url = f"http://127.0.0.1:{made.web.port}"
            yield made
            await made.outbox.flush(2)
        finally:
            for call in twilio.calls.values():
                await call.close()
            await made.stack.aclose()
            await watching.unsubscribe()
            await made.legs.drain(0)
            await made.web.stop()
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            made.gateway.ticker.close()
            await made.api.close()
            await bus.close()


async def _keys(store) -> list[str]:
    try:
        return await store.keys()
    except NoKeysError:
        return []


async def streaming(here: World, worker: FakeWorker):
    """A call with its stream, and its offer."""
    call = here.twilio.incoming()
    await call.ring()
    offer = await worker.offers.get()
    await call.until(lambda: call.socket is not None and call.marks)
    return call, offer
