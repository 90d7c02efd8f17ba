"""The provider's rate limits: when a model may be asked again. A core without I/O.

Theory of operation. A limit belongs to the account, so one refused response says something about all calls of the
worker that use the same model at the same API: they share one `RateLimit`, by the name that their `BackendPlan` gives
it. A refusal closes it until the moment that the provider names
(`hint_s`), or for a time that doubles with every refusal in a row. Whoever wants to try again takes a place in the row
behind that moment (`may_ask_at`), `SPACING_S` after the one before, so that not all calls come back in the same
instant. A response that succeeds ends the row. Several workers do not know of each other; each learns it by a refusal.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

LIMITED = ("rate_limit_exceeded", "rate_limited", "too_many_requests", "slow_down")
FIRST_PAUSE_S = 0.5  # without a hint; doubled with every refusal in a row
LONGEST_PAUSE_S = 20.0  # whatever the hint says: a caller is waiting
SPACING_S = 0.1

_DURATION = re.compile(r"try again in ((?:\d+(?:\.\d+)?(?:ms|s|m|h))+)", re.IGNORECASE)
_PIECE = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)", re.IGNORECASE)
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def is_limit(detail: str) -> bool:
    """Whether an error, as "code: message", says that too much was asked for."""
    return detail.partition(":")[0].strip() in LIMITED


def hint_of(detail: str) -> float | None:
    """The seconds in "Please try again in 1m2.5s."; None: the message names none."""
    found = _DURATION.search(detail)
    if found is None:
        return None
    return sum(float(number) * _UNIT_S[unit.lower()] for number, unit in _PIECE.findall(found.group(1)))


def hint_of_headers(headers: Mapping[str, str]) -> float | None:
    """`retry-after-ms`, else `Retry-After` in seconds (RFC 9110 section 10.2.3; a date is not read).

    `headers` has lower-case names, or ignores their case.
    """
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            value = float(headers.get(name, ""))
        except ValueError:
            continue
        if 0 <= value < float("inf"):
            return value * unit_s
    return None


class RateLimit:
    """One model's limit, as one worker knows it."""

    def __init__(self) -> None:
        self._closed_until = 0.0
        self._next_place_at = 0.0
        self._in_a_row = 0
        self.counters: Counter[str] = Counter()

    def refused(self, now: float, hint_s: float | None = None) -> None:
        """The provider would not answer because of its limits."""
        self.counters["refused"] += 1
        if now >= self._closed_until:  # those that were under way when it closed are the same refusal
            self._in_a_row += 1
        pause_s = FIRST_PAUSE_S * 2 ** min(self._in_a_row - 1, 10) if hint_s is None else hint_s
        self._closed_until = max(self._closed_until, now + min(pause_s, LONGEST_PAUSE_S))

    def used_up(self, now: float, reset_s: float) -> None:
        """The provider told that nothing is left before so many seconds: a refusal would come next."""
        self.counters["used_up"] += 1
        self._closed_until = max(self._closed_until, now + min(max(0.0, reset_s), LONGEST_PAUSE_S))

    def answered(self, now: float) -> None:
        """A response succeeded."""
        if now >= self._closed_until:
            self._in_a_row = 0

    def is_open(self, now: float) -> bool:
        """Whether a response may be asked for at once."""
        return now >= self._closed_until

    def may_ask_at(self, now: float) -> float:
        """When this caller may ask; `now` while the limit is open, else a place of its own behind its end."""
        if self.is_open(now):
            return now
        self.counters["waited"] += 1
        place_at = max(self._closed_until, self._next_place_at)
        self._next_place_at = place_at + SPACING_S
        return place_at


class RateLimits:
    """The limits of all models that a worker uses."""

    def __init__(self) -> None:
        self._by_name: dict[str, RateLimit] = {}

    def of(self, name: str) -> RateLimit:
        """The one of this name."""
        return self._by_name.setdefault(name, RateLimit())

    def counted(self) -> Counter[str]:
        """What they counted, for the metrics."""
        return sum((limit.counters for limit in self._by_name.values()), Counter())
