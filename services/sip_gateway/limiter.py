"""How many calls one source may try: a token bucket for each, so that a mad PBX costs its neighbours nothing.

A core without I/O. Sources that may call at all are few; the table is bounded all the same.
"""

from __future__ import annotations

MAX_SOURCES = 4096


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
