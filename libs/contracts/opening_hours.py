"""Opening hours of a route: weekly spans on the clock of a place, and exceptions by date.

All comparisons are made on the wall clock of the zone, as on the sign at a shop's door: in the night when clocks go
back, the hour that comes twice is open twice; one that is skipped never is.
"""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import field_validator

from libs.contracts.model import Message

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
CLOSED = "closed"
DAY_MINUTES = 24 * 60

_WEEKLY = re.compile(r"([a-z]{3}(?:-[a-z]{3})?(?:, ?[a-z]{3}(?:-[a-z]{3})?)*) +([0-9].*)")
_SPAN = re.compile(r"([0-9]{1,2}):([0-9]{2}) ?- ?([0-9]{1,2}):([0-9]{2})")


class Span(NamedTuple):
    """Minutes after midnight, the end not included; an end that is not after the beginning is on the next day."""

    begins: int
    ends: int


class OpeningHours(Message):
    """When a route is open: `mon-fri 08:00-12:00, 13:00-17:30`; a span over midnight belongs to the day it begins.

    `exceptions` replaces a day's spans by `closed` or by other spans; what began the evening before still runs on.
    """

    timezone: str
    weekly: tuple[str, ...]
    exceptions: dict[str, str] = {}

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        _zone(value)
        return value

    @field_validator("weekly")
    @classmethod
    def _weekly(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        _week(value)
        return value

    @field_validator("exceptions")
    @classmethod
    def _dated(cls, value: dict[str, str]) -> dict[str, str]:
        for day, spans in value.items():
            _date(day)
            _exception(spans)
        return value

    def is_open(self, at: datetime) -> bool:
        """Tell whether the route is open at a moment, which has a zone of its own (UTC, say)."""
        local = at.astimezone(_zone(self.timezone))
        today, minute = local.date(), local.hour * 60 + local.minute
        return any(
            span.begins <= minute and (minute < span.ends or span.ends <= span.begins) for span in self._spans(today)
        ) or any(span.ends <= span.begins and minute < span.ends for span in self._spans(today - timedelta(days=1)))

    def _spans(self, day: date) -> tuple[Span, ...]:
        exception = self.exceptions.get(day.isoformat())
        return _week(self.weekly)[day.weekday()] if exception is None else _exception(exception)


@lru_cache
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a directory of the database ("Europe")
        raise ValueError(f"there is no time zone {name[:64]!r}; they are written like Europe/Berlin") from None


def _date(text: str) -> None:
    try:
        same = date.fromisoformat(text).isoformat() == text
    except ValueError:
        same = False
    if not same:
        raise ValueError(f"{text[:64]!r} is no date; they are written like 2026-12-24")


@lru_cache(maxsize=1024)
def _week(entries: tuple[str, ...]) -> tuple[tuple[Span, ...], ...]:
    week: list[tuple[Span, ...]] = [()] * len(DAYS)
    for entry in entries:
        parts = _WEEKLY.fullmatch(entry.strip().lower())
        if parts is None:
            raise ValueError(f"{entry[:64]!r} is no weekly span; they are written like 'mon-fri 08:00-17:30'")
        for day in _days(parts[1]):
            week[day] += _parsed(parts[2])
    return tuple(week)


def _days(text: str) -> list[int]:
    found: list[int] = []
    for part in re.split(", ?", text):
        first, _, last = part.partition("-")
        for name in (first, last or first):
            if name not in DAYS:
                raise ValueError(f"{name!r} is no day; they are {', '.join(DAYS)}")
        start = DAYS.index(first)
        found += [(start + n) % 7 for n in range((DAYS.index(last or first) - start) % 7 + 1)]  # fri-mon goes round
    return found


@lru_cache(maxsize=1024)
def _exception(text: str) -> tuple[Span, ...]:
    return () if text == CLOSED else _parsed(text)


def _parsed(text: str) -> tuple[Span, ...]:
    return tuple(_span(part.strip()) for part in text.split(","))


def _span(text: str) -> Span:
    numbers = _SPAN.fullmatch(text)
    if numbers is None:
        raise ValueError(f"{text[:64]!r} is no span of time; they are written like 08:00-17:30")
    from_hour, from_minute, to_hour, to_minute = map(int, numbers.groups())
    begins, ends = from_hour * 60 + from_minute, to_hour * 60 + to_minute
    if max(from_minute, to_minute) > 59 or begins >= DAY_MINUTES or ends > DAY_MINUTES:
        raise ValueError(f"{text!r} has a time that no clock shows; 24:00 may stand at the end")
    if begins == ends:
        raise ValueError(f"{text!r} is empty; 00:00-24:00 is the whole day")
    return Span(begins, ends)
