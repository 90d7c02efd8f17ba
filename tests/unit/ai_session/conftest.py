from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import nats
import pytest_asyncio
from nats.aio.client import Client

from libs.contracts.ids import new_process_id
from libs.runtime.bus import Bus
from libs.runtime.outbox import EventOutbox
from libs.runtime.streams import provision
from services.ai_session.backends.factory import PlanBackend, plan_scripted
from services.ai_session.worker import Worker
from tests.support.nats import NatsServer, nats_server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server() -> AsyncIterator[NatsServer]:
    async with nats_server() as running:
        yield running


@asynccontextmanager
async def running_worker(url: str, plan: PlanBackend = plan_scripted, capacity: int = 4) -> AsyncIterator[Worker]:
    bus = await Bus.connect(url, new_process_id("wk"))
    await provision(bus.js)
    outbox = EventOutbox(bus)
    worker = Worker(bus, outbox, plan, capacity)
    tasks = [asyncio.create_task(outbox.run()), asyncio.create_task(worker.run())]
    beats = await bus.control.subscribe(f"v1.hb.wk.{worker.id}")
    await beats.next_msg(timeout=3)
    await beats.unsubscribe()
    try:
        yield worker
        await outbox.flush(2)
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await bus.close()


@asynccontextmanager
async def gateway(url: str) -> AsyncIterator[Client]:
    client = await nats.connect(url, pending_size=-1, reconnect_time_wait=0.05, max_reconnect_attempts=-1)
    try:
        yield client
    finally:
        await client.close()


async def ended(worker: Worker) -> None:
    """Wait until the worker's last session is over."""
    async with asyncio.timeout(3):
        while worker.sessions:
            worker._idle.clear()
            await worker._idle.wait()
