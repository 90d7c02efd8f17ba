"""Writing to the database: events once by id, then the rows of the calls they belong to, in one transaction.

The conversation's row is locked first, so that two replicas with events of one call project one after the
other and neither misses what the other wrote.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Insert, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from libs.contracts.events import Event
from libs.contracts.wire import event_decoder
from services.transcript_store.models import (
    Conversation,
    DeletedCall,
    Latency,
    OrderReference,
    StoredEvent,
    Table,
    ToolCall,
    Turn,
    Usage,
)
from services.transcript_store.projection import Projection, Row, project

DETAILS: tuple[type[Table], ...] = (Turn, ToolCall, Usage, Latency, OrderReference)
OF_A_CALL: tuple[type[Table], ...] = (*DETAILS, StoredEvent, Conversation)
REMEMBER_DELETED = timedelta(days=8)  # a day more than EVENTS keeps its messages


@dataclass(frozen=True, slots=True)
class Received:
    """An event and the JSON it came as (newer senders' fields included)."""

    event: Event
    body: str


@dataclass(frozen=True, slots=True)
class OpenConversation:
    """A call that was offered and has not ended, as far as the store knows."""

    call: str
    org: str
    gw: str | None
    offered_at: datetime
    answered_at: datetime | None
    last_event_at: datetime


class StillOpenError(ValueError):
    """A call that goes on cannot be deleted."""


class Store:
    """The tables of the conversations, for the consumer, the janitor and deletions."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._sessions = sessions
        self._decoder = event_decoder()

    async def write(self, batch: Sequence[Received]) -> int:
        """Store what is new and project its calls; how many events were new.

        Raises:
            sqlalchemy.exc.SQLAlchemyError, OSError: nothing was written.
        """
        by_call: dict[str, list[Received]] = defaultdict(list)
        for received in batch:
            by_call[received.event.call].append(received)
        async with self._sessions.begin() as session:
            await self._lock(session, {call: entries[0].event.org for call, entries in by_call.items()})
            for call in await self._deleted(session, list(by_call)):
                await session.execute(delete(Conversation).where(Conversation.call == call))
                del by_call[call]
            new = await self._insert_events(session, [entry for entries in by_call.values() for entry in entries])
            for call, events in (await self._events(session, sorted({entry.event.call for entry in new}))).items():
                await self._replace(session, call, project(events))
        return len(new)

    async def open_conversations(self) -> list[OpenConversation]:
        """Calls that were offered and have no end yet."""
        query = select(Conversation).where(Conversation.offered_at.is_not(None), Conversation.ended_at.is_(None))
        async with self._sessions() as session:
            return [_open(row) for row in await session.scalars(query)]

    async def delete(self, call: str, org: str | None = None) -> bool:
        """Remove every trace of a call; False when there never was one (of this organisation).

        Raises:
            StillOpenError: the call goes on.
        """
        async with self._sessions.begin() as session:
            found = await session.get(Conversation, call, with_for_update=True)
            if found is None:  # deleted before, perhaps while the stream was out of reach: may be repeated
                return bool(await self._deleted(session, [call]))
            if org is not None and found.org != org:
                return False
            if found.offered_at is not None and found.ended_at is None:
                raise StillOpenError(f"call {call} has not ended yet")
            session.expunge(found)
            for table in OF_A_CALL:
                await session.execute(delete(table).where(table.__table__.c.call == call))
            await session.execute(
                _once(session, DeletedCall, {"call_hash": _hash(call), "deleted_at": datetime.now(UTC)})
            )
            old = DeletedCall.deleted_at < datetime.now(UTC) - REMEMBER_DELETED
            await session.execute(delete(DeletedCall).where(old))
        return True

    async def _deleted(self, session: AsyncSession, calls: list[str]) -> set[str]:
        hashes = {_hash(call): call for call in calls}
        query = select(DeletedCall.call_hash).where(DeletedCall.call_hash.in_(hashes))
        return {hashes[found] for found in await session.scalars(query)}

    async def _lock(self, session: AsyncSession, orgs: dict[str, str]) -> None:
        for call in sorted(orgs):  # in one order everywhere: no deadlock between replicas
            empty = {"call": call, "org": orgs[call], "cost_usd": 0.0, "workers": []}
            await session.execute(_once(session, Conversation, empty))
        await session.execute(
            select(Conversation.call).where(Conversation.call.in_(orgs)).order_by(Conversation.call).with_for_update()
        )

    async def _insert_events(self, session: AsyncSession, batch: list[Received]) -> list[Received]:
        unique = {received.event.event_id: received for received in batch}
        query = select(StoredEvent.event_id).where(StoredEvent.event_id.in_(unique))
        known = set(await session.scalars(query))
        new = [received for event_id, received in unique.items() if event_id not in known]
        if new:
            rows = [
                {"event_id": r.event.event_id, "call": r.event.call, "kind": r.event.kind, "body": r.body} for r in new
            ]
            await session.execute(insert(StoredEvent), rows)
        return new

    async def _events(self, session: AsyncSession, calls: list[str]) -> dict[str, list[Event]]:
        events: dict[str, list[Event]] = defaultdict(list)
        query = select(StoredEvent.call, StoredEvent.body).where(StoredEvent.call.in_(calls))
        for call, body in await session.execute(query):
            event = self._decoder.decode(body.encode())
            if event is not None:
                events[call].append(event)
        return events

    async def _replace(self, session: AsyncSession, call: str, made: Projection) -> None:
        rows = (made.turns, made.tool_calls, made.usage, made.latencies, made.orders)
        for table, entries in zip(DETAILS, rows, strict=True):
            await session.execute(delete(table).where(table.__table__.c.call == call))
            if entries:
                await session.execute(insert(table), [_storable(row) for row in entries])
        await session.execute(
            update(Conversation).where(Conversation.call == call).values(_storable(made.conversation))
        )


def _open(row: Conversation) -> OpenConversation:
    began_at = row.offered_at or datetime.now(UTC)
    last_event_at = row.last_event_at or began_at
    return OpenConversation(row.call, row.org, row.gw, began_at, row.answered_at, last_event_at)


def _once(session: AsyncSession, table: type[Table], values: dict[str, Any]) -> Insert:
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(table).values(values).on_conflict_do_nothing()
    return sqlite.insert(table).values(values).on_conflict_do_nothing()


def _storable(row: Row) -> Row:
    """PostgreSQL's text cannot hold NUL."""
    return {name: value.replace("\x00", "") if isinstance(value, str) else value for name, value in row.items()}


def _hash(call: str) -> str:
    return hashlib.sha256(call.encode()).hexdigest()
