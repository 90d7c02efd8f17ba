"""A local copy of KV `spend`: what every organisation spent today, for whoever lets calls in or ends them.

While the bus is away the copy keeps what it knows: no call waits for it, and none ends because of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

from libs.contracts import subjects
from libs.contracts.spending import Spendings
from libs.runtime.bucket_watch import BucketWatch
from libs.runtime.bus import Bus


def today() -> date:
    """The day that budgets count for (UTC)."""
    return datetime.now(UTC).date()


class SpendingCopy:
    """`run()` is one task of the service's TaskGroup; `loaded` is set once the first copy is complete."""

    def __init__(self, bus: Bus) -> None:
        self._watch = BucketWatch(bus, subjects.KV_SPEND, self)
        self.spendings = Spendings()
        self.loaded = asyncio.Event()
        self.on_change: list[Callable[[], None]] = []

    def spent_today(self, org: str) -> float:
        """In USD, by all workers, as far as it is known here."""
        return self.spendings.total(org, today())

    async def run(self) -> None:
        """Follow the bucket until cancelled."""
        await self._watch.run()

    # -- the watch ---------------------------------------------------------------------------------------

    def begin(self) -> None:
        """See `Copy`. What is known stands until something else is told: totals only grow."""

    def take(self, key: str, value: bytes | None) -> None:
        """See `Copy`."""
        self.spendings.take(key, value)
        for callback in self.on_change:
            callback()

    def complete(self) -> None:
        """See `Copy`."""
        self.loaded.set()

    def quiet(self) -> None:
        """See `Copy`. Days that are over are forgotten."""
        self.spendings.forget_before(today() - timedelta(days=1))
