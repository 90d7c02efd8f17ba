"""How many calls one source may try: a token bucket for each, so that a mad PBX costs its neighbours nothing.

`SourceLimiter` and `InviteScreen` are cores without I/O. What is too much is answered with 503 before the SIP core sees
it, without state (RFC 3261 §8.2.7): a flood of INVITEs leaves no transaction behind.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict

from libs.sip.errors import SipParseError
from libs.sip.message import Reply, Request, build_response, parse
from services.sip_gateway.trace import call_id_of

MAX_SOURCES = 4096
MAX_KNOWN = 8192
INVITES_OF_A_CALL = 32  # repeats, answers to challenges, re-INVITEs; more than that is no call
RETRY_AFTER_S = 5

Address = tuple[str, int]


class SourceLimiter:
    """`per_second` calls go on and on, twice as many at once."""

    def __init__(self, per_second: float) -> None:
        self._rate = per_second
        self._burst = max(1.0, 2 * per_second)
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, and when they were counted

    def allows(self, source: str, now: float) -> bool:
        """Whether this call may be served; counts it."""
        tokens, counted_at = self._buckets.pop(source, (self._burst, now))
        tokens = min(self._burst, tokens + (now - counted_at) * self._rate)
        is_allowed = tokens >= 1
        self._buckets[source] = (tokens - 1 if is_allowed else tokens, now)  # last: the table is in order of use
        if len(self._buckets) > MAX_SOURCES:
            del self._buckets[next(iter(self._buckets))]
        return is_allowed


class InviteScreen:
    """Which INVITEs reach the SIP core. Those of a call that was let in do, a new call needs a token of its source."""

    def __init__(self, limiter: SourceLimiter) -> None:
        self._limiter = limiter
        self._known: OrderedDict[tuple[str, bytes], int] = OrderedDict()

    def lets_in(self, message: bytes, source: Address, now: float) -> bool:
        """Whether the core shall see this INVITE."""
        key = (source[0], call_id_of(message) or b"")
        count = self._known.get(key, 0)
        if count and count < INVITES_OF_A_CALL:
            self._known[key] = count + 1
            self._known.move_to_end(key)
            return True
        if not self._limiter.allows(source[0], now):
            return False
        self._known[key] = 1
        self._known.move_to_end(key)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return True


def refusal(message: bytes, source: Address) -> tuple[bytes, Address] | None:
    """503 with Retry-After and where it goes over UDP; None for what cannot be answered. Repeats get the same tag."""
    try:
        request = parse(message)
    except SipParseError:
        return None
    if not isinstance(request, Request):
        return None
    reply = Reply(503, (("Retry-After", str(RETRY_AFTER_S)),))
    data = build_response(request, reply, source, f"{zlib.crc32(message):08x}")
    return data, request.via.response_destination(source)
