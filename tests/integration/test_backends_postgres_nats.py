"""The stores on PostgreSQL and NATS as production runs them: in containers, where they can be had."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import nats.errors
import pytest
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from cli import checkout
from libs.contracts import subjects
from libs.contracts.rpc import RpcReply, RpcRequest
from libs.contracts.tool import ToolReply, ToolRequest
from libs.runtime.bus import Bus
from libs.runtime.outbox import EventOutbox
from libs.runtime.streams import provision
from tests.support.builders import POSTGRES, demo_call, publish, running_outbox
from tests.support.containers import nats_for_tests, postgres_for_tests

pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:testcontainers.*"),  # testcontainers in itself
]


@dataclass(frozen=True, slots=True)
class Backends:
    """Where they listen."""

    nats_url: str
    postgres_url: str


@pytest.fixture(scope="module")
def backends() -> Iterator[Backends]:
    with nats_for_tests() as bus, postgres_for_tests() as database:
        yield Backends(bus, database)


@asynccontextmanager
async def service(name: str, **environment: str) -> AsyncIterator[None]:
    """A service's process; ends by SIGTERM, and must end well."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"services.{name}"),
        cwd=checkout.ROOT,
        env={"PATH": os.environ["PATH"], "LOG_FORMAT": "json", **environment},
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    logged = asyncio.create_task(process.stderr.read())
    try:
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        log = (await logged).decode()
        code = await process.wait()
    assert code == 0, log[-4000:]


async def ask(bus: Bus, subject: str, payload: bytes) -> bytes:
    """Ask until somebody listens."""
    waiting = AsyncRetrying(
        stop=stop_after_delay(20), wait=wait_fixed(0.1), reraise=True,
        retry=retry_if_exception_type((nats.errors.NoRespondersError, nats.errors.TimeoutError)),
    )  # fmt: skip
    return await waiting(bus.request, subject, payload, 5)


async def query(bus: Bus, name: str, verb: str, **parameters: object) -> Any:
    payload = RpcRequest(org="default", parameters=parameters).to_json()
    reply = RpcReply.model_validate_json(await ask(bus, subjects.rpc(name, verb), payload))
    assert reply.ok, reply.error
    return reply.data


async def tool(bus: Bus, tool_call_id: str, name: str, **arguments: object) -> dict[str, Any]:
    request = ToolRequest(
        call="01JCALL", org="default", epoch=1, tool_call_id=tool_call_id, name=name, arguments=arguments,
        deadline_at=datetime.now(UTC) + timedelta(seconds=30), caller="+4930123", agent="bestellung",
    )  # fmt: skip
    reply = ToolReply.model_validate_json(await ask(bus, subjects.tool("default", name), request.to_json()))
    assert reply.ok, reply.error
    return reply.output


@asynccontextmanager
async def bus_of(backends: Backends) -> AsyncIterator[Bus]:
    bus = await Bus.connect(backends.nats_url, "test")
    try:
        await provision(bus.js)
        yield bus
    finally:
        await bus.close()


async def rows(backends: Backends, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(backends.postgres_url)
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


async def test_a_call_becomes_a_conversation_in_postgresql(backends: Backends) -> None:
    settings = {"NATS_URL": backends.nats_url, "TRANSCRIPT_DATABASE_URL": backends.postgres_url}
    script = demo_call("01JCONTAINER")
    async with bus_of(backends) as bus, running_outbox(EventOutbox(bus)) as outbox:
        async with service("transcript_store", **settings):
            await publish(outbox, script.events)
            async with asyncio.timeout(20):
                while True:
                    listed = (await query(bus, "transcript_store", "list"))["conversations"]
                    if listed and listed[0]["ended_at"]:
                        break
                    await asyncio.sleep(0.1)
            assert [one["call"] for one in listed] == ["01JCONTAINER"]
        async with service("transcript_store", **settings):  # the migrations stand, nothing comes twice
            await publish(outbox, script.events)
            found = await query(bus, "transcript_store", "get", call="01JCONTAINER")
        assert found["conversation"]["outcome"] == "ordered"
        stored = await rows(backends, "SELECT event_id FROM events")
        assert sorted(row["event_id"] for row in stored) == sorted(event.event_id for event in script.events)
    assert await rows(backends, "SELECT version_num FROM transcript_store_version")


async def test_an_order_is_stored_and_announced_exactly_once_in_postgresql(backends: Backends) -> None:
    # the same database as the transcripts': they share it without seeing each other
    settings = {"NATS_URL": backends.nats_url, "CATALOG_DATABASE_URL": backends.postgres_url}
    async with bus_of(backends) as bus:
        placed = await bus.control.subscribe(subjects.events_of_kind("order.placed"))
        async with service("catalog_tools", **settings):
            found = await tool(bus, "t1", "search_products", query="Uebergangsmuffen 22er auf 15", limit=1)
            number = found["products"][0]["article_number"]
            await tool(bus, "t2", "order_add", article_number=number, quantity=10)
            first = await asyncio.gather(*(tool(bus, f"s{n}", "order_submit", revision=1) for n in range(5)))
        async with service("catalog_tools", **settings):
            again = await tool(bus, "s9", "order_submit", revision=1)
            orders = (await query(bus, "catalog_tools", "orders"))["orders"]
        assert {reply["order_id"] for reply in [*first, again]} == {orders[0]["order_id"]}
        assert len(orders) == 1
        await placed.next_msg(5)
        with pytest.raises(nats.errors.TimeoutError):
            await placed.next_msg(0.3)


async def test_the_stores_own_tests_pass_on_postgresql(backends: Backends) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "postgresql"),
        "tests/integration/test_stores_transcript.py",
        "tests/integration/test_stores_catalog_tools.py",
        cwd=checkout.ROOT,
        env=os.environ | {POSTGRES: backends.postgres_url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await process.communicate()
    text = told.decode()
    assert process.returncode == 0, text[-6000:]
    assert " passed" in text
    assert " skipped" not in text
