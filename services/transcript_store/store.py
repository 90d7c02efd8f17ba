"""Writing to the database: events once by id, then the rows of the calls they belong to, in one transaction.

The conversation's row is locked first, so that two replicas with events of one call project one after the
other and neither misses what the other wrote.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from sqlalchemy import Insert, Row as SqlRow, Table as FromTable, bindparam, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from libs.contracts.events import Event
from libs.contracts.wire import event_decoder
from libs.runtime.database import reading
from services.transcript_store.models import (
    Conversation,
    DeletedCall,
    Latency,
    OrderReference,
    Recording,
    StoredEvent,
    ToolCall,
    Turn,
    Usage,
)
from services.transcript_store.projection import Projection, Row, project

CONVERSATIONS, EVENTS, DELETED = (cast(FromTable, t.__table__) for t in (Conversation, StoredEvent, DeletedCall))
DETAILS = tuple(cast(FromTable, t.__table__) for t in (Turn, ToolCall, Usage, Latency, OrderReference, Recording))
OF_A_CALL = (*DETAILS, EVENTS, CONVERSATIONS)
UPDATE_CONVERSATION = (
    update(CONVERSATIONS)
    .where(CONVERSATIONS.c.call == bindparam("new_call"))
    .values({column.name: bindparam(f"new_{column.name}") for column in CONVERSATIONS.c if column.name != "call"})
)
MOST_REMEMBERED = 256
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
        self._memory: OrderedDict[str, _Remembered] = OrderedDict()  # the last calls written

    async def write(self, batch: Sequence[Received]) -> int:
        """Store what is new and project its calls; how many events were new.

        Raises:
            sqlalchemy.exc.SQLAlchemyError, OSError: nothing was written.
        """
        entries = {received.event.event_id: received for received in batch}
        async with self._sessions.begin() as session:
            counts = await self._lock(session, {r.event.call: r.event.org for r in entries.values()})
            new = await self._insert_events(session, [r for r in entries.values() if r.event.call in counts])
            calls = await self._with_new(session, new, counts)
            await self._write_rows(session, calls)
        for call, known in calls.items():  # only now: a transaction that failed must leave no memory of itself
            self._memory[call] = known
            self._memory.move_to_end(call)
        while len(self._memory) > MOST_REMEMBERED:
            self._memory.popitem(last=False)
        return len(new)

    async def open_conversations(self) -> list[OpenConversation]:
        """Calls that were offered and have no end yet."""
        query = select(Conversation).where(Conversation.offered_at.is_not(None), Conversation.ended_at.is_(None))
        async with reading(self._sessions) as session:
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
                await session.execute(delete(table).where(table.c.call == call))
            mark = {"call_hash": _hash(call), "deleted_at": datetime.now(UTC)}
            await session.execute(_once(session, DELETED).values(mark))
            old = DeletedCall.deleted_at < datetime.now(UTC) - REMEMBER_DELETED
            await session.execute(delete(DeletedCall).where(old))
        self._memory.pop(call, None)
        return True

    async def _deleted(self, session: AsyncSession, calls: list[str]) -> set[str]:
        hashes = {_hash(call): call for call in calls}
        query = select(DeletedCall.call_hash).where(DeletedCall.call_hash.in_(hashes))
        return {hashes[found] for found in await session.scalars(query)}

    async def _lock(self, session: AsyncSession, orgs: dict[str, str]) -> dict[str, int]:
        """Lock the calls' rows, made if missing; how many events each has. Deleted calls are left out."""
        locked = select(CONVERSATIONS.c.call, CONVERSATIONS.c.event_count).where(CONVERSATIONS.c.call.in_(orgs))
        locked = locked.order_by(CONVERSATIONS.c.call).with_for_update()  # one order everywhere: no deadlock
        counts = _counts(await session.execute(locked))
        if missing := sorted(set(orgs) - set(counts)):
            empty: Row = {"cost_usd": 0.0, "workers": [], "event_count": 0}
            await session.execute(_once(session, CONVERSATIONS), [{"call": c, "org": orgs[c]} | empty for c in missing])
            counts = _counts(await session.execute(locked))
            for call in await self._deleted(session, missing):
                await session.execute(delete(CONVERSATIONS).where(CONVERSATIONS.c.call == call))
                del counts[call]
        return counts

    async def _insert_events(self, session: AsyncSession, batch: list[Received]) -> list[Received]:
        query = select(EVENTS.c.event_id).where(EVENTS.c.event_id.in_([r.event.event_id for r in batch]))
        known = set(await session.scalars(query))
        new = [received for received in batch if received.event.event_id not in known]
        if new:
            rows = [
                {"event_id": r.event.event_id, "call": r.event.call, "kind": r.event.kind, "body": r.body} for r in new
            ]
            await session.execute(insert(EVENTS), rows)
        return new

    async def _with_new(
        self, session: AsyncSession, new: list[Received], counts: dict[str, int]
    ) -> dict[str, _Remembered]:
        """What is known of each call with new events, from memory where it is as the database says."""
        fresh: dict[str, dict[str, Event]] = defaultdict(dict)
        for received in new:
            fresh[received.event.call][received.event.event_id] = received.event
        current = {c: m for c in fresh if (m := self._memory.get(c)) is not None and m.count == counts[c]}
        loaded = await self._events(session, [c for c in fresh if c not in current and counts[c]])
        return {
            call: _Remembered(
                events=(current[call].events if call in current else loaded.get(call, {})) | events,
                count=counts[call] + len(events),
                before=current[call].made if call in current else None,
                written_before=counts[call] > 0,
            )
            for call, events in fresh.items()
        }

    async def _events(self, session: AsyncSession, calls: list[str]) -> dict[str, dict[str, Event]]:
        events: dict[str, dict[str, Event]] = defaultdict(dict)
        if calls:
            query = select(EVENTS.c.call, EVENTS.c.body).where(EVENTS.c.call.in_(calls))
            for call, body in await session.execute(query):
                event = self._decoder.decode(body.encode())
                if event is not None:
                    events[call][event.event_id] = event
        return events

    async def _write_rows(self, session: AsyncSession, calls: dict[str, _Remembered]) -> None:
        """Write what differs from the rows of before: mostly a few more at the end of each list."""
        inserts: dict[Any, list[Row]] = {table: [] for table in DETAILS}
        updates: list[Row] = []
        for call, known in calls.items():
            known.made = project(known.events.values())
            for table, after, before in zip(DETAILS, known.made.details, known.details_before, strict=True):
                same = 0 if before is None else _same(before, after)
                if before is None or same < len(before):
                    stale = (table.c.call == call) & (table.c.position >= same)
                    await session.execute(delete(table).where(stale))
                inserts[table] += [_storable(row) for row in after[same:]]
            values = _storable(known.made.conversation) | {"event_count": known.count}
            updates.append({f"new_{name}": value for name, value in values.items()})
        for table, rows in inserts.items():
            if rows:
                await session.execute(insert(table), rows)
        if updates:
            await (await session.connection()).execute(UPDATE_CONVERSATION, updates)


@dataclass(slots=True)
class _Remembered:
    """A call as it was last written: all its events, how many the database has, and the rows made of them."""

    events: dict[str, Event]
    count: int
    before: Projection | None
    written_before: bool
    made: Projection | None = None

    @property
    def details_before(self) -> tuple[tuple[Row, ...] | None, ...]:
        """The rows in the database by table: known, none yet (empty), or unknown (None)."""
        if self.before is not None:
            return self.before.details
        return (None,) * len(DETAILS) if self.written_before else ((),) * len(DETAILS)


def _counts(rows: Iterable[SqlRow[str, int]]) -> dict[str, int]:
    return {row[0]: row[1] for row in rows}


def _same(before: Sequence[Row], after: Sequence[Row]) -> int:
    """How many rows at the beginning are the same."""
    same = 0
    for old, new in zip(before, after, strict=False):
        if old != new:
            break
        same += 1
    return same


def _open(row: Conversation) -> OpenConversation:
    began_at = row.offered_at or datetime.now(UTC)
    last_event_at = row.last_event_at or began_at
    return OpenConversation(row.call, row.org, row.gw, began_at, row.answered_at, last_event_at)


def _once(session: AsyncSession, table: FromTable) -> Insert:
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def _storable(row: Row) -> Row:
    """PostgreSQL's text cannot hold NUL."""
    return {name: value.replace("\x00", "") if isinstance(value, str) else value for name, value in row.items()}


def _hash(call: str) -> str:
    return hashlib.sha256(call.encode()).hexdigest()
