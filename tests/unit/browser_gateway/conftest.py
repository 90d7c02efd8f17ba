"""A browser gateway in this process on a real nats-server, and a page without a browser."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import aiohttp
import pytest_asyncio
from nats.js.errors import NoKeysError

from libs.call_leg.gateway import CallLegs
from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.config import OrgConfig, RouteConfig
from libs.contracts.ids import new_process_id
from libs.contracts.rpc import RpcReply, RpcRequest
from libs.contracts.wire import event_decoder
from libs.runtime.bus import Bus
from libs.runtime.config_copy import ConfigCopy
from libs.runtime.outbox import EventOutbox
from libs.runtime.streams import bucket, provision
from services.browser_gateway.gateway import BrowserGateway
from services.browser_gateway.page_stream import FRAME_BYTES, HEADER
from services.browser_gateway.settings import Settings
from services.browser_gateway.web import PageServer
from tests.support.fake_worker import FakeWorker
from tests.support.nats import NatsServer, nats_server

AGENT = AgentConfig(name="bestellung", greeting="Guten Tag.")
ROUTE = RouteConfig(name="bestellung", match=("bestellung",), agent="bestellung")
DEADLINE_S = 5.0


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server() -> AsyncIterator[NatsServer]:
    async with nats_server() as running:
        yield running


class Page:
    """Speaks the protocol of docs/browser.md; plays at once what it gets, unless `plays` is off."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.told: list[dict] = []
        self.heard = bytearray()
        self.positions: list[int] = []
        self.position = 0
        self.plays = True
        self.answers_flush = True
        self.closed: tuple[int | None, str] | None = None
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for msg in self.socket:
            if msg.type is aiohttp.WSMsgType.BINARY:
                (position,) = HEADER.unpack_from(msg.data)
                self.positions.append(position)
                self.heard += msg.data[HEADER.size :]
                if self.plays:
                    self.position = position + (len(msg.data) - HEADER.size) // 2
            elif msg.type is aiohttp.WSMsgType.TEXT:
                message = json.loads(msg.data)
                self.told.append(message)
                if message["type"] == "flush" and self.answers_flush:
                    await self.say(type="flushed", generation=message["generation"], position=self.position)
            self._changed.set()
        self.closed = (self.socket.close_code, "")
        self._changed.set()

    async def say(self, **message) -> None:
        await self.socket.send_str(json.dumps(message))

    async def send(self, pcm: bytes) -> None:
        await self.socket.send_bytes(HEADER.pack(self.position) + pcm)

    async def speak(self, pcm: bytes) -> None:
        """At the pace of a microphone."""
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        for number, at in enumerate(range(0, len(pcm), FRAME_BYTES)):
            await self.send(pcm[at : at + FRAME_BYTES])
            await asyncio.sleep(max(0.0, started_at + 0.02 * (number + 1) - loop.time()))

    async def until(self, happened, limit_s: float = DEADLINE_S) -> None:
        async with asyncio.timeout(limit_s):
            while not happened():
                self._changed.clear()
                await self._changed.wait()

    async def message(self, kind: str, count: int = 1) -> dict:
        def found():
            return [one for one in self.told if one["type"] == kind]

        await self.until(lambda: len(found()) >= count)
        return found()[count - 1]

    async def end(self) -> dict:
        message = await self.message("ended")
        await self.until(lambda: self.closed is not None)
        return message

    async def leave(self) -> None:
        """Close as a browser does that leaves the page (RFC 6455 §7.4.1: 1001)."""
        await self.socket.close(code=1001)

    async def stop(self) -> None:
        await self.socket.close()
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


class World:
    """The gateway and what it published."""

    def __init__(self, bus: Bus, url: str, settings: Settings) -> None:
        self.bus = bus
        self.url = url
        self.stack = AsyncExitStack()
        self.outbox = EventOutbox(bus)
        self.legs = CallLegs(bus.process_id, bus, self.outbox, capacity=settings.browser_max_calls)
        self.config = ConfigCopy(bus)
        self.gateway = BrowserGateway(settings, bus, self.legs, self.config)
        self.web = PageServer(settings, self.gateway, self.config)
        self.events = []
        self._decoder = event_decoder()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.web.port}"

    async def worker(self, **behaviour) -> FakeWorker:
        worker = await self.stack.enter_async_context(FakeWorker(self.url, **behaviour))
        await self.until(lambda: self.legs.roster.is_alive(worker.wk))
        return worker

    async def token(self, org: str | None = None, **parameters) -> RpcReply:
        request = RpcRequest(org=org, parameters=parameters).to_json()
        return RpcReply.model_validate_json(
            await self.admin.request(subjects.rpc("browser_gateway", "token"), request, 2)
        )

    async def page(self, token: str | None, path: str = "/call", **headers) -> Page:
        socket = await self.http.ws_connect(self.base + path, headers=headers)
        page = Page(socket)
        self.stack.push_async_callback(page.stop)
        if token is not None:
            await page.say(type="hello", token=token)
        return page

    async def call(self, to: str = "bestellung", org: str | None = None) -> Page:
        reply = await self.token(org, kind="call", to=to)
        return await self.page(reply.data["token"])

    async def talking(self, **behaviour):
        """A worker, a page that speaks with it, and the offer."""
        worker = await self.worker(**behaviour)
        page = await self.call()
        offer = await worker.offers.get()
        await page.message("answered")
        return worker, page, offer

    async def take(self, msg) -> None:
        event = self._decoder.decode(msg.data)
        if event is not None:
            self.events.append(event)

    async def until(self, happened, limit_s: float = DEADLINE_S) -> None:
        async with asyncio.timeout(limit_s):
            while not happened():  # noqa: ASYNC110  state of other objects has no event
                await asyncio.sleep(0.005)

    async def event(self, kind, count: int = 1):
        await self.until(lambda: len(self.of(kind)) >= count)
        return self.of(kind)[count - 1]

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


@asynccontextmanager
async def world(
    server: NatsServer, *documents: AgentConfig | RouteConfig | OrgConfig, **settings
) -> AsyncIterator[World]:
    bus = await Bus.connect(server.url_of("browser"), new_process_id("gw"))
    admin = await Bus.connect(server.url, new_process_id("test"))
    await provision(admin.js)
    await admin.js.purge_stream(subjects.EVENTS_STREAM)
    store = await bucket(admin.js, subjects.KV_CONFIG)
    with suppress(NoKeysError):
        for key in await store.keys():
            await store.purge(key)
    for document in documents or (AGENT, ROUTE):
        await store.put(document.key, document.to_json())
    given = {"browser_listen_host": "127.0.0.1", "browser_listen_port": 0} | settings
    made = World(bus, server.url, Settings(_env_file=None, **given))
    made.admin = admin
    watching = await admin.js.subscribe(subjects.EVENTS_FILTER, cb=made.take, ordered_consumer=True)
    await made.legs.start()
    await made.gateway.admission.start()
    running = (made.outbox, made.legs, made.config, made.gateway.admission)
    tasks = [asyncio.create_task(one.run()) for one in running]
    async with aiohttp.ClientSession() as made.http:
        try:
            await asyncio.wait_for(made.config.loaded.wait(), 5)
            await made.web.start()
            await made.gateway.listen()
            await bus.subscribed()
            yield made
            await made.outbox.flush(2)
            assert made.web.counters["defects"] == 0
        finally:
            await made.stack.aclose()
            await made.web.stop()
            await watching.unsubscribe()
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            made.gateway.ticker.close()
            await bus.close()
            await admin.close()
