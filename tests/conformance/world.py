"""A bus, the legs of one gateway process, a scripted worker; the entrance comes from a driver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Protocol

from libs.call_leg.gateway import CallLegs
from libs.contracts import events, subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.config import OrgConfig, RouteConfig
from libs.contracts.ids import new_process_id
from libs.contracts.originate import Originate, OriginateReply
from libs.contracts.wire import event_decoder
from libs.runtime.bus import Bus
from libs.runtime.config_copy import ConfigCopy
from libs.runtime.outbox import EventOutbox
from libs.runtime.streams import bucket, provision
from tests.support.fake_worker import FakeWorker
from tests.support.nats import NatsServer

AGENT = AgentConfig(name="bestellung", greeting="Guten Tag.")
ROUTE = RouteConfig(name="bestellung", match=("bestellung", "+49301234567"), agent="bestellung")


class FarEnd(Protocol):
    """The other side of one call, in telephone terms. Audio is PCM 16 bit at 8 kHz."""

    async def wait_answered(self) -> None: ...

    async def wait_refused(self) -> None:
        """The call is over and was never answered."""

    async def wait_over(self) -> None: ...

    async def says(self, pcm: bytes) -> None:
        """In real time; returns when it is said."""

    def heard(self) -> bytes:
        """Everything since the answer."""

    async def presses(self, digit: str) -> None: ...

    def pressed(self) -> str:
        """Keys that were pressed at our side."""

    async def hangs_up(self) -> None: ...

    async def gives_up(self) -> None:
        """Before the answer."""

    async def holds(self, held: bool) -> object:
        """Gives what our side said to it."""


class Driver(Protocol):
    """One gateway and how its callers and callees behave."""

    name: str
    entrance: str
    cannot: Mapping[str, str]
    """By test: why this entrance does not do it. These tests must fail; one that passes is an error, too."""

    async def start(self, world: World) -> None:
        """Build the gateway on the world's bus and legs; whatever must end goes onto its stack."""

    async def dials(self, user: str) -> FarEnd:
        """Somebody calls us and waits."""

    async def callee(self, behaviour: str) -> str:
        """A number that `answers`, is `busy` or stays `silent`; for `picked_up`."""

    async def picked_up(self) -> FarEnd:
        """The far end of the call that was placed last."""


class World:
    """One gateway process and what it published."""

    def __init__(self, bus: Bus, url: str, capacity: int) -> None:
        self.bus = bus
        self.url = url
        self.stack = AsyncExitStack()
        self.outbox = EventOutbox(bus)
        self.legs = CallLegs(bus.process_id, bus, self.outbox, capacity=capacity)
        self.config = ConfigCopy(bus)
        self.events: list[events.CallEvent] = []
        self._decoder = event_decoder()
        self._tasks: list[asyncio.Task] = []

    def run(self, work) -> None:
        """Beside the test, until its end."""
        self._tasks.append(asyncio.create_task(work))

    async def worker(self, **behaviour) -> FakeWorker:
        worker = await self.stack.enter_async_context(FakeWorker(self.url, **behaviour))
        await self.until(lambda: self.legs.roster.is_alive(worker.wk))
        return worker

    async def take(self, msg) -> None:
        event = self._decoder.decode(msg.data)
        if event is not None:
            self.events.append(event)

    async def until(self, happened, limit_s: float = 10.0) -> None:
        async with asyncio.timeout(limit_s):
            while not happened():  # noqa: ASYNC110  state of other objects has no event
                await asyncio.sleep(0.005)

    async def event(self, kind, count: int = 1):
        await self.until(lambda: len(self.of(kind)) >= count)
        return self.of(kind)[count - 1]

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    async def command(self, call: str, command):
        """As a person does it, from outside the call."""
        from libs.contracts.commands import CommandReply

        data = await self.bus.request(subjects.control("default", call, "leg"), command.to_json(), 2)
        return CommandReply.model_validate_json(data)

    async def originate(self, entrance: str, request: Originate) -> OriginateReply:
        data = await self.bus.request(subjects.originate("default", entrance), request.to_json(), 5)
        return OriginateReply.model_validate_json(data)

    async def close(self) -> None:
        await self.outbox.flush(2)
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self.stack.aclose()


@asynccontextmanager
async def world(
    server: NatsServer, driver: Driver, *documents: AgentConfig | RouteConfig | OrgConfig, capacity: int = 20
) -> AsyncIterator[World]:
    bus = await Bus.connect(server.url, new_process_id("gw"))
    await provision(bus.js)
    await bus.js.purge_stream(subjects.EVENTS_STREAM)
    store = await bucket(bus.js, subjects.KV_CONFIG)
    for document in documents or (AGENT, ROUTE):
        await store.put(document.key, document.to_json())
    made = World(bus, server.url, capacity)
    watching = await bus.js.subscribe(subjects.EVENTS_FILTER, cb=made.take, ordered_consumer=True)
    await made.legs.start()
    for part in (made.outbox, made.legs, made.config):
        made.run(part.run())
    try:
        await asyncio.wait_for(made.config.loaded.wait(), 5)
        await driver.start(made)
        yield made
    finally:
        await made.close()
        await watching.unsubscribe()
        await bus.close()
