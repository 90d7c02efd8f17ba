"""Day budgets on the bus: what this worker's calls cost goes to KV `spend`, what others' cost comes from there.

A total is written once a second at most. A worker that is killed loses what it had not written: less than
`WRITE_EVERY_S` of its calls' costs (the calls' own records are complete, they come from the event stream). While the
bus is away totals grow here and are written when it is back; every worker then judges by what it knows, so that an
organisation may overspend by what the others spend meanwhile. No call ends because the bus is away.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import date

import nats.errors
from nats.js.errors import Error as JetStreamError

from libs.contracts import subjects
from libs.contracts.spending import DaySpending, spending_key
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger
from libs.runtime.spending_copy import SpendingCopy, today
from libs.runtime.streams import bucket
from libs.runtime.tasks import stop_if_cancelled
from services.ai_session.budget import DayBudgets

log = get_logger()

WRITE_EVERY_S = 1.0
FLUSH_S = 1.0


class Budgets:
    """`run()` is one task of the worker's TaskGroup; everything else returns at once."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.copy = SpendingCopy(bus)
        self._days = DayBudgets(self._others)
        self._wanted = asyncio.Event()
        self._is_failing = False  # and that was told
        self.counters: Counter[str] = Counter()
        bus.control_link.on_up.append(self._link_up)

    def add(self, org: str, usd: float) -> None:
        """A call of this organisation cost this much more."""
        self._days.add(org, usd, today())
        self._wanted.set()

    def objection(self, org: str, limit_usd: float | None) -> str:
        """Why no further call of an organisation may begin today; empty: one may."""
        if limit_usd is None or not self._days.is_spent(org, limit_usd, today()):
            return ""
        return f"organisation {org} has spent its {limit_usd:g} USD of this day (UTC)"

    async def run(self) -> None:
        """Follow the others and write our own until cancelled; what is left is written then."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.copy.run())
                await self._write_forever()
        finally:
            with suppress(TimeoutError, nats.errors.Error, JetStreamError, OSError):
                async with asyncio.timeout(FLUSH_S):
                    await self._write()

    def _others(self, org: str, day: date) -> float:
        return self.copy.spendings.total(org, day, without=self._bus.process_id)

    def _link_up(self) -> None:
        self._days.write_again()
        self._wanted.set()

    async def _write_forever(self) -> None:
        while True:
            stop_if_cancelled()
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._write()
            except (nats.errors.Error, JetStreamError, OSError) as error:
                self._failed(error)
                self._wanted.set()
            else:
                self._is_failing = False
            await asyncio.sleep(WRITE_EVERY_S)

    def _failed(self, error: Exception) -> None:
        """With the bus there it is a fault (a permission, say), told once; without it nobody is surprised."""
        self.counters["write_failed"] += 1
        is_news = self._bus.control_link.up_at is not None and not self._is_failing
        self._is_failing = self._is_failing or is_news
        tell = log.warning if is_news else log.debug
        tell("what calls cost could not be written to the bus", problem=str(error) or type(error).__name__)

    async def _write(self) -> None:
        due = self._days.due()
        if not due or self._bus.control.is_closed:
            return
        store = await bucket(self._bus.js, subjects.KV_SPEND)
        for org, day, usd in due:
            await store.put(spending_key(org, day, self._bus.process_id), DaySpending(usd=usd).to_json())
            self._days.written(org, day, usd)
            self.counters["written"] += 1
        self._days.forget_before(today())
