"""Faults that a session suffers on purpose, so that a client's behaviour in each can be tested.

A fault is chosen for a session by its URL (``?fault=close:code=1011,after_deltas=5``), by the admin
endpoint, or by a scenario. ``FaultPlan`` is a core without I/O like the session it belongs to.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.rehearsal.outputs import Abort, Close, Frame, Output, Raw

AUDIO_DELTA = "response.output_audio.delta"
AUDIO_DELTAS = frozenset({AUDIO_DELTA, "session.output_audio.delta"})  # of Realtime, of Live
_OPENED = frozenset({"session.updated", "session.started"})

Endpoint = Literal["realtime", "live", "transcriptions", "chat", "speech", "elevenlabs"]

FaultKind = Literal[
    # connection
    "refuse",
    "hang_upgrade",
    "hang",
    "no_session_created",
    "no_session_updated",
    "no_pong",
    "close",
    "abort",
    # flow
    "stall",
    "slow_drip",
    "burst",
    "late_deltas",
    "duplicate_deltas",
    # shape of a frame
    "unknown_event",
    "extra_field",
    "missing_field",
    "malformed_json",
    "malformed_base64",
    "odd_bytes",
    "binary_frame",
    # errors
    "error",
    "rate_limit",
    "incomplete",
    "transcription_failed",
    "invalid_arguments",
    "empty_transcript",
    # format
    "pcm_instead",
    "wrong_content_type",
]

# What can happen to a request and its answer; the rest needs a session.
_OVER_HTTP: dict[str, frozenset[str]] = {
    "transcriptions": frozenset(
        {"refuse", "hang", "abort", "close", "stall", "slow_drip", "wrong_content_type", "empty_transcript"}
        | {"malformed_json", "extra_field", "missing_field", "unknown_event", "error"}
    ),
    "chat": frozenset(
        {"refuse", "hang", "abort", "close", "stall", "slow_drip", "wrong_content_type", "incomplete"}
        | {"malformed_json", "extra_field", "missing_field", "unknown_event", "error", "invalid_arguments"}
    ),
    "speech": frozenset({"refuse", "hang", "abort", "close", "stall", "slow_drip", "wrong_content_type", "odd_bytes"}),
    "elevenlabs": frozenset(
        {"refuse", "hang", "abort", "close", "stall", "slow_drip", "wrong_content_type", "odd_bytes"}
    ),
}

_SHAPES = {"extra_field", "missing_field", "malformed_json", "malformed_base64", "binary_frame"}
_TIMED = {"close", "abort", "error", "unknown_event"}


class FaultError(ValueError):
    """A fault that cannot be read; the message says why."""


class Fault(BaseModel):
    """One fault and when it strikes.

    ``on`` is the endpoint it is ordered for (a fault in a URL strikes there). ``after_ms`` counts from the
    session's start and ``after_deltas`` audio deltas sent (over HTTP: events or pieces of audio); with both
    absent the fault strikes at the first occasion. ``turn`` holds it back until the caller's n-th turn, from
    which deltas are then counted. ``times`` is how often it strikes within a session.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: FaultKind
    on: Endpoint = Field(default="realtime", description="the endpoint it is ordered for")
    times: int = Field(default=1, ge=1)
    turn: int = Field(default=0, ge=0)
    after_ms: float | None = Field(default=None, ge=0)
    after_deltas: int | None = Field(default=None, ge=0)
    status: int = Field(default=500, description="refuse: HTTP status")
    retry_after_s: float | None = Field(default=None, ge=0, description="refuse: the header Retry-After")
    code: int = Field(default=1011, description="close: WebSocket close code")
    reason: str = Field(default="", description="close: reason; incomplete: status_details.reason")
    duration_ms: float = Field(default=5000, ge=0, description="stall: how long; 0 is for good")
    factor: float = Field(default=0.5, gt=0, description="slow_drip: speed, 1 being real time")
    deltas: int = Field(default=3, ge=1, description="late_deltas, duplicate_deltas: how many")
    event_type: str = Field(default=AUDIO_DELTA, description="shape faults: which frames")
    field: str = Field(default="delta", description="missing_field: which field")
    error_code: str = Field(default="server_error", description="error: error.code")
    event_id: str | None = Field(default=None, description="error: the client event it blames")
    echo: bool = Field(default=True, description="pcm_instead: whether session.updated admits it")

    @model_validator(mode="after")
    def _can_happen(self) -> Fault:
        kinds = _OVER_HTTP.get(self.on)
        if kinds is not None and self.kind not in kinds:
            raise ValueError(f"{self.kind} cannot happen on {self.on}; there are {', '.join(sorted(kinds))}")
        if kinds is None and self.kind == "wrong_content_type":
            raise ValueError(f"{self.kind} cannot happen on {self.on}, which is a WebSocket")
        return self

    @property
    def error_code_or_none(self) -> str | None:
        """``error_code`` if it was given: a refusal has a code of its own for its status."""
        return self.error_code if "error_code" in self.model_fields_set else None


def parse_fault(text: str, on: Endpoint = "realtime") -> Fault:
    """Read ``kind`` or ``kind:name=value,name=value`` for the endpoint ``on``.

    Raises FaultError for the form and pydantic's ValidationError for a field; both are ValueErrors.
    """
    kind, _, rest = text.partition(":")
    fields: dict[str, Any] = {"kind": kind, "on": on}
    for pair in filter(None, rest.split(",")):
        name, equals, value = pair.partition("=")
        if not equals:
            raise FaultError(f"fault {text!r}: expected name=value, not {pair!r}")
        fields[name] = value
    return Fault.model_validate(fields)


class FaultQueue:
    """The faults that were ordered and have not struck yet."""

    def __init__(self) -> None:
        self._entries: list[list[Any]] = []

    def add(self, fault: Fault, count: int) -> None:
        self._entries.append([fault, count])

    def clear(self) -> None:
        self._entries.clear()

    def pending(self) -> list[tuple[Fault, int]]:
        return [(fault, count) for fault, count in self._entries]

    def take(self, endpoint: Endpoint, turn: int | None = None) -> list[Fault]:
        """The faults that the next session or request of ``endpoint`` suffers.

        A session is given them early (``turn`` None) and waits for their turn itself; a request is about one.
        """
        taken: list[Fault] = []
        for entry in self._entries:
            fault = entry[0]
            if fault.on == endpoint and (turn is None or turn >= fault.turn):
                taken.append(fault)
                entry[1] -= 1
        self._entries = [entry for entry in self._entries if entry[1] > 0]
        return taken


class FaultPlan:
    """The faults of one session: answers the session's questions, and bends what it sends."""

    def __init__(self, faults: Iterable[Fault] = (), *, started_at: float = 0.0) -> None:
        self._left: list[list[Any]] = [[fault, fault.times] for fault in faults]
        self._started_at = started_at
        self._turn = 0
        self._deltas: dict[int, int] = {}

    def add(self, faults: Iterable[Fault]) -> None:
        """Faults that a scenario brings along."""
        self._left.extend([fault, fault.times] for fault in faults)

    def begin_turn(self, turn: int) -> None:
        """The caller's ``turn``-th message is complete."""
        self._turn = turn

    def take(self, kind: FaultKind) -> Fault | None:
        """The fault of this kind whose moment has come; it counts as having struck."""
        for entry in self._left:
            fault, times = entry
            if fault.kind == kind and times > 0 and self._turn >= fault.turn and self._counted(fault):
                entry[1] -= 1
                return fault  # type: ignore[no-any-return]
        return None

    def has(self, kind: FaultKind) -> bool:
        """Whether a fault of this kind is still to come, whenever that is."""
        return any(fault.kind == kind and times > 0 for fault, times in self._left)

    def deadline(self) -> float | None:
        """When a fault with ``after_ms`` strikes next."""
        due = [
            self._started_at + fault.after_ms / 1000
            for fault, times in self._left
            if times > 0 and fault.kind in _TIMED and fault.after_ms is not None
        ]
        return min(due, default=None)

    def expire(self, now: float) -> list[Output]:
        """What strikes by time."""
        struck: list[Output] = []
        for entry in self._left:
            fault, times = entry
            if times > 0 and fault.kind in _TIMED and fault.after_ms is not None:
                if now < self._started_at + fault.after_ms / 1000:
                    continue
                entry[1] = 0
                struck.extend(_strike(fault))
        return struck

    def bend(self, frame: Frame) -> list[Output]:
        """What goes out in place of ``frame``, and what strikes after it."""
        kind = frame["type"]
        out: list[Output] = [self._shape(frame, kind)]
        if kind in AUDIO_DELTAS:
            for entry in self._left:
                if self._turn >= entry[0].turn:
                    self._deltas[id(entry)] = self._deltas.get(id(entry), 0) + 1
        elif kind not in _OPENED:
            return out
        for entry in self._left:
            fault, times = entry
            if times <= 0 or fault.kind not in _TIMED or fault.after_ms is not None:
                continue
            if self._turn >= fault.turn and self._deltas.get(id(entry), 0) >= (fault.after_deltas or 0):
                entry[1] -= 1
                out.extend(_strike(fault))
        return out

    def _shape(self, frame: Frame, kind: str) -> Output:
        for entry in self._left:
            fault, times = entry
            if times > 0 and fault.kind in _SHAPES and _concerns(fault, kind):
                if self._turn < fault.turn or not self._counted(fault):
                    continue
                entry[1] -= 1
                return misshape(fault, frame)
        return frame

    def _counted(self, fault: Fault) -> bool:
        if not fault.after_deltas:
            return True
        sent = next(self._deltas.get(id(e), 0) for e in self._left if e[0] is fault)
        return sent >= fault.after_deltas


def _concerns(fault: Fault, kind: str) -> bool:
    """Whether a fault of a frame's shape is about this type; by default about audio, on either API."""
    return fault.event_type == kind or (fault.event_type == AUDIO_DELTA and kind in AUDIO_DELTAS)


def misshape(fault: Fault, frame: Frame) -> Output:
    """``frame`` with the fault's defect."""
    match fault.kind:
        case "extra_field":
            return {**frame, "x_rehearsal": {"nested": [1, None]}}
        case "missing_field":
            return {name: value for name, value in frame.items() if name != fault.field}
        case "malformed_json":
            text = json.dumps(frame)
            return Raw(text[: len(text) // 2])
        case "malformed_base64":
            return {**frame, "delta": str(frame.get("delta", ""))[:-3] + "*"}
        case _:
            return Raw(json.dumps(frame).encode())


def _strike(fault: Fault) -> list[Output]:
    if fault.kind == "abort" or (fault.kind == "close" and fault.code == 1006):
        return [Abort()]
    if fault.kind == "unknown_event":
        return [{"type": "rehearsal.unknown", "novelty": True}]
    if fault.kind == "error":
        error = {"type": "server_error", "code": fault.error_code, "message": "A rehearsed error."}
        return [_error({**error, "param": None, "event_id": fault.event_id})]
    out: list[Output] = []
    if fault.code == 1001:
        # The cap on a session's length announces itself before it closes.
        message = "Your session hit the maximum duration of 60 minutes."
        details = {"type": "invalid_request_error", "code": "session_expired", "message": message}
        out.append(_error({**details, "param": None, "event_id": None}))
    return [*out, Close(fault.code, fault.reason)]


def _error(error: Frame) -> Frame:
    return {"type": "error", "error": error}
