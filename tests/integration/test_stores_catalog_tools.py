"""catalog_tools over a real nats-server and a real database: tools by name, orders exactly once."""

import asyncio
import json
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from nats.aio.subscription import Subscription
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from libs.contracts import subjects
from libs.contracts.rpc import RpcReply, RpcRequest
from libs.contracts.tool import ToolReply, ToolRequest
from libs.runtime import database
from libs.runtime.bus import Bus
from libs.runtime.database import reading
from libs.runtime.outbox import EventOutbox
from libs.runtime.streams import provision
from services.catalog_tools import app
from services.catalog_tools.app import App, opened
from services.catalog_tools.importer import import_csv
from services.catalog_tools.models import Answer
from services.catalog_tools.settings import Settings
from services.catalog_tools.tools import TOOLS
from tests.support.builders import DATABASES, database_url, running_outbox
from tests.support.nats import NatsServer, nats_server
from tests.support.waiting import until

CALL = "01JCALL"


class Shop:
    """The running service and a client beside it."""

    def __init__(self, bus: Bus, app: App, placed: Subscription) -> None:
        self.bus = bus
        self.app = app
        self._placed = placed
        self._calls = 0

    async def raw(self, name: str, payload: bytes) -> ToolReply:
        return ToolReply.model_validate_json(await self.bus.request(subjects.tool("default", name), payload, 5))

    async def tool(self, name: str, arguments: dict | None = None, **fields: object) -> ToolReply:
        self._calls += 1
        request = {
            "call": CALL,
            "org": "default",
            "epoch": 1,
            "tool_call_id": f"tc{self._calls}",
            "name": name,
            "arguments": arguments or {},
            "deadline_at": datetime.now(UTC) + timedelta(seconds=5),
            "caller": "+4930123",
            "agent": "demo",
        }
        return await self.raw(name, ToolRequest(**(request | fields)).to_json())

    async def query(self, verb: str, **parameters: object) -> RpcReply:
        payload = RpcRequest(org="default", parameters=parameters).to_json()
        return RpcReply.model_validate_json(await self.bus.request(subjects.rpc("catalog_tools", verb), payload, 10))

    async def events(self) -> list[dict]:
        found = []
        info = await self.bus.js.stream_info("EVENTS")
        for seq in range(max(1, info.state.first_seq), info.state.last_seq + 1):
            found.append(json.loads((await self.bus.js.get_msg("EVENTS", seq)).data))
        return [e for e in found if e["kind"] == "order.placed"]

    async def order_events(self, count: int) -> list[dict]:
        for _ in range(count):
            await self._placed.next_msg(10)
        return await self.events()


@asynccontextmanager
async def shop(server: NatsServer, url: str, *, publishing: bool = True) -> AsyncIterator[Shop]:
    """The service on `url`; without `publishing` its events stay in the database, as after a sudden death."""
    bus = await Bus.connect(server.url, "ct-test")
    await provision(bus.js)
    settings = Settings(catalog_database_url=url, catalog_refresh_s=0.05, _env_file=None)
    placed = await bus.control.subscribe(subjects.events_of_kind("order.placed"))
    outbox, stopping, up = EventOutbox(bus), asyncio.Event(), asyncio.Event()
    try:
        async with opened(url) as sessions, running_outbox(outbox), asyncio.TaskGroup() as tasks:
            running = App(bus, outbox, sessions, settings)
            if not publishing:
                running.relay.publish_pending = nothing_published  # type: ignore[method-assign]
            tasks.create_task(running.run(stopping, listening=up.set))
            await up.wait()
            yield Shop(bus, running, placed)
            stopping.set()
    finally:
        await bus.close()


async def nothing_published() -> int:
    return 0


@pytest.fixture(params=DATABASES)
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    async with database_url(request.param, tmp_path) as fresh:
        yield fresh


@pytest.fixture
async def running(url: str) -> AsyncIterator[Shop]:
    async with nats_server() as server, shop(server, url) as running:
        yield running


async def test_a_caller_finds_orders_and_submits_exactly_one_order(running: Shop) -> None:
    types = await running.tool("product_types")
    assert {"T-Stück", "Übergangsmuffe", "Bogen", "Kappe", "Kugelhahn"} <= set(types.output["types"])
    found = await running.tool("search_products", {"query": "Uebergangsmuffen 22er auf 15", "limit": 3})
    assert len(found.output["products"]) == 3 <= found.output["total_hits"]
    product = found.output["products"][0]
    assert product["name"].startswith("Übergangsmuffe 22x15")
    number = product["article_number"]
    assert (await running.tool("product_details", {"article_number": number})).output["product"] == product
    await running.tool("order_add", {"article_number": number, "quantity": 10})
    basket = (await running.tool("order_add", {"article_number": "101004", "quantity": "2"})).output["basket"]
    assert (basket["revision"], len(basket["lines"])) == (2, 2)
    assert basket["lines"][1] == {
        "article_number": "101004",
        "name": "T-Stück 22 mm Kupfer, Lötfitting",
        "quantity": 2,
        "unit": "Stück",
        "unit_price_eur": "3.85",
        "line_total_eur": "7.70",
    }
    await running.tool("order_remove", {"article_number": "101004", "quantity": 1})
    shown = (await running.tool("order_show")).output["basket"]
    assert [line["quantity"] for line in shown["lines"]] == [10, 1]
    again = await asyncio.gather(
        *(running.tool("order_submit", {"customer": "Muster", "revision": 3}) for _ in range(8))
    )
    late = await running.tool("order_submit", {"revision": 3}, tool_call_id="of-the-next-worker", epoch=2)
    assert {json.dumps(reply.output, sort_keys=True) for reply in [*again, late]} == {
        json.dumps(again[0].output, sort_keys=True)
    }
    assert again[0].ok
    assert again[0].output["total_eur"] == shown["total_eur"]
    [event] = await running.order_events(1)
    assert event["event_id"] == f"{CALL}:catalog_tools:3"
    assert (event["number"], event["total_eur"], event["customer"]) == (
        again[0].output["number"],
        shown["total_eur"],
        "Muster",
    )
    orders = (await running.query("orders")).data["orders"]
    assert [order["order_id"] for order in orders] == [again[0].output["order_id"]]
    assert orders[0]["lines"] == again[0].output["lines"]


async def test_changes_are_made_once_by_tool_call_id_even_at_the_same_time(running: Shop) -> None:
    add = {"article_number": "101004", "quantity": 5}
    replies = await asyncio.gather(*(running.tool("order_add", add, tool_call_id="same") for _ in range(10)))
    assert {reply.output["basket"]["total_eur"] for reply in replies} == {"19.25"}
    different = await asyncio.gather(*(running.tool("order_add", add) for _ in range(10)))
    assert all(reply.ok for reply in different)
    basket = (await running.tool("order_show")).output["basket"]
    assert (basket["revision"], basket["lines"][0]["quantity"]) == (11, 55)


async def test_what_is_added_after_an_order_is_a_new_order(running: Shop) -> None:
    await running.tool("order_add", {"article_number": "101004", "quantity": 5})
    first = await running.tool("order_submit", {"revision": 1})
    assert (await running.tool("order_show")).output["basket"]["submitted"]["order_id"] == first.output["order_id"]
    refused = await running.tool("order_remove", {"article_number": "101004"})
    assert not refused.ok
    await running.tool("order_add", {"article_number": "103002", "quantity": 1})
    second = await running.tool("order_submit", {"revision": 2})
    assert [line["article_number"] for line in second.output["lines"]] == ["103002"]
    assert first.output["order_id"] != second.output["order_id"]
    assert len(await running.order_events(2)) == 2


async def test_a_worker_that_was_replaced_changes_nothing(running: Shop) -> None:
    await running.tool("order_add", {"article_number": "101004", "quantity": 5}, epoch=2)
    assert not (await running.tool("order_add", {"article_number": "101004", "quantity": 5}, epoch=1)).ok
    assert not (await running.tool("order_submit", {"revision": 1}, epoch=1)).ok
    assert (await running.tool("order_show", epoch=1)).output["basket"]["lines"][0]["quantity"] == 5


async def test_baskets_of_calls_and_organisations_are_apart(running: Shop) -> None:
    await running.tool("order_add", {"article_number": "101004", "quantity": 5})
    assert (await running.tool("order_show", call="another")).output["basket"] == {
        "revision": 0,
        "lines": [],
        "total_eur": "0.00",
    }
    assert not (await running.tool("order_show", org="other")).ok  # the subject says another organisation


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("search_products", {}),
        ("search_products", {"query": ["a"]}),
        ("search_products", {"query": "Bogen", "limit": 0}),
        ("product_details", {"article_number": "999999"}),
        ("order_add", {"article_number": "101004"}),
        ("order_add", {"article_number": "101004", "quantity": 0}),
        ("order_add", {"article_number": "101004", "quantity": -3}),
        ("order_add", {"article_number": "101004", "quantity": 2.5}),
        ("order_add", {"article_number": "101004", "quantity": 10**12}),
        ("order_add", {"article_number": "101004", "quantity": True}),
        ("search_products", {"query": "Bogen", "limit": True}),
        ("order_add", {"article_number": "nope", "quantity": 1}),
        ("order_remove", {"article_number": "101004"}),
        ("order_submit", {}),
        ("order_submit", {"revision": 0}),
        ("order_submit", {"note": "x" * 501}),
    ],
)
async def test_bad_arguments_are_answered_with_one_sentence(running: Shop, name: str, arguments: dict) -> None:
    reply = await running.tool(name, arguments)
    assert not reply.ok
    assert reply.error.endswith(".")
    assert "\n" not in reply.error


async def test_garbage_and_late_requests_are_answered_and_the_service_lives(running: Shop) -> None:
    assert not (await running.raw("order_show", b"\xff\x00")).ok
    assert not (await running.raw("order_show", b"{}")).ok
    late = await running.tool("order_show", deadline_at=datetime.now(UTC) - timedelta(seconds=1))
    assert (late.ok, late.error) == (False, "That took too long; please try again.")
    wrong = ToolRequest(
        call=CALL, org="default", epoch=1, tool_call_id="x", name="order_submit", deadline_at=datetime.now(UTC)
    )
    assert not (await running.raw("order_show", wrong.to_json())).ok
    assert (await running.tool("order_show")).ok
    for fields in ({"org": "other"}, {"name": "order_submit"}):
        request = ToolRequest(
            **{"org": "default", "name": "product_types"} | fields,
            call=CALL,
            epoch=1,
            tool_call_id="x",
            deadline_at=datetime.now(UTC) + timedelta(seconds=5),
        )
        assert "another tool or organisation" in (await running.raw("product_types", request.to_json())).error


async def test_an_order_committed_before_a_sudden_death_is_published_at_the_next_start(url: str) -> None:
    async with nats_server() as server:
        async with shop(server, url, publishing=False) as first:
            await first.tool("order_add", {"article_number": "101004", "quantity": 1})
            assert (await first.tool("order_submit", {"revision": 1})).ok
            assert await first.events() == []
        async with shop(server, url) as second:
            [event] = await second.order_events(1)
            assert event["order_id"] == f"{CALL}-1"
            await until(lambda: second.app.relay.published == 1)
            assert not await second.app.relay.publish_pending()
        async with shop(server, url) as third:
            assert len(await third.events()) == 1


async def test_tools_describe_themselves_in_their_metadata(running: Shop) -> None:
    info = json.loads(await running.bus.request("$SRV.INFO.catalog_tools", b"", 2))
    endpoints = {endpoint["name"]: endpoint for endpoint in info["endpoints"]}
    assert set(endpoints) == set(TOOLS)
    add = endpoints["order_add"]
    assert add["subject"] == "v1.*.tool.order_add"
    parameters = json.loads(add["metadata"]["parameters"])
    assert parameters["required"] == ["article_number", "quantity"]
    assert parameters["properties"]["quantity"]["type"] == "integer"
    assert add["metadata"]["timeout_ms"] == "8000"
    assert add["metadata"]["idempotent"] == "true"
    assert add["metadata"]["description"]


async def test_an_import_replaces_the_catalogue_or_changes_nothing(running: Shop) -> None:
    before = (await running.query("products")).data["total_hits"]
    assert before >= 375
    bad = await running.query("import", csv="article_number;name;type;price_eur\n1;Rohr;Rohr;abc\n2;;Rohr;1,00\n")
    assert bad.data == {
        "imported": 0,
        "errors": ["line 2: price 'abc' is not an amount", "line 3: name is missing"],
    }
    assert (await running.query("products")).data["total_hits"] == before
    good = await running.query("import", csv='Artikelnummer,Bezeichnung,Typ,Preis\nA-1,Dübel 8 mm,Dübel,"0,05"\n')
    assert good.data == {"imported": 1, "errors": []}
    found = await running.tool("search_products", {"query": "Duebel 8er"})
    assert [product["price_eur"] for product in found.output["products"]] == ["0.05"]
    assert not (await running.query("orders", limit="many")).ok


async def test_an_answer_too_large_for_a_message_is_refused_and_the_service_lives(running: Shop, url: str) -> None:
    lines = "\n".join(f"A{i};{'ü' * 900};Rohr;1;{'ö' * 900}" for i in range(600))
    async with opened(url) as sessions, sessions() as session:
        assert (await import_csv(session, f"article_number;name;type;price_eur;material\n{lines}")).ok
    await running.app.catalog.refresh()
    reply = await running.query("products", limit=500)
    assert (reply.ok, reply.error) == (False, "the answer is too large: lower 'limit' or narrow the query")
    assert len((await running.query("products", limit=100)).data["products"]) == 100
    assert "500" in (await running.query("products", limit=501)).error
    assert "500" in (await running.query("orders", limit=501)).error
    assert (await running.tool("order_show")).ok


async def test_a_locked_database_is_told_in_time_and_shows_in_readiness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.2)
    monkeypatch.setattr(database, "PROBE_EVERY_S", 0.05)
    async with nats_server() as server, shop(server, f"sqlite:///{tmp_path}/x.db") as running:
        await running.tool("order_add", {"article_number": "101004", "quantity": 5})
        other = sqlite3.connect(tmp_path / "x.db", isolation_level=None, check_same_thread=False)
        await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")  # waits for what the service still has to commit
        assert (await running.tool("order_show")).output["basket"]["lines"][0]["quantity"] == 5
        refused = await running.tool("order_add", {"article_number": "101004", "quantity": 5})
        assert refused.error == "The catalogue cannot be reached at the moment; please try again."
        await until(running.app.probe.problem)
        other.close()
        await until(lambda: running.app.probe.problem() is None)
        assert (await running.tool("order_add", {"article_number": "101004", "quantity": 5})).ok


async def test_old_answers_are_forgotten_while_the_service_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "FORGET_EVERY_S", 0.05)
    url = f"sqlite:///{tmp_path}/x.db"
    async with nats_server() as server, shop(server, url) as running, opened(url) as sessions:
        running.app.toolbox._clock = lambda: datetime.now(UTC) - timedelta(days=8)
        await running.tool("order_add", {"article_number": "101004", "quantity": 5})
        async with asyncio.timeout(10):
            while await answers(sessions):  # noqa: ASYNC110  rows cannot be awaited
                await asyncio.sleep(0.02)


async def answers(sessions: async_sessionmaker[AsyncSession]) -> int:
    async with reading(sessions) as session:
        return len((await session.scalars(select(Answer))).all())


async def test_the_process_starts_answers_and_stops_cleanly(tmp_path: Path) -> None:
    async with nats_server() as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.catalog_tools",
            env={"NATS_URL": server.url, "CATALOG_DATABASE_URL": f"sqlite:///{tmp_path}/a/b.db", "LOG_FORMAT": "json"},
            stderr=asyncio.subprocess.PIPE,
        )
        bus = await Bus.connect(server.url, "test")
        try:
            payload = RpcRequest(parameters={"text": "Bogen"}).to_json()
            async with asyncio.timeout(20):
                while True:
                    try:
                        reply = await bus.request(subjects.rpc("catalog_tools", "products"), payload, 5)
                        break
                    except Exception:  # noqa: BLE001  not listening yet
                        await asyncio.sleep(0.05)
            assert RpcReply.model_validate_json(reply).data["products"][0]["type"] == "Bogen"
        finally:
            await bus.close()
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            _, log = await process.communicate()
        assert process.returncode == 0, log.decode()
