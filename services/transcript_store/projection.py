"""A call's rows from its events: a pure function of the set, whatever their order and repetition. No I/O.

Events come in any order (a transcript after the answer to it, the end before the last turn, all of it again
after a redelivery). So nothing is updated step by step: after each batch the rows of a call are made anew
from all its events, put into the order in which they happened.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from libs.contracts.events import (
    AgentText,
    AgentTurn,
    CallAnswered,
    CallClaimed,
    CallEnded,
    CallerSpoke,
    CallerTurn,
    CallOffered,
    CallTakenOver,
    Event,
    LatencyMeasured,
    OrderPlaced,
    RecordingStored,
    ToolCalled,
    ToolReturned,
    UsageReported,
    WorkerLost,
)
from libs.contracts.termination import Reason
from services.transcript_store.outcome import outcome_of

DEFAULT_RATE_HZ = 8000
NOTICED_LATE = frozenset({Reason.LOST, Reason.GATEWAY_LOST})  # the janitor's ends: long after the last word
Row = dict[str, Any]
E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Projection:
    """Rows of one call, by table; lists are in the order of `position`."""

    conversation: Row
    turns: tuple[Row, ...] = ()
    tool_calls: tuple[Row, ...] = ()
    usage: tuple[Row, ...] = ()
    latencies: tuple[Row, ...] = ()
    orders: tuple[Row, ...] = ()
    recordings: tuple[Row, ...] = ()

    @property
    def details(self) -> tuple[tuple[Row, ...], ...]:
        """All rows but the conversation's, one tuple for each table."""
        return (self.turns, self.tool_calls, self.usage, self.latencies, self.orders, self.recordings)


@dataclass(slots=True)
class _Call:
    """The events of one call, by kind, each once and in the order they happened."""

    events: list[Event]
    by_kind: dict[type, list[Any]] = field(default_factory=lambda: defaultdict(list))

    def all(self, kind: type[E]) -> list[E]:
        return self.by_kind.get(kind, [])

    def first(self, kind: type[E]) -> E | None:
        return next(iter(self.all(kind)), None)


def order_of(event: Event) -> tuple[datetime, str, int, str]:
    """Sorts events as they happened: by time, then a source's own numbering."""
    source, _, number = event.event_id.rpartition(":")
    return (event.at, source, int(number) if number.isdecimal() else 0, event.event_id)


def fold(text: str) -> str:
    """Text for searching: without case and accents (SQLite's LIKE knows ASCII alone)."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(char for char in decomposed if not unicodedata.combining(char))


def project(events: Iterable[Event]) -> Projection:
    """Make the rows of a call from what is known of it.

    Raises:
        ValueError: there are no events, or they belong to several calls.
    """
    unique = sorted({event.event_id: event for event in events}.values(), key=order_of)
    if len({event.call for event in unique}) != 1:
        raise ValueError("events of exactly one call are needed")
    call = _Call(unique)
    for event in unique:
        call.by_kind[type(event)].append(event)
    turns = sorted(_caller_turns(call) + _agent_turns(call), key=_spoken)
    usage = [_usage(event) for event in call.all(UsageReported)]
    return Projection(
        conversation=_conversation(call),
        turns=_numbered(call, turns),
        tool_calls=_numbered(call, _tool_calls(call)),
        usage=_numbered(call, usage),
        latencies=_numbered(call, [_latency(event) for event in call.all(LatencyMeasured)]),
        recordings=_numbered(call, _recordings(call)),
        orders=_numbered(call, list({e.order_id: _order(e) for e in call.all(OrderPlaced)}.values())),
    )


def _numbered(call: _Call, rows: list[Row]) -> tuple[Row, ...]:
    return tuple({"call": call.events[0].call, "position": i} | row for i, row in enumerate(rows))


# -- conversation --------------------------------------------------------------------------------------


def _conversation(call: _Call) -> Row:
    offered, answered = call.first(CallOffered), call.first(CallAnswered)
    ended = call.first(CallEnded)
    end = ended.termination if ended else None
    ordered = bool(call.all(OrderPlaced))
    return {
        "call": call.events[0].call,
        "org": call.events[0].org,
        "caller": offered and offered.caller,
        "callee": offered and offered.callee,
        "agent": offered and offered.agent,
        "route": offered and offered.route,
        "direction": offered and offered.direction,
        "entrance": offered and offered.entrance,
        "gw": offered and offered.gw,
        "codec": answered and answered.codec,
        "began_at": offered.at if offered else call.events[0].at,
        "offered_at": offered and offered.at,
        "answered_at": answered and answered.at,
        "ended_at": ended and ended.at,
        "last_event_at": call.events[-1].at,
        "result": end and end.result.value,
        "reason": end and end.reason.value,
        "detail": end and end.detail,
        "outcome": end and outcome_of(end, answered=answered is not None, ordered=ordered).value,
        "duration_ms": ended and ended.duration_ms,
        "talk_ms": ended and ended.talk_ms,
        "cost_usd": round(sum(event.cost_usd or 0.0 for event in call.all(UsageReported)), 9),
        "workers": _workers(call),
        "media": ended and ended.media.model_dump(mode="json", exclude={"schema_version"}),
    }


def _workers(call: _Call) -> list[Row]:
    lost = {event.epoch: event for event in call.all(WorkerLost)}
    claims = {event.epoch: event for event in call.all(CallClaimed)}
    return [
        {
            "wk": claim.wk,
            "epoch": epoch,
            "cause": claim.cause,
            "claimed_at": claim.at.isoformat(),
            "lost": lost[epoch].cause if epoch in lost else None,
        }
        for epoch, claim in sorted(claims.items(), key=lambda pair: pair[0] or 0)
    ]


# -- turns ---------------------------------------------------------------------------------------------


def _spoken(row: Row) -> tuple[datetime, datetime, str, int, str]:
    return (row["started_at"], row["ended_at"], row["speaker"], row["epoch"] or 0, row["item"])


def _turn(speaker: str, event: CallerTurn | AgentTurn | AgentText, started_at: datetime, **values: Any) -> Row:
    row: Row = {
        "speaker": speaker,
        "item": event.item,
        "epoch": event.epoch,
        "started_at": started_at,
        "ended_at": event.at,
        "text": event.text,
        "heard_text": None,
        "interrupted": False,
        "failed": False,
        "audio_ms": None,
        "heard_ms": None,
        "from_sample": None,
    } | values
    return row | {"folded": fold(row["text"])}


def _caller_turns(call: _Call) -> list[Row]:
    """A turn began when the caller began to speak; its transcript may come long after the answer to it."""
    spoke = {(event.epoch, event.item): event.at for event in reversed(call.all(CallerSpoke))}
    last = {(event.epoch, event.item): event for event in call.all(CallerTurn)}
    return [
        _turn("caller", event, event.started_at or spoke.get(key, event.at), failed=event.failed)
        for key, event in last.items()
    ]


def _agent_turns(call: _Call) -> list[Row]:
    sentences: dict[tuple[int | None, str], dict[int, AgentText]] = defaultdict(dict)
    for event in call.all(AgentText):
        sentences[event.epoch, event.item][event.from_sample] = event
    turns = {(event.epoch, event.item): event for event in call.all(AgentTurn)}
    rows = [_finished(turn, sentences.get(key, {})) for key, turn in turns.items()]
    played = _played(call)
    for key, spoken in sentences.items():  # the worker's own word on a turn counts more than what is concluded
        if key not in turns and (row := _left_open(call, spoken, played.get(key[0] or 0))) is not None:
            rows.append(row)
    return rows


def _finished(turn: AgentTurn, spoken: dict[int, AgentText]) -> Row:
    began = min((text.at for text in spoken.values()), default=turn.at - timedelta(milliseconds=turn.heard_ms))
    return _turn(
        "agent",
        turn,
        began,
        heard_text=turn.heard_text,
        interrupted=turn.interrupted,
        audio_ms=turn.audio_ms,
        heard_ms=turn.heard_ms,
        from_sample=turn.from_sample,
    )


def _left_open(call: _Call, spoken: dict[int, AgentText], played: int | None) -> Row | None:
    """The turn that a dead worker could not report (R8): what began before `played` was heard, at least partly.

    Without `played` the turn shows once the call is over, with what there was time for (see `_had_time`).
    """
    texts = [spoken[sample] for sample in sorted(spoken)]
    first = texts[0].from_sample
    whole = " ".join(text.text.strip() for text in texts)
    began = min(text.at for text in texts)
    if played is None:
        ended = call.first(CallEnded)
        if ended is None:
            return None
        heard_text = _had_time(call, texts, ended)
        return _turn("agent", texts[-1], began, text=whole, heard_text=heard_text, interrupted=True, from_sample=first)
    heard = [text.text.strip() for text in texts if text.from_sample < played]
    if not heard:
        return None
    heard_ms = (played - first) * 1000 / _rate_hz(call)
    return _turn(
        "agent",
        texts[-1],
        began,
        text=whole,
        heard_text=" ".join(heard),
        interrupted=True,
        heard_ms=heard_ms,
        from_sample=first,
    )


def _had_time(call: _Call, texts: list[AgentText], ended: CallEnded) -> str | None:
    """The sentences that can have begun before a hang-up: each is published before its audio, which takes its time.

    None when nobody can say: another worker had the call by then, or its end was only noticed later (R7).
    """
    owners = [*call.all(CallClaimed), *call.all(CallTakenOver)]
    last_epoch = max((event.epoch or 0 for event in owners), default=texts[0].epoch or 0)
    if ended.termination.reason in NOTICED_LATE or (texts[0].epoch or 0) < last_epoch:
        return None
    time_ms = (ended.at - min(text.at for text in texts)).total_seconds() * 1000
    samples = time_ms * _rate_hz(call) / 1000
    return " ".join(text.text.strip() for text in texts if text.from_sample - texts[0].from_sample < samples)


def _rate_hz(call: _Call) -> int:
    answered = call.first(CallAnswered)
    return answered.rate_hz if answered else DEFAULT_RATE_HZ


def _played(call: _Call) -> dict[int, int]:
    """How far RTP had played each epoch that was fenced, from the gateway's word at its end or at the next claim."""
    owners: list[CallClaimed | CallTakenOver] = [*call.all(CallClaimed), *call.all(CallTakenOver)]
    claims = sorted(owners, key=lambda claim: (claim.epoch or 0, claim.event_id))
    played: dict[int, int] = {}
    for claim in claims:
        if claim.previous_played is None:
            continue
        before = [c.epoch or 0 for c in claims if (c.epoch or 0) < (claim.epoch or 0)]
        same = [c.epoch or 0 for c in claims if _owner(c) == claim.previous_wk and (c.epoch or 0) < (claim.epoch or 0)]
        spoke = {text.epoch or 0 for text in call.all(AgentText) if (text.epoch or 0) < (claim.epoch or 0)}
        previous = max(same or before or spoke, default=None)
        if previous is not None:
            played[previous] = max(claim.previous_played, played.get(previous, 0))
    return played | {event.epoch or 0: event.played for event in call.all(WorkerLost)}


def _owner(event: CallClaimed | CallTakenOver) -> str:
    return event.wk if isinstance(event, CallClaimed) else event.by


# -- the rest ------------------------------------------------------------------------------------------


def _tool_calls(call: _Call) -> list[Row]:
    called = {event.tool_call_id: event for event in call.all(ToolCalled)}
    returned = {event.tool_call_id: event for event in call.all(ToolReturned)}
    rows = [_tool_call(key, called.get(key), returned.get(key)) for key in called | returned]
    return sorted(rows, key=lambda row: (row["called_at"] or row["returned_at"], row["tool_call_id"]))


def _tool_call(tool_call_id: str, called: ToolCalled | None, returned: ToolReturned | None) -> Row:
    known = called or returned
    return {
        "tool_call_id": tool_call_id,
        "epoch": known and known.epoch,
        "name": known and known.name,
        "arguments": called and called.arguments,
        "ok": returned and returned.ok,
        "output": returned and returned.output,
        "called_at": called and called.at,
        "returned_at": returned and returned.at,
        "took_ms": returned and returned.took_ms,
    }


def _usage(event: UsageReported) -> Row:
    return event.model_dump(include={"at", "source", "model", "reference", "tokens", "seconds", "cost_usd"})


def _latency(event: LatencyMeasured) -> Row:
    delays = {"stopped_to_first_delta_ms", "stopped_to_first_frame_ms", "stopped_to_heard_ms", "tools_ms"}
    return event.model_dump(include={"at", "epoch", "response"} | delays)


def _recordings(call: _Call) -> list[Row]:
    fields = {"part", "key", "started_at", "duration_ms", "rate_hz", "size_bytes", "is_complete"}
    parts = {event.part: event for event in call.all(RecordingStored)}
    return [event.model_dump(include=fields) for event in sorted(parts.values(), key=lambda event: event.started_at)]


def _order(event: OrderPlaced) -> Row:
    return {
        "order_id": event.order_id,
        "number": event.number,
        "placed_at": event.at,
        "basket_revision": event.basket_revision,
        "customer": event.customer,
        "lines": [line.model_dump(mode="json", exclude={"schema_version"}) for line in event.lines],
        "total_eur": event.total_eur,
    }
