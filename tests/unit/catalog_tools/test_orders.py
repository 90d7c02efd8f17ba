"""Baskets and orders on a real database, without toolbox and bus: revisions, epochs, limits, who sees what."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from libs.contracts.events import OrderPlaced
from services.catalog_tools import orders
from services.catalog_tools.app import opened
from services.catalog_tools.models import Basket, PendingEvent
from services.catalog_tools.orders import Caller, OrderError, add, list_orders, remove, show
from services.catalog_tools.search import Article

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
US = Caller("default", "c", epoch=1, number="+4930123", agent="demo")
PIPE = Article("1", "Rohr", "Rohr", "22", "Kupfer", 100, "Stück")
BEND = Article("2", "Bogen", "Bogen", "22", "Kupfer", 250, "Stück")
CAP = Article("0", "Kappe", "Kappe", "22", "Kupfer", 50, "Stück")


async def submit(session: AsyncSession, caller: Caller, *wishes: str | datetime | None) -> dict:
    """Order what is in the basket now."""
    revision = (await show(session, caller))["basket"]["revision"]
    return await orders.submit(session, caller, revision, *wishes)  # type: ignore[arg-type]


@pytest.fixture
async def session(tmp_path: Path) -> AsyncIterator[AsyncSession]:
    async with opened(f"sqlite:///{tmp_path / 'c.db'}") as sessions, sessions.begin() as session:
        yield session


async def test_a_worker_with_an_older_epoch_is_refused_everywhere(session: AsyncSession) -> None:
    await add(session, replace(US, epoch=2), PIPE, 1)
    for refused in (add(session, US, PIPE, 1), remove(session, US, "1", None), submit(session, US, None, None, NOW)):
        with pytest.raises(OrderError, match="taken over"):
            await refused
    assert (await show(session, US))["basket"]["lines"][0]["quantity"] == 1


async def test_the_basket_remembers_the_highest_epoch_that_changed_it(session: AsyncSession) -> None:
    await add(session, US, PIPE, 1)
    await add(session, replace(US, epoch=3), PIPE, 1)
    assert (await session.get_one(Basket, ("default", "c"))).epoch == 3
    with pytest.raises(OrderError, match="taken over"):
        await add(session, replace(US, epoch=2), PIPE, 1)


async def test_every_change_raises_the_revision_a_partial_removal_too(session: AsyncSession) -> None:
    revisions = [
        (await add(session, US, PIPE, 3))["basket"]["revision"],
        (await remove(session, US, "1", 1))["basket"]["revision"],
        (await remove(session, US, "1", None))["basket"]["revision"],
    ]
    assert revisions == [1, 2, 3]
    assert (await show(session, US))["basket"]["lines"] == []


async def test_the_next_article_after_an_order_begins_a_new_basket(session: AsyncSession) -> None:
    await add(session, US, PIPE, 3)
    first = await submit(session, US, None, None, NOW)
    assert (await show(session, US))["basket"]["submitted"]["order_id"] == first["order_id"]
    basket = (await add(session, US, BEND, 1))["basket"]
    assert [line["article_number"] for line in basket["lines"]] == ["2"]
    assert "submitted" not in basket
    assert (await remove(session, US, "2", 1))["basket"]["lines"] == []  # it is open again
    await add(session, US, BEND, 2)
    second = await submit(session, US, None, None, NOW)
    assert (second["order_id"], second["total_eur"]) == ("c-4", "5.00")


async def test_an_empty_basket_is_no_order(session: AsyncSession) -> None:
    with pytest.raises(OrderError, match="empty"):
        await submit(session, US, None, None, NOW)


async def test_a_basket_holds_so_many_articles_and_no_more(session: AsyncSession) -> None:
    for i in range(orders.MOST_LINES):
        await add(session, US, replace(PIPE, article_number=f"A{i}"), 1)
    with pytest.raises(OrderError, match="at most 200"):
        await add(session, US, BEND, 1)
    await add(session, US, replace(PIPE, article_number="A0"), 1)  # more of one is no further line


async def test_so_many_pieces_of_an_article_and_no_more(session: AsyncSession) -> None:
    await add(session, US, PIPE, orders.MOST_PIECES)
    with pytest.raises(OrderError, match="100000"):
        await add(session, US, PIPE, 1)
    await add(session, US, BEND, 1)


async def test_lines_stand_in_the_order_in_which_they_were_chosen(session: AsyncSession) -> None:
    for article in (BEND, PIPE, CAP):
        await add(session, US, article, 1)
    await remove(session, US, "1", None)
    basket = (await add(session, US, PIPE, 1))["basket"]
    assert [line["article_number"] for line in basket["lines"]] == ["2", "0", "1"]
    placed = await submit(session, US, None, None, NOW)
    assert [line["article_number"] for line in placed["lines"]] == ["2", "0", "1"]


async def test_an_order_and_its_event_say_who_ordered_what(session: AsyncSession) -> None:
    await add(session, US, PIPE, 3)
    placed = await submit(session, US, "Muster", "am Montag", NOW)
    [order] = await list_orders(session)
    assert {key: order[key] for key in ("caller", "agent", "customer", "note", "org", "basket_revision")} == {
        "caller": "+4930123",
        "agent": "demo",
        "customer": "Muster",
        "note": "am Montag",
        "org": "default",
        "basket_revision": 1,
    }
    [pending] = await session.scalars(select(PendingEvent))
    event = OrderPlaced.model_validate_json(pending.body)
    assert (event.customer, event.number, event.at, event.total_eur) == ("Muster", placed["number"], NOW, "3.00")
    assert (event.org, event.call, event.event_id) == ("default", "c", "c:catalog_tools:1")


async def test_orders_are_listed_by_organisation_and_call_the_newest_first(session: AsyncSession) -> None:
    for caller in (US, replace(US, org="other", call="o"), replace(US, call="d")):
        await add(session, caller, PIPE, 1)
        await submit(session, caller, None, None, NOW)
    await add(session, replace(US, call="d"), PIPE, 1)
    await submit(session, replace(US, call="d"), None, None, NOW)

    async def listed(**filters: str | int) -> list[tuple[str, str]]:
        return [(order["org"], order["order_id"]) for order in await list_orders(session, **filters)]

    assert await listed(org="other") == [("other", "o-1")]
    assert await listed(org="default") == [("default", "d-2"), ("default", "d-1"), ("default", "c-1")]
    assert await listed(org="default", call="c") == [("default", "c-1")]
    assert await listed(limit=1) == [("default", "d-2")]
