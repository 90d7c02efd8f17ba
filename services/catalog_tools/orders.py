"""Baskets and orders. Each function works inside the caller's transaction and may be repeated.

A basket's revision grows with each change. Submitting stores one order by (call, revision) and one pending
event in the same transaction. After that the basket is closed: the next article begins a new one, with a
higher revision, so that nothing is ordered twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Insert, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from libs.contracts.events import OrderLine, OrderPlaced, event_id
from services.catalog_tools.models import Answer, Basket, BasketLine, Order, OrderedLine, PendingEvent
from services.catalog_tools.money import euros
from services.catalog_tools.search import Article

SOURCE = "catalog_tools"
MOST_LINES = 200
MOST_PIECES = 100_000
REPETITIONS_END = timedelta(days=7)
FIRST_NUMBER = 100_000  # six digits are easy to say and to find again


class OrderError(ValueError):
    """A change that cannot be made; the sentence is for the model to pass on."""


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a tool is called."""

    org: str
    call: str
    epoch: int
    number: str = ""
    agent: str = ""


def insert_once(session: AsyncSession, table: type[Basket | PendingEvent], values: dict[str, Any]) -> Insert:
    """An insert that leaves a row that is there already as it is."""
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(table).values(values).on_conflict_do_nothing()
    return sqlite.insert(table).values(values).on_conflict_do_nothing()


async def lock_basket(session: AsyncSession, caller: Caller) -> Basket:
    """The call's basket, made if missing, locked until the transaction ends.

    Raises:
        OrderError: a worker with a higher epoch has changed it: the call is not the caller's any more (R7).
    """
    key = {"org": caller.org, "call": caller.call}
    await session.execute(insert_once(session, Basket, key | {"revision": 0, "epoch": caller.epoch}))
    basket = await session.get_one(Basket, (caller.org, caller.call), with_for_update=True)
    if caller.epoch < basket.epoch:
        raise OrderError("This call was taken over by another worker; the basket is not changed.")
    basket.epoch = caller.epoch
    return basket


async def add(session: AsyncSession, caller: Caller, article: Article, quantity: int) -> dict[str, Any]:
    """Put articles into the basket; the basket afterwards."""
    basket = await lock_basket(session, caller)
    if basket.submitted_revision is not None:  # what was ordered stays ordered; this begins the next order
        await session.execute(delete(BasketLine).filter_by(org=basket.org, call=basket.call))
        basket.submitted_revision = None
    lines = await _lines(session, basket)
    line = next((line for line in lines if line.article_number == article.article_number), None)
    if (line.quantity if line else 0) + quantity > MOST_PIECES:
        raise OrderError(f"More than {MOST_PIECES} of one article cannot be ordered by phone.")
    if line is None:
        if len(lines) >= MOST_LINES:
            raise OrderError(f"The basket is full: it holds at most {MOST_LINES} different articles.")
        line = BasketLine(
            org=basket.org,
            call=basket.call,
            article_number=article.article_number,
            position=max((other.position for other in lines), default=0) + 1,
            name=article.name,
            unit=article.unit,
            quantity=0,
            unit_price_cents=article.price_cents,
        )
        session.add(line)
    line.quantity += quantity
    basket.revision += 1
    await session.flush()
    return await show(session, caller)


async def remove(session: AsyncSession, caller: Caller, article_number: str, quantity: int | None) -> dict[str, Any]:
    """Take articles out of the basket, all of them without a quantity; the basket afterwards."""
    basket = await lock_basket(session, caller)
    if basket.submitted_revision is not None:
        raise OrderError("The order was submitted already and cannot be changed here.")
    line = next((ln for ln in await _lines(session, basket) if ln.article_number == article_number), None)
    if line is None:
        raise OrderError(f"Article {article_number} is not in the basket; order_show tells what is.")
    if quantity is None or quantity >= line.quantity:
        await session.delete(line)
    else:
        line.quantity -= quantity
    basket.revision += 1
    await session.flush()
    return await show(session, caller)


async def show(session: AsyncSession, caller: Caller) -> dict[str, Any]:
    """The basket as tools report it; an order that it became is named in `submitted`."""
    basket = await session.get(Basket, (caller.org, caller.call))
    lines = await _lines(session, basket) if basket else []
    total = sum(line.quantity * line.unit_price_cents for line in lines)
    shown = {
        "revision": basket.revision if basket else 0,
        "lines": [_line(line) for line in lines],
        "total_eur": euros(total),
    }
    if basket is not None and basket.submitted_revision is not None:
        order = await _order(session, caller, basket.submitted_revision)
        shown["submitted"] = None if order is None else {"order_id": order.order_id, "number": _number(order)}
    return {"basket": shown}


async def submit(
    session: AsyncSession, caller: Caller, revision: int, customer: str | None, note: str | None, now: datetime
) -> dict[str, Any]:
    """Store the basket as an order, once, with its event; a repetition gives the same order.

    Raises:
        OrderError: it is not the `revision` that was read back to the caller, or is empty.
    """
    basket = await lock_basket(session, caller)
    if revision != basket.revision:
        raise OrderError(
            "The order has changed since it was read back; nothing was ordered. Read it back again with order_show."
        )
    lines = await _lines(session, basket)
    order = await _order(session, caller, basket.revision)
    if order is None:
        if not lines:
            raise OrderError("The basket is empty: there is nothing to order.")
        order = Order(
            order_id=f"{caller.call}-{basket.revision}",
            org=caller.org,
            call=caller.call,
            basket_revision=basket.revision,
            caller=caller.number,
            agent=caller.agent,
            customer=customer,
            note=note,
            total_cents=sum(line.quantity * line.unit_price_cents for line in lines),
            placed_at=now,
        )
        session.add(order)
        await session.flush()
        session.add_all(_ordered(order.id, i, line) for i, line in enumerate(lines))
        event = _placed(order, lines)
        session.add(PendingEvent(event_id=event.event_id, body=event.model_dump_json(), created_at=now))
        basket.submitted_revision = basket.revision
        await session.flush()
    ordered = await _ordered_lines(session, [order.id])
    return {
        "order_id": order.order_id,
        "number": _number(order),
        "lines": [_line(line) for line in ordered.get(order.id, [])],
        "total_eur": euros(order.total_cents),
    }


async def list_orders(
    session: AsyncSession, *, org: str | None = None, call: str | None = None, limit: int = 50
) -> list[dict[str, Any]]:
    """Orders with their lines, newest first."""
    query = select(Order).order_by(Order.id.desc()).limit(limit)
    if org is not None:
        query = query.where(Order.org == org)
    if call is not None:
        query = query.where(Order.call == call)
    orders = (await session.scalars(query)).all()
    lines = await _ordered_lines(session, [order.id for order in orders])
    return [
        {
            "order_id": order.order_id,
            "number": _number(order),
            "org": order.org,
            "call": order.call,
            "basket_revision": order.basket_revision,
            "caller": order.caller,
            "agent": order.agent,
            "customer": order.customer,
            "note": order.note,
            "placed_at": order.placed_at.astimezone(UTC).isoformat(),
            "lines": [_line(line) for line in lines.get(order.id, [])],
            "total_eur": euros(order.total_cents),
        }
        for order in orders
    ]


async def forget_old(session: AsyncSession, now: datetime) -> None:
    """Remove what only repetitions of long ended calls could ask for: given answers, published events."""
    await session.execute(delete(Answer).where(Answer.answered_at < now - REPETITIONS_END))
    await session.execute(delete(PendingEvent).where(PendingEvent.published_at < now - REPETITIONS_END))


async def _lines(session: AsyncSession, basket: Basket) -> Sequence[BasketLine]:
    query = select(BasketLine).filter_by(org=basket.org, call=basket.call).order_by(BasketLine.position)
    return (await session.scalars(query)).all()


async def _order(session: AsyncSession, caller: Caller, revision: int) -> Order | None:
    query = select(Order).filter_by(org=caller.org, call=caller.call, basket_revision=revision)
    return (await session.scalars(query)).one_or_none()


async def _ordered_lines(session: AsyncSession, orders: list[int]) -> dict[int, list[OrderedLine]]:
    query = select(OrderedLine).where(OrderedLine.order_pk.in_(orders)).order_by(OrderedLine.position)
    lines: dict[int, list[OrderedLine]] = {}
    for line in await session.scalars(query):
        lines.setdefault(line.order_pk, []).append(line)
    return lines


def _number(order: Order) -> str:
    return str(FIRST_NUMBER + order.id)


def _ordered(order_pk: int, position: int, line: BasketLine) -> OrderedLine:
    return OrderedLine(
        order_pk=order_pk,
        position=position,
        article_number=line.article_number,
        name=line.name,
        unit=line.unit,
        quantity=line.quantity,
        unit_price_cents=line.unit_price_cents,
    )


def _line(line: BasketLine | OrderedLine) -> dict[str, Any]:
    return {
        "article_number": line.article_number,
        "name": line.name,
        "quantity": line.quantity,
        "unit": line.unit,
        "unit_price_eur": euros(line.unit_price_cents),
        "line_total_eur": euros(line.quantity * line.unit_price_cents),
    }


def _placed(order: Order, lines: Sequence[BasketLine]) -> OrderPlaced:
    return OrderPlaced(
        event_id=event_id(order.call, SOURCE, order.basket_revision),
        org=order.org,
        call=order.call,
        at=order.placed_at,
        order_id=order.order_id,
        number=_number(order),
        basket_revision=order.basket_revision,
        lines=tuple(OrderLine(**_line(line)) for line in lines),
        total_eur=euros(order.total_cents),
        customer=order.customer,
    )
