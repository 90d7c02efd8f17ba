"""What this worker's calls spend, by organisation and UTC day, and when a day's budget is used up. A core without I/O.

Theory of operation. Costs are added up as they are told. The totals that are not on the bus yet are `due`, and are
written with what they amount to, not with what was added: so a write may be repeated, and one whose answer was lost
does no harm. What other workers spent comes in through `others`, a copy of the bus. A cost belongs to the day on which
it was told. Totals never shrink, and are kept for one day more than they are needed, for writes that the bus was away
for.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta

Others = Callable[[str, date], float]


class DayBudgets:
    """One per worker. `others(org, day)` is what everybody else spent, as far as it is known."""

    def __init__(self, others: Others) -> None:
        self._others = others
        self._spent: dict[tuple[str, date], float] = {}
        self._written: dict[tuple[str, date], float] = {}

    def add(self, org: str, usd: float, day: date) -> None:
        """A call cost this much more; amounts that are none (zero, negative, not a number) are ignored."""
        if usd > 0:
            self._spent[org, day] = self._spent.get((org, day), 0.0) + usd

    def total(self, org: str, day: date) -> float:
        """What an organisation has spent on a day, with all workers."""
        return self._spent.get((org, day), 0.0) + self._others(org, day)

    def is_spent(self, org: str, limit_usd: float | None, day: date) -> bool:
        """Whether nothing is left of a day's budget."""
        return limit_usd is not None and self.total(org, day) >= limit_usd

    def due(self) -> list[tuple[str, date, float]]:
        """Organisation, day and total of what the bus does not know yet."""
        return [(org, day, usd) for (org, day), usd in self._spent.items() if usd != self._written.get((org, day))]

    def written(self, org: str, day: date, usd: float) -> None:
        """The bus knows this total."""
        self._written[org, day] = usd

    def write_again(self) -> None:
        """The bus may have lost everything."""
        self._written.clear()

    def forget_before(self, day: date) -> None:
        """Days that are over, but for the one before `day`."""
        oldest = day - timedelta(days=1)
        for table in (self._spent, self._written):
            for key in [key for key in table if key[1] < oldest]:
                del table[key]
