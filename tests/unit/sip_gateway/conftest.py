"""A SIP gateway in this process on a real nats-server, and a worker that does what the test tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest_asyncio
from nats.js.errors import NoKeysError

from libs.call_leg.gateway import CallLegs
from libs.contracts import events, subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.config import RouteConfig
from libs.contracts.ids import new_process_id
from libs.contracts.wire import event_decoder
from libs.runtime.bus import Bus
from libs.runtime.config_copy import ConfigCopy
from libs.runtime.outbox import EventOutbox
from libs.runtime.streams import bucket, provision
from services.sip_gateway.gateway import SipGateway
from services.sip_gateway.settings import Settings
from tests.support.fake_worker import FakeWorker
from tests.support.nats import NatsServer, nats_server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server() -> AsyncIterator[NatsServer]:
    async with nats_server() as running:
        yield running


class World:
    """The gateway and what it published."""

    def __init__(self, bus: Bus, url: str, settings: Settings) -> None:
        self.bus = bus
        self.url = url
        self.stack = AsyncExitStack()
        self.outbox = EventOutbox(bus)
        self.legs = CallLegs(bus.process_id, bus, self.outbox, capacity=settings.max_calls)
        self.config = ConfigCopy(bus)
        self.gateway = SipGateway(settings, bus, self.legs, self.config, self.outbox)
        self.events: list[events.CallEvent] = []
        self._decoder = event_decoder()
        self._changed = asyncio.Event()

    @property
    def uri(self) -> str:
        return f"sip:bestellung@127.0.0.1:{self.gateway.transport.port}"

    def uri_of(self, user: str) -> str:
        return self.uri.replace("bestellung", user)

    async def worker(self, **behaviour) -> FakeWorker:
        worker = await self.stack.enter_async_context(FakeWorker(self.url, **behaviour))
        await self.until(lambda: self.legs.roster.is_alive(worker.wk))
        return worker

    async def publish(self, *documents: AgentConfig | RouteConfig) -> None:
        store = await bucket(self.bus.js, subjects.KV_CONFIG)
        for document in documents:
            await store.put(document.key, document.to_json())
        found = [d for d in documents if isinstance(d, AgentConfig)]
        await self.until(lambda: all(self.config.agent(d.org, d.name) == d for d in found))

    async def take(self, msg) -> None:
        event = self._decoder.decode(msg.data)
        if event is not None:
            self.events.append(event)
        self._changed.set()

    async def until(self, happened, limit_s: float = 5.0) -> None:
        async with asyncio.timeout(limit_s):
            while not happened():  # noqa: ASYNC110  state of other objects has no event
                await asyncio.sleep(0.005)

    async def event(self, kind, count: int = 1):
        await self.until(lambda: len(self.of(kind)) >= count)
        return self.of(kind)[count - 1]

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


AGENT = AgentConfig(name="bestellung", greeting="Guten Tag.")
ROUTE = RouteConfig(name="bestellung", match=("bestellung", "+49301234567"), agent="bestellung")


@asynccontextmanager
async def world(server: NatsServer, *documents: AgentConfig | RouteConfig, **settings) -> AsyncIterator[World]:
    bus = await Bus.connect(server.url, new_process_id("gw"))
    await provision(bus.js)
    await bus.js.purge_stream(subjects.EVENTS_STREAM)
    store = await bucket(bus.js, subjects.KV_CONFIG)
    for key in await keys(store):
        await store.purge(key)
    for document in documents or (AGENT, ROUTE):
        await store.put(document.key, document.to_json())
    given = {"sip_listen_host": "127.0.0.1", "sip_listen_port": 0} | settings
    made = World(bus, server.url, Settings(_env_file=None, **given))
    watching = await bus.js.subscribe(subjects.EVENTS_FILTER, cb=made.take, ordered_consumer=True)
    await made.legs.start()
    tasks = [asyncio.create_task(it.run()) for it in (made.outbox, made.legs, made.config, made.gateway)]
    try:
        await asyncio.wait_for(made.config.loaded.wait(), 5)
        await made.gateway.open()
        yield made
        await made.outbox.flush(2)
    finally:
        await made.stack.aclose()
        await watching.unsubscribe()
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        made.gateway.transport.close()
        made.gateway.ticker.close()
        await bus.close()


async def keys(store) -> list[str]:
    try:
        return await store.keys()
    except NoKeysError:
        return []
