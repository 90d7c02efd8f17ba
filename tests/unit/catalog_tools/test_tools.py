"""The toolbox without a bus: orders that race, replicas that meet, answers that grow old."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from libs.contracts.events import OrderPlaced
from libs.contracts.tool import ToolReply, ToolRequest
from services.catalog_tools import orders
from services.catalog_tools.app import opened
from services.catalog_tools.catalog import Catalog
from services.catalog_tools.importer import import_csv
from services.catalog_tools.models import Answer, Basket, Order, PendingEvent
from services.catalog_tools.orders import MOST_PIECES, forget_old
from services.catalog_tools.tools import TOOLS, Toolbox
from tests.support.builders import DATABASES, database_url

Sessions = async_sessionmaker[AsyncSession]
NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
T_PIECE = {"article_number": "101004", "quantity": 3}


@pytest.fixture(params=DATABASES)
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    async with database_url(request.param, tmp_path) as fresh:
        yield fresh


@pytest.fixture
async def sessions(url: str) -> AsyncIterator[Sessions]:
    async with opened(url) as sessions:
        yield sessions


async def toolbox(sessions: Sessions) -> Toolbox:
    catalog = Catalog(sessions)
    await catalog.refresh()
    return Toolbox(catalog, sessions)


def request(name: str, tool_call_id: str, epoch: int = 1, **arguments: object) -> ToolRequest:
    return ToolRequest(
        call="c",
        org="default",
        epoch=epoch,
        tool_call_id=tool_call_id,
        name=name,
        arguments=arguments,
        deadline_at=datetime.now(UTC) + timedelta(seconds=8),
    )


async def test_an_order_submitted_by_two_replicas_at_once_is_stored_once(url: str, sessions: Sessions) -> None:
    async with opened(url) as others:
        boxes = [await toolbox(sessions), await toolbox(others)]
        await boxes[0].answer(request("order_add", "t0", **T_PIECE))
        replies: list[ToolReply] = await asyncio.gather(
            *(boxes[i % 2].answer(request("order_submit", f"s{i // 4}", epoch=1, revision=1)) for i in range(12))
        )
    assert {reply.output["number"] for reply in replies} == {"100001"}
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(Order)) == 1
        [pending] = (await session.scalars(select(PendingEvent))).all()
    event = OrderPlaced.model_validate_json(pending.body)
    assert (event.event_id, event.lines[0].quantity, event.total_eur) == ("c:catalog_tools:1", 3, "11.55")


async def test_a_price_change_leaves_baskets_and_orders_as_they_were(sessions: Sessions) -> None:
    box = await toolbox(sessions)
    await box.answer(request("order_add", "t1", **T_PIECE))
    async with sessions() as session:
        await import_csv(session, "article_number;name;type;price_eur\n101004;T-Stück neu;T-Stück;99.00\n")
    box = await toolbox(sessions)
    basket = (await box.answer(request("order_add", "t2", **T_PIECE))).output["basket"]
    assert [(line["quantity"], line["unit_price_eur"]) for line in basket["lines"]] == [(6, "3.85")]


async def test_given_answers_and_published_events_are_forgotten_after_a_week(sessions: Sessions) -> None:
    box = await toolbox(sessions)
    await box.answer(request("order_add", "t1", **T_PIECE))
    await box.answer(request("order_submit", "t2", revision=1))
    async with sessions.begin() as session:
        await forget_old(session, datetime.now(UTC) + timedelta(days=8))
    async with sessions() as session:
        assert (await session.scalars(select(Answer))).all() == []
        assert len((await session.scalars(select(PendingEvent))).all()) == 1  # not published yet
    again = await box.answer(request("order_submit", "t2", revision=1))
    assert again.output["number"] == "100001"


async def test_a_tool_call_id_that_comes_with_another_request_is_refused(sessions: Sessions) -> None:
    box = await toolbox(sessions)
    first = await box.answer(request("order_add", "t1", **T_PIECE))
    assert await box.answer(request("order_add", "t1", article_number=101004.0, quantity="3")) == first
    for name, arguments in (
        ("order_add", T_PIECE | {"quantity": 4}),
        ("order_add", {"article_number": "103002", "quantity": 3}),
        ("order_remove", T_PIECE),
    ):
        reply = await box.answer(request(name, "t1", **arguments))
        assert reply.error == "This tool_call_id was used for another request already; nothing was changed."
    assert (await box.answer(request("order_show", "t2"))).output["basket"] == first.output["basket"]


async def test_the_same_tool_call_at_the_same_time_changes_the_basket_once(sessions: Sessions) -> None:
    box = await toolbox(sessions)
    replies = await asyncio.gather(*(box.answer(request("order_add", "t1", **T_PIECE)) for _ in range(6)))
    assert all(reply == replies[0] for reply in replies)
    assert replies[0].output["basket"]["lines"][0]["quantity"] == 3
    assert box.counters["repeated"] == 5


async def test_a_repetition_that_waited_for_the_basket_is_seen_after_the_lock(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on PostgreSQL, where both look before either has locked."""
    box, lock = await toolbox(sessions), orders.lock_basket
    store = Answer(org="default", call="c", tool_call_id="t1", reply='{"ok": true, "output": 1}', answered_at=NOW)

    async def overtaken(session: AsyncSession, caller: orders.Caller) -> Basket:
        basket = await lock(session, caller)
        if not await session.get(Answer, ("default", "c", "t1")):
            session.add(store)
            await session.flush()
        return basket

    monkeypatch.setattr(orders, "lock_basket", overtaken)
    reply = await box.answer(request("order_add", "t1", **T_PIECE))
    assert (reply.ok, reply.output) == (True, 1)
    assert (await box.answer(request("order_show", "t2"))).output["basket"]["lines"] == []


async def test_the_relay_is_woken_by_an_order_and_by_nothing_else(sessions: Sessions) -> None:
    catalog = Catalog(sessions)
    await catalog.refresh()
    woken: list[int] = []
    box = Toolbox(catalog, sessions, ordered=lambda: woken.append(1))
    assert not (await box.answer(request("order_submit", "t0", revision=0))).ok
    await box.answer(request("order_add", "t1", **T_PIECE))
    assert woken == []
    await box.answer(request("order_submit", "t2", revision=1))
    assert woken == [1]


async def test_an_unknown_tool_is_refused_with_a_sentence(sessions: Sessions) -> None:
    reply = await (await toolbox(sessions)).answer(request("order_pizza", "t1"))
    assert (reply.ok, reply.error) == (False, "There is no tool 'order_pizza'.")


@pytest.mark.parametrize("name", ["order_add", "order_remove"])
def test_models_are_told_the_bounds_of_a_quantity(name) -> None:
    quantity = TOOLS[name].describe().parameters["properties"]["quantity"]
    assert (quantity["type"], quantity["minimum"], quantity["maximum"]) == ("integer", 1, MOST_PIECES)


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
def test_parameters_are_a_plain_schema_for_speech_models(tool) -> None:
    parameters = tool.describe().parameters
    assert set(parameters) == {"type", "properties", "required"}
    for entry in parameters["properties"].values():
        assert {"type", "description"} <= set(entry)
        assert not {"anyOf", "title", "default"} & set(entry)


async def test_only_what_was_read_back_is_ordered(sessions: Sessions) -> None:
    box = await toolbox(sessions)
    await box.answer(request("order_add", "t1", **T_PIECE))
    without = await box.answer(request("order_submit", "t2"))
    assert without.error.startswith("Read the order back first")
    shown = (await box.answer(request("order_show", "t3"))).output
    assert shown["say"] == "drei Stück T-Stück 22 mm Kupfer, Lötfitting, zusammen elf Euro fünfundfünfzig."
    await box.answer(request("order_add", "t4", article_number="103002", quantity=1))
    changed = await box.answer(request("order_submit", "t5", revision=shown["basket"]["revision"]))
    assert "changed since it was read back" in changed.error
    again = (await box.answer(request("order_show", "t6", language="en"))).output
    assert "altogether" in again["say"]
    ordered = await box.answer(request("order_submit", "t7", revision=again["basket"]["revision"]))
    assert ordered.output["say"] == "Ihre Bestellnummer ist eins null null, null null eins."
