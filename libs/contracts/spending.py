"""What organisations spent on models, day by day (UTC): KV `spend`, key `<org>.<day>.<worker>`.

Each worker writes a key of its own, with all that it spent for the organisation on that day. So nobody's write can
undo another one's, a write whose answer was lost is simply repeated, and the day's sum is that of its keys.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated

from pydantic import Field, ValidationError

from libs.contracts.model import Message


class DaySpending(Message):
    """One worker's total for an organisation and day."""

    usd: Annotated[float, Field(ge=0, allow_inf_nan=False)]


def spending_key(org: str, day: date, wk: str) -> str:
    """Where a worker's total stands."""
    return f"{org}.{day.isoformat()}.{wk}"


class Spendings:
    """Everybody's totals, as far as they are known. `take` is fed with the entries of the bucket."""

    def __init__(self) -> None:
        self._totals: dict[tuple[str, date], dict[str, float]] = {}
        self.malformed = 0

    def take(self, key: str, value: bytes | None) -> None:
        """An entry; None: it was removed. What cannot be read is counted, and the former entry stands."""
        org, _, rest = key.partition(".")
        day_text, _, wk = rest.partition(".")
        try:
            day = date.fromisoformat(day_text)
            told = None if not value else DaySpending.model_validate_json(value).usd
        except (ValueError, ValidationError):
            self.malformed += 1
            return
        by_worker = self._totals.setdefault((org, day), {})
        if told is None:
            by_worker.pop(wk, None)
        else:
            by_worker[wk] = told

    def total(self, org: str, day: date, *, without: str = "") -> float:
        """What an organisation spent on a day, in USD; `without` leaves one worker out."""
        return sum(usd for wk, usd in self._totals.get((org, day), {}).items() if wk != without)

    def of_day(self, day: date) -> dict[str, float]:
        """By organisation."""
        return {org: self.total(org, day) for org, on in self._totals if on == day}

    def forget_before(self, day: date) -> None:
        """Days that are over."""
        self._totals = {key: totals for key, totals in self._totals.items() if key[1] >= day}
