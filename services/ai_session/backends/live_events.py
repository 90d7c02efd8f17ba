"""Server events of the Live API, decoded. Pure; bad frames are counted and survived.

Two-stage decoding as for Realtime: the type first, then the fields that it needs; audio straight to bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from services.ai_session.backends.live_tools import FunctionCalled, ResponseOver
from services.ai_session.backends.realtime_events import ErrorReceived
from services.ai_session.costs import tokens_of_text


@dataclass(frozen=True, slots=True)
class Started:
    """`session.started`: the format in force, e.g. ("audio/pcmu", 8000), and the end of the session (seconds, Unix)."""

    session: str
    audio_format: tuple[str, int]
    expires_at: int


@dataclass(frozen=True, slots=True)
class AudioArrived:
    """A piece of the output stream, in the session's format."""

    data: bytes


@dataclass(frozen=True, slots=True)
class AgentWords:
    """A fragment of what the model says; the times are of the session."""

    text: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class CallerWords:
    """A fragment of what the caller says."""

    text: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class SecondsUsed:
    """Cumulative: never to be summed up."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Closed:
    """`session.closed`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Delegated:
    """The chat model is at work."""


@dataclass(frozen=True, slots=True)
class AskedApplication:
    """The model wants something of us (a client delegation), and waits for our words under this id."""

    delegation: str


LiveEvent = (
    Started
    | AudioArrived
    | AgentWords
    | CallerWords
    | SecondsUsed
    | Closed
    | ErrorReceived
    | Delegated
    | AskedApplication
    | FunctionCalled
    | ResponseOver
)


class _Head(msgspec.Struct):
    type: str


class _Audio(msgspec.Struct):
    delta: bytes


class _Words(msgspec.Struct):
    delta: str
    start_ms: int = 0
    end_ms: int = 0


class _Format(msgspec.Struct):
    type: str = ""
    rate: int = 0


class _AudioSettings(msgspec.Struct):
    format: _Format | None = None


class _Settings(msgspec.Struct):
    id: str = ""
    audio: _AudioSettings | None = None
    expires_at: Any = None


class _Session(msgspec.Struct):
    session: _Settings


class _Seconds(msgspec.Struct):
    seconds: float


class _Usage(msgspec.Struct):
    usage: _Seconds


class _Closed(msgspec.Struct):
    reason: str = ""
    usage: _Seconds | None = None


class _Error(msgspec.Struct):
    code: str | None = None
    message: str | None = None
    type: str | None = None
    client_event_id: str | None = None


class _ErrorEvent(msgspec.Struct):
    error: _Error


class _Delegation(msgspec.Struct):
    id: str
    target: str = ""


class _DelegationEvent(msgspec.Struct):
    delegation: _Delegation


class _Nested(msgspec.Struct):
    event: dict[str, Any]


_T = TypeVar("_T")


class _Reader(Generic[_T]):
    def __init__(self, shape: type[_T], read: Callable[[_T], list[LiveEvent]]) -> None:
        self.decoder = msgspec.json.Decoder(shape)
        self.read = read

    def __call__(self, data: bytes) -> list[LiveEvent]:
        return self.read(self.decoder.decode(data))


class LiveEvents:
    """One connection's frames."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()

    def read(self, data: bytes) -> list[LiveEvent]:
        """The events of a frame; none of one that is of no interest, or broken."""
        try:
            kind = _HEAD.decode(data).type
            reader = _READERS.get(kind)
            if reader is not None:
                return reader(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.counters["malformed"] += 1
            return []
        if kind not in _IGNORED:
            self.counters["unknown"] += 1
        return []


def _started(event: _Session) -> list[LiveEvent]:
    session = event.session
    found = (session.audio.format if session.audio is not None else None) or _Format()
    expires_at = session.expires_at if isinstance(session.expires_at, int | float) else 0
    return [Started(session.id, (found.type, found.rate), int(expires_at))]


def _closed(event: _Closed) -> list[LiveEvent]:
    used: list[LiveEvent] = [SecondsUsed(event.usage.seconds)] if event.usage is not None else []
    return [*used, Closed(event.reason)]


def _refused(event: _ErrorEvent) -> list[LiveEvent]:
    error = event.error
    kind = error.type or ""
    return [ErrorReceived(error.code or kind or "error", error.message or "", "", error.client_event_id, kind)]


def _delegated(event: _DelegationEvent) -> list[LiveEvent]:
    return [AskedApplication(event.delegation.id) if event.delegation.target == "client" else Delegated()]


def _nested(outer: _Nested) -> list[LiveEvent]:
    """An event of the chat model's stream (Responses API, streaming events)."""
    event = outer.event
    response = event.get("response")
    response = response if isinstance(response, dict) else {}
    name, model = str(response.get("id") or ""), str(response.get("model") or "")
    tokens = tokens_of_text(response.get("usage"))
    match event.get("type"):
        case "response.output_item.done":
            item = event.get("item")
            if isinstance(item, dict) and item.get("type") == "function_call" and item.get("call_id"):
                arguments = str(item.get("arguments") or "{}")
                return [FunctionCalled(str(item["call_id"]), str(item.get("name")), arguments)]
            return [Delegated()]
        case "response.completed":
            return [ResponseOver(name, model, tokens)]
        case "response.failed" | "response.incomplete" | "error":
            told = response.get("error") or response.get("incomplete_details")
            error = told if isinstance(told, dict) else event
            detail = ": ".join(str(error[part]) for part in ("code", "reason", "message") if error.get(part))
            return [ResponseOver(name, model, tokens, failed=detail or "the delegated response failed")]
        case _:
            return [Delegated()]


_HEAD = msgspec.json.Decoder(_Head)
_READERS: dict[str, _Reader[Any]] = {
    "session.output_audio.delta": _Reader(_Audio, lambda event: [AudioArrived(event.delta)]),
    "session.output_transcript.delta": _Reader(
        _Words, lambda event: [AgentWords(event.delta, event.start_ms, event.end_ms)]
    ),
    "session.input_transcript.delta": _Reader(
        _Words, lambda event: [CallerWords(event.delta, event.start_ms, event.end_ms)]
    ),
    "session.started": _Reader(_Session, _started),
    "session.closed": _Reader(_Closed, _closed),
    "session.usage.updated": _Reader(_Usage, lambda event: [SecondsUsed(event.usage.seconds)]),
    "session.delegation.created": _Reader(_DelegationEvent, _delegated),
    "response.event": _Reader(_Nested, _nested),
    "error": _Reader(_ErrorEvent, _refused),
}
_IGNORED = frozenset(
    {
        "session.updated",
        "session.input_audio.muted",
        "session.input_audio.unmuted",
        "session.commentary.appended",
        "session.instructions.appended",
        "session.thinking.appended",
        "info",
    }
)
