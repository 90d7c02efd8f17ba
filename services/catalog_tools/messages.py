"""Messages that agents take: stored once per tool call, listed newest first."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from services.catalog_tools.models import Message


async def store(session: AsyncSession, message: Message) -> int:
    """Keep a message; its number, also of one that is there already. Commits with the caller's transaction."""
    same = select(Message.id).filter_by(org=message.org, call=message.call, tool_call_id=message.tool_call_id)
    known = (await session.execute(same)).scalar()
    if known is not None:
        return known
    session.add(message)
    await session.flush()
    return message.id


async def list_messages(
    session: AsyncSession, *, org: str | None = None, call: str | None = None, limit: int = 50
) -> list[dict[str, Any]]:
    """Messages, newest first."""
    query = select(Message).order_by(Message.id.desc()).limit(limit)
    if org is not None:
        query = query.where(Message.org == org)
    if call is not None:
        query = query.where(Message.call == call)
    return [
        {
            "id": row.id,
            "org": row.org,
            "call": row.call,
            "caller": row.caller,
            "agent": row.agent,
            "recipient": row.recipient,
            "name": row.name,
            "number": row.number,
            "text": row.text,
            "taken_at": row.taken_at.astimezone(UTC).isoformat(),
        }
        for row in (await session.scalars(query)).all()
    ]


def now() -> datetime:
    """When a message is taken."""
    return datetime.now(UTC)
