"""What Twilio sends on a media stream's WebSocket, in order and checked. A core without I/O.

Source: Twilio, "Media Streams - WebSocket Messages". Theory of operation.

    NEW --connected--> NEW --start--> STREAMING --stop, closed, too large--> ENDED

 - Every message from `start` on is numbered. Those that come early wait for the missing ones, at most
   `WINDOW` messages or `GAP_S`; then the gap is given up, and the uplink's clock makes up for it. A number
   that was seen, or given up, is dropped. `RESTART_AFTER` of these in a row, each one above the one before, are
   no repetition: the numbers have begun anew, or one was far too high (as in RFC 3550 A.1).
 - What cannot be read is counted and costs nothing else: unknown events, JSON cut short, bad base64, a
   second `start`, another stream's id. Only a message above `MAX_MESSAGE_BYTES` and a `start` that nothing
   can be done with close the stream.
 - `Ended` leaves the core once, whatever comes: `stop`, a close without it, both, or neither in good order.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

MAX_MESSAGE_BYTES = 64 * 1024
WINDOW = 5
GAP_S = 0.06
RESTART_AFTER = 10
MAX_DROPOUT = 3000  # RFC 3550 A.1: a greater step says nothing about loss
ENCODING, RATE_HZ = "audio/x-mulaw", 8000
TOO_LARGE, POLICY = 1009, 1008  # RFC 6455 §7.4.1
DIGITS = frozenset("0123456789*#ABCD")


@dataclass(frozen=True, slots=True)
class Started:
    """The stream says whose it is; `parameters` are those of our TwiML."""

    stream_sid: str
    call_sid: str
    account_sid: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Heard:
    """Audio of the caller: u-law, 8 kHz, any length."""

    ulaw: bytes


@dataclass(frozen=True, slots=True)
class Pressed:
    """The caller pressed a key."""

    digit: str


@dataclass(frozen=True, slots=True)
class MarkReturned:
    """What was sent before this mark was played, or cleared."""

    name: str


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing more comes. `stop`: the call or stream ended in order; `closed`: by a close; `lost`: without one."""

    by: Literal["stop", "closed", "lost", "refused"]


@dataclass(frozen=True, slots=True)
class Close:
    """Close the WebSocket with this code and reason."""

    code: int
    reason: str


Action = Started | Heard | Pressed | MarkReturned | Ended | Close


class Phase(StrEnum):
    """See the theory of operation."""

    NEW = "new"
    STREAMING = "streaming"
    ENDED = "ended"


class MediaStream:
    """One WebSocket connection. Feed `receive` and `closed`, call `expire` at each tick."""

    def __init__(self) -> None:
        self.phase = Phase.NEW
        self.stream_sid = ""
        self.counters: Counter[str] = Counter()
        self._next = 1
        self._waiting: dict[int, list[Action]] = {}
        self._gap_at: float | None = None
        self._behind = 0  # the last number that was behind; how many of them came in a row
        self._behind_in_a_row = 0

    def receive(self, text: str | bytes, now: float) -> list[Action]:
        """Take one message."""
        if self.phase is Phase.ENDED:
            self.counters["after_end"] += 1
            return []
        if len(text) > MAX_MESSAGE_BYTES:
            self.counters["oversized"] += 1
            return [Close(TOO_LARGE, f"a message has {len(text)} bytes, {MAX_MESSAGE_BYTES} are the limit"),
                    *self._end("refused")]  # fmt: skip
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):  # JSON, or its UTF-8, was cut short; or it nests without end
            message = None
        if not isinstance(message, dict) or not isinstance(message.get("event"), str):
            self.counters["malformed"] += 1
            return []
        return self._take(message["event"], message, now)

    def closed(self, *, in_order: bool) -> list[Action]:
        """The WebSocket is closed, with a close frame (`in_order`) or without."""
        return self._end("closed" if in_order else "lost")

    def expire(self, now: float) -> list[Action]:
        """Give up a gap whose time is over."""
        if self._gap_at is None or now - self._gap_at < GAP_S:
            return []
        return self._skip(now)

    # -- messages ----------------------------------------------------------------------------------------------

    def _take(self, event: str, message: dict[str, Any], now: float) -> list[Action]:
        if event == "connected":
            self.counters["connected"] += 1
            return []
        if event == "start" and self.phase is Phase.NEW:
            return self._start(message)
        if self.phase is Phase.NEW:
            self.counters["early"] += 1
            return []
        if message.get("streamSid") not in (None, self.stream_sid):
            self.counters["foreign"] += 1
            return []
        number = _number(message.get("sequenceNumber"))
        if event == "stop":  # a stop is a stop, whatever its number: nothing follows that could fill a gap
            return [*self._all_waiting(), *self._end("stop")]
        return self._in_order(number, self._meaning(event, message), now)

    def _start(self, message: dict[str, Any]) -> list[Action]:
        start = message.get("start")
        start = start if isinstance(start, dict) else {}
        stream_sid, call_sid = start.get("streamSid") or message.get("streamSid"), start.get("callSid")
        if not (isinstance(stream_sid, str) and stream_sid and isinstance(call_sid, str) and call_sid):
            return self._refuse("'start' does not name stream and call")
        media = start.get("mediaFormat")
        media = media if isinstance(media, dict) else {}
        if (media.get("encoding", ENCODING), media.get("sampleRate", RATE_HZ)) != (ENCODING, RATE_HZ):
            return self._refuse(f"only {ENCODING} at {RATE_HZ} Hz can be taken")
        given = start.get("customParameters")
        given = given if isinstance(given, dict) else {}
        self.phase = Phase.STREAMING
        self.stream_sid = stream_sid
        number = _number(message.get("sequenceNumber"))
        self._next = 2 if number is None else number + 1
        parameters = {str(name): str(value) for name, value in given.items()}
        return [Started(stream_sid, call_sid, str(start.get("accountSid", "")), parameters)]

    def _refuse(self, why: str) -> list[Action]:
        self.counters["refused"] += 1
        return [Close(POLICY, why), *self._end("refused")]

    def _meaning(self, event: str, message: dict[str, Any]) -> list[Action]:
        """What a numbered message says; nothing when it says nothing to us, its number is used up all the same."""
        body = message.get(event)
        if event == "start":
            self.counters["start_repeated"] += 1
            return []
        if event not in ("media", "dtmf", "mark"):
            self.counters["unknown"] += 1
            return []
        if not isinstance(body, dict):
            self.counters["malformed"] += 1
            return []
        if event == "media":
            return self._media(body)
        text = body.get("digit" if event == "dtmf" else "name")
        if not isinstance(text, str) or (event == "dtmf" and text not in DIGITS):
            self.counters["malformed"] += 1
            return []
        self.counters[event] += 1
        return [Pressed(text) if event == "dtmf" else MarkReturned(text)]

    def _media(self, body: dict[str, Any]) -> list[Action]:
        if body.get("track", "inbound") not in ("inbound", "inbound_track"):
            self.counters["outbound"] += 1
            return []
        try:
            ulaw = b64decode(body.get("payload", ""), validate=True)
        except (binascii.Error, ValueError, TypeError):
            self.counters["malformed"] += 1
            return []
        self.counters["media"] += 1
        return [Heard(ulaw)] if ulaw else []

    # -- order -------------------------------------------------------------------------------------------------

    def _in_order(self, number: int | None, actions: list[Action], now: float) -> list[Action]:
        if number is None:
            self.counters["unnumbered"] += 1
            return actions
        if number < self._next or number in self._waiting:
            return self._take_behind(number, actions)
        self._behind_in_a_row = 0
        if number == self._next and not self._waiting:  # the hot path: TCP keeps the order of one sender
            self._next += 1
            return actions
        self._waiting[number] = actions
        if self._gap_at is None:
            self._gap_at = now
        if self._next in self._waiting:
            self.counters["reordered"] += 1
            return self._ready(now)
        return self._skip(now) if len(self._waiting) > WINDOW else []

    def _take_behind(self, number: int, actions: list[Action]) -> list[Action]:
        """A repetition, or one that comes after its gap was given up; or the numbers go on from elsewhere."""
        follows = number == self._behind + 1
        self._behind, self._behind_in_a_row = number, self._behind_in_a_row + 1 if follows else 1
        if self._behind_in_a_row < RESTART_AFTER:
            self.counters["duplicate"] += 1
            return []
        self.counters["restarted"] += 1
        self._behind_in_a_row = 0
        self._waiting.clear()
        self._gap_at = None
        self._next = number + 1
        return actions

    def _skip(self, now: float) -> list[Action]:
        """The first gap stays one; then whatever is in order behind it."""
        first = min(self._waiting)
        missing = first - self._next
        self.counters["lost" if missing <= MAX_DROPOUT else "jumped"] += missing if missing <= MAX_DROPOUT else 1
        self._next = first
        return self._ready(now)

    def _ready(self, now: float) -> list[Action]:
        actions: list[Action] = []
        while self._next in self._waiting:
            actions += self._waiting.pop(self._next)
            self._next += 1
        self._gap_at = now if self._waiting else None
        return actions

    def _all_waiting(self) -> list[Action]:
        actions = [action for number in sorted(self._waiting) for action in self._waiting[number]]
        self._waiting.clear()
        self._gap_at = None
        return actions

    def _end(self, by: Literal["stop", "closed", "lost", "refused"]) -> list[Action]:
        if self.phase is Phase.ENDED:
            return []
        self.phase = Phase.ENDED
        return [*self._all_waiting(), Ended(by)]


def _number(value: object) -> int | None:
    """Twilio writes numbers as strings."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**11:
        return value
    return None
