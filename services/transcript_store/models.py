"""Tables of transcript_store. `events` is the truth; the others are projected from it (`projection.py`)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, MetaData, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from libs.runtime.database import CONSTRAINT_NAMES, UtcDateTime


class Table(DeclarativeBase):
    """Ancestor of all tables."""

    metadata = MetaData(naming_convention=CONSTRAINT_NAMES)
    type_annotation_map = {  # noqa: RUF012  SQLAlchemy's own declaration
        datetime: UtcDateTime,
        str: Text,
        dict[str, Any]: JSON,
        list[Any]: JSON,
    }


class StoredEvent(Table):
    """An event as it came, once by its id."""

    __tablename__ = "events"

    event_id: Mapped[str] = mapped_column(primary_key=True)
    call: Mapped[str] = mapped_column(index=True)
    kind: Mapped[str]
    body: Mapped[str]


class Conversation(Table):
    """A call as a whole. The row is made with its first event, whichever that is, and locks the call."""

    __tablename__ = "conversations"

    call: Mapped[str] = mapped_column(primary_key=True)
    org: Mapped[str] = mapped_column(index=True)
    caller: Mapped[str | None]
    callee: Mapped[str | None]
    agent: Mapped[str | None]
    route: Mapped[str | None]
    direction: Mapped[str | None]
    entrance: Mapped[str | None]
    gw: Mapped[str | None]
    codec: Mapped[str | None]
    began_at: Mapped[datetime | None] = mapped_column(index=True)  # offered, or the earliest thing known
    offered_at: Mapped[datetime | None]
    answered_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None] = mapped_column(index=True)
    last_event_at: Mapped[datetime | None]
    result: Mapped[str | None]
    reason: Mapped[str | None]
    detail: Mapped[str | None]
    outcome: Mapped[str | None] = mapped_column(index=True)
    duration_ms: Mapped[float | None]
    talk_ms: Mapped[float | None]
    cost_usd: Mapped[float] = mapped_column(default=0.0)
    workers: Mapped[list[Any]] = mapped_column(default=list)
    media: Mapped[dict[str, Any] | None]
    event_count: Mapped[int] = mapped_column(default=0)  # by which a replica knows that its memory is current


class Turn(Table):
    """What one side said in one go. `heard_text` of the caller's turns is None, as for an agent's if unknown."""

    __tablename__ = "turns"

    call: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    speaker: Mapped[str]
    item: Mapped[str]
    epoch: Mapped[int | None]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime]
    text: Mapped[str]
    heard_text: Mapped[str | None]
    interrupted: Mapped[bool]
    failed: Mapped[bool]
    audio_ms: Mapped[float | None]
    heard_ms: Mapped[float | None]
    from_sample: Mapped[int | None] = mapped_column(BigInteger)
    folded: Mapped[str]


class ToolCall(Table):
    """A tool the model called, and what it was told."""

    __tablename__ = "tool_calls"

    call: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    tool_call_id: Mapped[str]
    epoch: Mapped[int | None]
    name: Mapped[str]
    arguments: Mapped[dict[str, Any] | None]
    ok: Mapped[bool | None]
    output: Mapped[Any] = mapped_column(JSON, nullable=True)
    called_at: Mapped[datetime | None]
    returned_at: Mapped[datetime | None]
    took_ms: Mapped[float | None]


class Usage(Table):
    """What was billed."""

    __tablename__ = "usage"

    call: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    source: Mapped[str]
    model: Mapped[str]
    reference: Mapped[str]
    tokens: Mapped[dict[str, Any]]
    seconds: Mapped[float | None]
    cost_usd: Mapped[float | None]


class Latency(Table):
    """Delays of one of the agent's answers."""

    __tablename__ = "latencies"

    call: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    epoch: Mapped[int | None]
    response: Mapped[str]
    stopped_to_first_delta_ms: Mapped[float | None]
    stopped_to_first_frame_ms: Mapped[float | None]
    stopped_to_heard_ms: Mapped[float | None]
    tools_ms: Mapped[float]


class Recording(Table):
    """A part of the call's recording; the recorder owns the audio."""

    __tablename__ = "recordings"

    call: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    part: Mapped[str]
    key: Mapped[str]
    started_at: Mapped[datetime]
    duration_ms: Mapped[float]
    rate_hz: Mapped[int]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    is_complete: Mapped[bool]


class OrderReference(Table):
    """An order that came of the call; catalog_tools owns the order itself."""

    __tablename__ = "order_references"

    call: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str]
    number: Mapped[str]
    placed_at: Mapped[datetime]
    basket_revision: Mapped[int]
    customer: Mapped[str | None]
    lines: Mapped[list[Any]]
    total_eur: Mapped[str]


class DeletedCall(Table):
    """Keeps an event that was on its way during a deletion from bringing the call back; a hash, no content."""

    __tablename__ = "deleted_calls"

    call_hash: Mapped[str] = mapped_column(primary_key=True)
    deleted_at: Mapped[datetime]
