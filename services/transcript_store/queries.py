"""Queries: `v1.rpc.transcript_store.{list,get,search,delete}`.

- `list` {limit?, outcome?, since?, open?}: {"conversations": [...]} newest first
- `get` {call}, an id, its beginning or end, or "last":
  {"conversation": {...}, "turns", "tool_calls", "usage", "latencies", "orders"}
- `search` {text, limit?}: {"conversations": [...]}, each with the turns that "match"
- `delete` {call}: {"deleted": call}; rows and the call's part of EVENTS are gone for good

With `org` in the request nothing of another organisation is seen.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, Field
from sqlalchemy import Select, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from libs.contracts.rpc import RpcRequest
from libs.contracts.termination import RESULT_OF, Outcome, Reason, Result
from libs.runtime.database import reading
from services.transcript_store.models import (
    Conversation,
    Latency,
    OrderReference,
    Recording,
    Table,
    ToolCall,
    Turn,
    Usage,
)
from services.transcript_store.projection import fold
from services.transcript_store.store import Store

LAST = "last"
HIDDEN = {"folded", "position"}
MOST_CONVERSATIONS = 500  # at once: with room for long details in a message of 1 MB
MOST_MATCHES = 5  # turns shown per conversation found
MOST_NAMED = 5  # calls that fit the same beginning or end of an id


_THEIR_CHOICE = {
    Reason.CALLER_CANCELLED,
    Reason.CALLEE_BUSY,
    Reason.CALLEE_NO_ANSWER,
    Reason.CALLEE_DECLINED,
    Reason.OPERATOR_DECLINED,
}
FAILURES = tuple(r for r in Reason if RESULT_OF[r] is not Result.SUCCESS and r not in _THEIR_CHOICE)


class QueryError(ValueError):
    """A query that cannot be answered; one sentence."""


class ListQuery(BaseModel):
    """Parameters of `list`."""

    limit: Annotated[int, Field(ge=1, le=MOST_CONVERSATIONS)] = 50
    outcome: Outcome | None = None
    since: AwareDatetime | None = None
    open: bool | None = None


class GetQuery(BaseModel):
    """Parameters of `get` and `delete`."""

    call: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    failed: bool = False  # with `last`: the last one whose end was nobody's wish


def _nothing(wanted: GetQuery) -> str:
    if wanted.call != LAST:
        return f"no call {wanted.call}: `callbus conversations` lists what is stored"
    return "no call has failed" if wanted.failed else "there is no conversation yet"


class SearchQuery(BaseModel):
    """Parameters of `search`."""

    text: Annotated[str, Field(min_length=1, max_length=200)]
    limit: Annotated[int, Field(ge=1, le=MOST_CONVERSATIONS)] = 20


Purge = Callable[[str, str | None], Awaitable[None]]


class Queries:
    """Answers them. `purge` removes a call's events from the stream."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], store: Store, purge: Purge) -> None:
        self._sessions = sessions
        self._store = store
        self._purge = purge
        self.verbs: dict[str, Callable[[RpcRequest], Awaitable[dict[str, Any]]]] = {
            "list": self.list_conversations,
            "get": self.get,
            "search": self.search,
            "delete": self.delete,
        }

    async def list_conversations(self, request: RpcRequest) -> dict[str, Any]:
        """Conversations, newest first."""
        wanted = ListQuery.model_validate(request.parameters)
        query = _newest(request.org).limit(wanted.limit)
        if wanted.outcome is not None:
            query = query.where(Conversation.outcome == wanted.outcome.value)
        if wanted.since is not None:
            query = query.where(Conversation.began_at >= wanted.since)
        if wanted.open is not None:
            ended = Conversation.ended_at
            query = query.where(ended.is_(None) if wanted.open else ended.is_not(None))
        async with reading(self._sessions) as session:
            return {"conversations": [_document(row) for row in await session.scalars(query)]}

    async def get(self, request: RpcRequest) -> dict[str, Any]:
        """One conversation with everything in it, turns in the order they were spoken.

        Raises:
            QueryError: there is none, or what was given fits several.
        """
        wanted = GetQuery.model_validate(request.parameters)
        async with reading(self._sessions) as session:
            found = await _meant(session, request.org, wanted)
            tables = {
                "turns": Turn,
                "tool_calls": ToolCall,
                "usage": Usage,
                "latencies": Latency,
                "recordings": Recording,
            }
            details = {name: await _rows(session, table, found.call) for name, table in tables.items()}
            orders = await _rows(session, OrderReference, found.call)
        return {"conversation": _document(found), **details, "orders": orders}

    async def search(self, request: RpcRequest) -> dict[str, Any]:
        """Conversations in which somebody said the text, or whose number contains it; newest first."""
        wanted = SearchQuery.model_validate(request.parameters)
        folded = fold(wanted.text.strip())
        said = Turn.folded.contains(folded, autoescape=True)
        number = Conversation.caller.contains(wanted.text.strip(), autoescape=True)
        query = _newest(request.org).limit(wanted.limit)
        query = query.where(or_(number, Conversation.call.in_(select(Turn.call).where(said))))
        async with reading(self._sessions) as session:
            found = (await session.scalars(query)).all()
            matches: dict[str, list[dict[str, Any]]] = {row.call: [] for row in found}
            turns = select(Turn).where(Turn.call.in_(matches), said).order_by(Turn.call, Turn.position)
            for turn in await session.scalars(turns):
                if len(matches[turn.call]) < MOST_MATCHES:
                    matches[turn.call].append({"speaker": turn.speaker, "text": turn.text})
        return {"conversations": [_document(row) | {"match": matches[row.call]} for row in found]}

    async def delete(self, request: RpcRequest) -> dict[str, Any]:
        """Remove a call for good: rows first (which bars late events), then its events in the stream.

        Raises:
            QueryError: there is none.
            StillOpenError: it goes on.
        """
        wanted = GetQuery.model_validate(request.parameters)
        if not await self._store.delete(wanted.call, request.org):
            raise QueryError(f"no call {wanted.call}")
        await self._purge(wanted.call, request.org)
        return {"deleted": wanted.call}


async def _meant(session: AsyncSession, org: str | None, wanted: GetQuery) -> Conversation:
    newest = _newest(org)
    if wanted.call == LAST:
        failed = Conversation.reason.in_(reason.value for reason in FAILURES)
        found = (await session.scalars((newest.where(failed) if wanted.failed else newest).limit(1))).all()
    else:
        call, name = func.upper(Conversation.call), wanted.call.upper()
        fits = or_(call.startswith(name, autoescape=True), call.endswith(name, autoescape=True))
        exact = await session.scalars(newest.where(Conversation.call == wanted.call))
        found = exact.all() or (await session.scalars(newest.where(fits).limit(MOST_NAMED))).all()
    if not found:
        raise QueryError(_nothing(wanted))
    if len(found) > 1:
        names = ", ".join(one.call for one in found)
        raise QueryError(f"{wanted.call!r} fits several calls; type more of one, of {names} say")
    return found[0]


def _newest(org: str | None) -> Select[Conversation]:
    query = select(Conversation).order_by(Conversation.began_at.desc(), Conversation.call.desc())
    return query if org is None else query.where(Conversation.org == org)


async def _rows(session: AsyncSession, table: type[Table], call: str) -> list[dict[str, Any]]:
    columns = table.__table__.c
    rows = await session.scalars(select(table).where(columns.call == call).order_by(columns.position))
    return [{k: v for k, v in _document(row).items() if k != "call"} for row in rows]


def _document(row: Table) -> dict[str, Any]:
    return {
        column.key: _plain(getattr(row, column.key)) for column in row.__table__.columns if column.key not in HIDDEN
    }


def _plain(value: Any) -> Any:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
