"""The SIP messages of each call as `sip.traced` events, credentials removed (`callbus trace`).

The transport shows every message; what belongs to no call costs one search for its Call-ID and is forgotten. An INVITE
waits in a short list until its call has an id. What comes again and again is told a few times, and no call is given
more than `MAX_MESSAGES`, so that no flood fills the event stream.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from libs.contracts.events import SipTraced, event_id

MAX_MESSAGES = 200
MAX_REPEATS = 3  # of one message: enough to see that somebody did not hear
MAX_TEXT = 16_384
SHORTEST = 32  # keep-alives are no messages
MAX_WAITING = 256  # INVITEs whose call has no id yet
MAX_WAITING_MESSAGES = 16
KEEP_S = 40.0  # after a call's end: its last answers and repeats (64*T1 and a little)
SOURCE = "sip"

Direction = Literal["in", "out"]
Transport = Literal["udp", "tcp", "tls"]
_CALL_ID = re.compile(rb"\n(?:call-id|i)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)
_CREDENTIALS = re.compile(
    r"^((?:proxy-)?authorization[ \t]*:)[^\r\n]*(?:\r?\n[ \t][^\r\n]*)*", re.IGNORECASE | re.MULTILINE
)
_KEYS = re.compile(r"^((?:a=crypto:[^\r\n]*?inline:)|a=key-mgmt:|k=)[^\r\n]*", re.IGNORECASE | re.MULTILINE)
# RFC 3261 §19.1.1: a password in a URI, and headers that a URI carries for the request made of it. Bounded and
# possessive: nobody makes the search slow with a message full of `sip:`.
_PASSWORD = re.compile(r"(\bsips?:[^\s:@<>\"]{0,512}+:)[^\s@<>\"]{0,512}+(?=@)", re.IGNORECASE)
_IN_URI = re.compile(r"([?&](?:proxy-)?authorization=)[^&>\s]*", re.IGNORECASE)
REMOVED = "[removed]"


def call_id_of(message: bytes) -> bytes | None:
    """The Call-ID of a message, None where there is none."""
    start = message.find(b"\nCall-ID: ")
    if start >= 0:
        end = message.find(b"\r", start + 10)
        return message[start + 10 : end].strip() if end > 0 else None
    found = _CALL_ID.search(message)
    return found[1].strip() if found is not None else None


def without_credentials(message: bytes) -> str:
    """A message as text that may be shown: no digest answers, no media keys, no passwords in addresses."""
    text = message[:MAX_TEXT].decode("utf-8", "replace")
    text = _CREDENTIALS.sub(rf"\1 {REMOVED}", text)
    for secret in (_PASSWORD, _IN_URI, _KEYS):
        text = secret.sub(rf"\1{REMOVED}", text)
    return text


@dataclass(frozen=True, slots=True)
class Seen:
    """One message on the wire."""

    at: datetime
    direction: Direction
    transport: Transport
    local: str
    peer: str
    data: bytes


@dataclass(slots=True)
class _Traced:
    org: str
    call: str
    count: int = 0
    told: Counter[int] = field(default_factory=Counter)  # how often, by hash of the message


class SipTrace:
    """`seen` is the transport's hook, `publish` takes the events."""

    def __init__(self, publish: Callable[[SipTraced], None]) -> None:
        self._publish = publish
        self._calls: dict[bytes, _Traced] = {}
        self._numbers: dict[str, _Traced] = {}
        self._waiting: OrderedDict[bytes, list[Seen]] = OrderedDict()
        self._ended: deque[tuple[float, bytes]] = deque()
        self.counters: Counter[str] = Counter()

    def seen(self, direction: Direction, transport: Transport, local: str, peer: str, data: bytes) -> None:
        """A message came in or goes out."""
        if len(data) < SHORTEST:
            return
        call_id = call_id_of(data)
        if call_id is None:
            return
        traced = self._calls.get(call_id)
        if traced is None and call_id not in self._waiting and not data.startswith(b"INVITE "):
            return
        message = Seen(datetime.now(UTC), direction, transport, local, peer, data)
        if traced is not None:
            self._tell(traced, message)
            return
        waiting = self._waiting.setdefault(call_id, [])
        if len(waiting) < MAX_WAITING_MESSAGES:
            waiting.append(message)
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)

    def follow(self, call_id: bytes | str, org: str, call: str) -> None:
        """The dialogs of this Call-ID belong to a call; what was seen of them so far is told now.

        A call may have several: each server that was tried, the target of a bridged transfer.
        """
        key = call_id.encode() if isinstance(call_id, str) else call_id
        traced = self._numbers.setdefault(call, _Traced(org, call))
        self._calls[key] = traced
        for message in self._waiting.pop(key, ()):
            self._tell(traced, message)

    def forget(self, call: str, now: float) -> None:
        """The call has ended: its last answers are still told for a while."""
        traced = self._numbers.pop(call, None)
        if traced is not None:
            self._ended += ((now, key) for key, found in self._calls.items() if found is traced)
        while self._ended and (self._ended[0][0] < now - KEEP_S or len(self._ended) > 10 * MAX_WAITING):
            self._calls.pop(self._ended.popleft()[1], None)

    def _tell(self, traced: _Traced, message: Seen) -> None:
        repeat = hash((message.direction, message.data))
        if traced.told[repeat] > MAX_REPEATS:
            self.counters["repeats"] += 1
            return
        if traced.count >= MAX_MESSAGES:
            self.counters["beyond_limit"] += 1
            return
        traced.told[repeat] += 1
        traced.count += 1
        self.counters["told"] += 1
        self._publish(
            SipTraced(
                event_id=event_id(traced.call, SOURCE, traced.count),
                org=traced.org,
                call=traced.call,
                at=message.at,
                direction=message.direction,
                transport=message.transport,
                local=message.local,
                peer=message.peer,
                text=without_credentials(message.data),
            )
        )
