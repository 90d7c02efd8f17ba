"""Server events of the Realtime API as events of our port. Pure; bad frames are counted and survived.

Two-stage decoding: first the type alone, then the fields that this type needs. Audio deltas, the bulk of
the traffic, are decoded straight to bytes. The codec on the wire is turned into PCM at the call's rate
by the `decode` that the shell passes in, once `session.updated` has confirmed it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from services.ai_session.backends.port import (
    AudioDelta,
    AudioEnded,
    BackendEvent,
    CallerTextDelta,
    CallerTranscript,
    LimitUsedUp,
    ResponseEnded,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    TextEnded,
    ToolRequested,
    Trouble,
    UsageCounted,
)
from services.ai_session.backends.realtime_mcp import AnswerDue, ApprovalAsked, McpCalls, McpItem
from services.ai_session.costs import Models, tokens_of
from services.ai_session.language import code_of


class _Head(msgspec.Struct):
    type: str


class _Part(msgspec.Struct):
    response_id: str
    item_id: str
    content_index: int = 0


class _Audio(_Part):
    delta: bytes = b""


class _Text(_Part):
    delta: str | None = None
    transcript: str | None = None


class _Item(msgspec.Struct):
    item_id: str = ""
    transcript: str | None = None
    delta: str | None = None
    usage: Any = None
    error: Any = None
    languages: Any = None


class _OutputItem(McpItem):
    status: str | None = None
    call_id: str | None = None


class _Response(msgspec.Struct):
    id: str
    status: str | None = None
    status_details: Any = None
    output: list[_OutputItem] | None = None
    usage: Any = None
    metadata: Any = None


class _ResponseEvent(msgspec.Struct):
    response: _Response


class _ItemEvent(msgspec.Struct):
    item: _OutputItem
    response_id: str = ""


class _Limit(msgspec.Struct):
    remaining: float | None = None
    reset_seconds: float | None = None


class _LimitsEvent(msgspec.Struct):
    rate_limits: list[_Limit] = []


class _SessionEvent(msgspec.Struct):
    session: dict[str, Any]


class _Error(msgspec.Struct):
    type: str | None = None
    code: str | None = None
    message: str | None = None
    param: str | None = None
    event_id: str | None = None


class _ErrorEvent(msgspec.Struct):
    error: _Error


# -- events that only the adapter's shell needs ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SessionCreated:
    """The first event of a connection; `expires_at` is Unix time."""

    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class SessionUpdated:
    """The configuration in force: the two formats by their type."""

    input_format: str
    output_format: str


@dataclass(frozen=True, slots=True)
class ResponseCreated:
    """A response began, ours or the turn detection's; `metadata` tells."""

    response: str
    metadata: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class ErrorReceived:
    """An `error` event; the session normally goes on. `kind` is the class of the error, `code` may be the same."""

    code: str
    message: str
    param: str
    event_id: str | None
    kind: str = ""


@dataclass(frozen=True, slots=True)
class OutputTaken:
    """A tool's output is in the server's conversation."""

    tool_call_id: str


WireEvent = (
    BackendEvent
    | SessionCreated
    | SessionUpdated
    | ResponseCreated
    | OutputTaken
    | ErrorReceived
    | AnswerDue
    | ApprovalAsked
)

T = TypeVar("T")


class _Reader(Generic[T]):
    def __init__(self, kind: type[T], make: Callable[[RealtimeEvents, T], list[WireEvent]]) -> None:
        self.decoder = msgspec.json.Decoder(kind)
        self.make = make


class RealtimeEvents:
    """One per connection. `decode` turns wire audio into PCM16LE at the call's rate."""

    def __init__(self, models: Models, model: str, transcription: str, decode: Callable[[bytes], bytes]) -> None:
        self._models, self._model, self._transcription = models, model, transcription
        self._decode = decode
        self._mcp = McpCalls()
        self._head = msgspec.json.Decoder(_Head)
        self.counters: Counter[str] = Counter()

    def read(self, data: bytes) -> list[WireEvent]:
        """The events in one frame: mostly one, several at the end of a response, none when nothing concerns us."""
        try:
            kind = self._head.decode(data).type
            reader = _READERS.get(kind)
            if reader is None:
                self.counters["ignored" if kind in _IGNORED else "unknown"] += 1
                return []
            return reader.make(self, reader.decoder.decode(data))
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.counters["malformed"] += 1
            return []

    # -- one method per shape --------------------------------------------------------------------------

    def _audio(self, event: _Audio) -> list[WireEvent]:
        pcm = self._decode(event.delta)
        return [AudioDelta(event.response_id, event.item_id, event.content_index, pcm)] if pcm else []

    def _audio_done(self, event: _Part) -> list[WireEvent]:
        return [AudioEnded(event.response_id, event.item_id, event.content_index)]

    def _text(self, event: _Text) -> list[WireEvent]:
        return [TextDelta(event.response_id, event.item_id, event.content_index, event.delta or "")]

    def _text_done(self, event: _Text) -> list[WireEvent]:
        return [TextEnded(event.response_id, event.item_id, event.content_index, event.transcript or "")]

    def _started(self, event: _Item) -> list[WireEvent]:
        return [SpeechStarted(event.item_id)]

    def _stopped(self, event: _Item) -> list[WireEvent]:
        return [SpeechStopped(event.item_id)]

    def _transcribing(self, event: _Item) -> list[WireEvent]:
        return [CallerTextDelta(event.item_id, event.delta)] if event.delta else []

    def _transcribed(self, event: _Item) -> list[WireEvent]:
        usage = event.usage if isinstance(event.usage, dict) else {}
        seconds = usage.get("seconds")
        seconds = float(seconds) if isinstance(seconds, int | float) else None
        tokens = tokens_of(usage, speaks=False)
        counted = UsageCounted(
            source="transcription",
            model=self._transcription,
            reference=event.item_id,
            tokens=tokens,
            seconds=seconds,
            cost_usd=self._models.cost_of_transcription(self._transcription, tokens, seconds),
        )
        said = CallerTranscript(event.item_id, (event.transcript or "").strip(), language=code_of(event.languages))
        return [said, counted] if usage else [said]

    def _not_transcribed(self, event: _Item) -> list[WireEvent]:
        error = event.error if isinstance(event.error, dict) else {}
        detail = str(error.get("message") or "the provider gave no transcript")
        return [CallerTranscript(event.item_id, "", failed=True), Trouble("transcription_failed", detail)]

    def _created(self, event: _ResponseEvent) -> list[WireEvent]:
        metadata = event.response.metadata
        return [ResponseCreated(event.response.id, metadata if isinstance(metadata, dict) else None)]

    def _item_taken(self, event: _ItemEvent) -> list[WireEvent]:
        item = event.item
        if item.type == "function_call_output" and item.call_id:
            return [OutputTaken(item.call_id)]
        return [*self._mcp.item(item, event.response_id)]

    def _mcp_completed(self, event: _Item) -> list[WireEvent]:
        self._mcp.completed(event.item_id)
        return []

    def _mcp_failed(self, event: _Item) -> list[WireEvent]:
        return [*self._mcp.failed(event.item_id)]

    def _listing_failed(self, event: _Item) -> list[WireEvent]:
        return [*self._mcp.listing_failed(event.item_id)]

    def _done(self, event: _ResponseEvent) -> list[WireEvent]:
        response = event.response
        output = response.output or []
        events: list[WireEvent] = []
        tokens = tokens_of(response.usage)
        if tokens:  # billed whatever the status
            cost_usd = self._models.cost_of_response(self._model, tokens)
            events.append(UsageCounted("response", self._model, response.id, tokens, None, cost_usd))
        if response.status == "completed":  # arguments of others may be cut off
            events += [
                ToolRequested(response.id, item.call_id, item.name, item.arguments or "{}")
                for item in output
                if item.type == "function_call" and item.call_id and item.name
            ]
        for item in output:  # before the response's own end: with a call in it, it is not empty
            events += self._mcp.item(item, response.id)
        events += self._mcp.response_done([item.type for item in output])
        items = tuple(item.id for item in output if item.type == "message" and item.id)
        match response.status:
            case "completed" | "cancelled" | "failed" | "incomplete" as status:
                events.append(ResponseEnded(response.id, status, _detail(response.status_details), items))
            case _:
                events.append(ResponseEnded(response.id, "incomplete", f"status {response.status!r}", items))
        return events

    def _limits(self, event: _LimitsEvent) -> list[WireEvent]:
        used_up = [limit.reset_seconds or 0.0 for limit in event.rate_limits if limit.remaining == 0]
        return [LimitUsedUp(max(used_up))] if used_up else []

    def _session_created(self, event: _SessionEvent) -> list[WireEvent]:
        expires_at = event.session.get("expires_at")
        return [SessionCreated(expires_at if isinstance(expires_at, int | float) else None)]

    def _session_updated(self, event: _SessionEvent) -> list[WireEvent]:
        return [SessionUpdated(_format(event.session, "input"), _format(event.session, "output"))]

    def _error(self, event: _ErrorEvent) -> list[WireEvent]:
        error = event.error
        code, kind = error.code or error.type or "error", error.type or ""
        return [ErrorReceived(code, error.message or "", error.param or "", error.event_id, kind)]


def _format(session: dict[str, Any], side: str) -> str:
    try:
        return str(session["audio"][side]["format"]["type"])
    except (KeyError, TypeError):
        return ""


def _detail(details: Any) -> str:
    if not isinstance(details, dict):
        return ""
    error = details.get("error")
    if isinstance(error, dict):
        return f"{error.get('code') or error.get('type') or 'error'}: {error.get('message') or ''}".strip(": ")
    return str(details.get("reason") or "")


_TRANSCRIPTION = "conversation.item.input_audio_transcription"
_READERS: dict[str, _Reader[Any]] = {
    "response.output_audio.delta": _Reader(_Audio, RealtimeEvents._audio),
    "response.output_audio.done": _Reader(_Part, RealtimeEvents._audio_done),
    "response.output_audio_transcript.delta": _Reader(_Text, RealtimeEvents._text),
    "response.output_audio_transcript.done": _Reader(_Text, RealtimeEvents._text_done),
    "input_audio_buffer.speech_started": _Reader(_Item, RealtimeEvents._started),
    "input_audio_buffer.speech_stopped": _Reader(_Item, RealtimeEvents._stopped),
    f"{_TRANSCRIPTION}.delta": _Reader(_Item, RealtimeEvents._transcribing),
    f"{_TRANSCRIPTION}.completed": _Reader(_Item, RealtimeEvents._transcribed),
    f"{_TRANSCRIPTION}.failed": _Reader(_Item, RealtimeEvents._not_transcribed),
    "response.created": _Reader(_ResponseEvent, RealtimeEvents._created),
    "response.done": _Reader(_ResponseEvent, RealtimeEvents._done),
    "conversation.item.created": _Reader(_ItemEvent, RealtimeEvents._item_taken),
    "conversation.item.added": _Reader(_ItemEvent, RealtimeEvents._item_taken),
    "conversation.item.done": _Reader(_ItemEvent, RealtimeEvents._item_taken),
    "response.output_item.added": _Reader(_ItemEvent, RealtimeEvents._item_taken),
    "response.output_item.done": _Reader(_ItemEvent, RealtimeEvents._item_taken),
    "response.mcp_call.completed": _Reader(_Item, RealtimeEvents._mcp_completed),
    "response.mcp_call.failed": _Reader(_Item, RealtimeEvents._mcp_failed),
    "mcp_list_tools.failed": _Reader(_Item, RealtimeEvents._listing_failed),
    "rate_limits.updated": _Reader(_LimitsEvent, RealtimeEvents._limits),
    "session.created": _Reader(_SessionEvent, RealtimeEvents._session_created),
    "session.updated": _Reader(_SessionEvent, RealtimeEvents._session_updated),
    "error": _Reader(_ErrorEvent, RealtimeEvents._error),
}
_IGNORED = frozenset(
    {
        "conversation.created",
        "conversation.item.truncated",
        "conversation.item.deleted",
        "conversation.item.retrieved",
        f"{_TRANSCRIPTION}.segment",
        "input_audio_buffer.committed",
        "input_audio_buffer.cleared",
        "input_audio_buffer.timeout_triggered",
        "mcp_list_tools.in_progress",
        "mcp_list_tools.completed",
        "response.mcp_call.in_progress",
        "response.mcp_call_arguments.delta",
        "response.mcp_call_arguments.done",
        "response.content_part.added",
        "response.content_part.done",
        "response.output_text.delta",
        "response.output_text.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
    }
)
