"""A local copy of KV `spend`: what every organisation spent today, for whoever lets calls in or ends them.

While the bus is away the copy keeps what it knows: no call waits for it, and none ends because of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import nats.errors
from nats.js.errors import Error as JetStreamError

from libs.contracts import subjects
from libs.contracts.spending import Spendings
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger
from libs.runtime.streams import bucket
from libs.runtime.tasks import stop_if_cancelled

log = get_logger()

RETRY_S = 0.5
QUIET_S = 1.0


def today() -> date:
    """The day that budgets count for (UTC)."""
    return datetime.now(UTC).date()


class SpendingCopy:
    """`run()` is one task of the service's TaskGroup; `loaded` is set once the first copy is complete."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._again = False
        self.spendings = Spendings()
        self.loaded = asyncio.Event()
        self.on_change: list[Callable[[], None]] = []
        bus.control_link.on_up.append(self._restart)

    def spent_today(self, org: str) -> float:
        """In USD, by all workers, as far as it is known here."""
        return self.spendings.total(org, today())

    def _restart(self) -> None:
        self._again = True

    async def run(self) -> None:
        """Follow the bucket until cancelled."""
        while True:
            stop_if_cancelled()
            try:
                await self._follow()
            except (nats.errors.Error, JetStreamError, OSError) as error:
                log.debug("spending watch starts again", problem=str(error) or type(error).__name__)
            await asyncio.sleep(RETRY_S)

    async def _follow(self) -> None:
        self._again = False
        store = await bucket(self._bus.js, subjects.KV_SPEND)
        watcher = await store.watchall()
        try:
            while not self._again:
                stop_if_cancelled()
                try:
                    entry = await watcher.updates(timeout=QUIET_S)  # type: ignore[no-untyped-call]
                except nats.errors.TimeoutError:
                    self.spendings.forget_before(today() - timedelta(days=1))
                    continue
                if entry is None:  # all present values were sent
                    self.loaded.set()
                    continue
                self.spendings.take(entry.key, None if entry.operation else entry.value)
                for callback in self.on_change:
                    callback()
        finally:
            await watcher.stop()  # type: ignore[no-untyped-call]
