"""One 20 ms tick for all calls of an event loop, on an absolute schedule, so that lateness never adds up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary

TICK_S = 0.02
# Later than this the process was stopped: the missed ticks are skipped instead of sent as a burst.
_MAX_CATCH_UP_TICKS = 10

OnTick = Callable[[int], None]


class Ticker:
    """Calls every subscriber with the number of the tick, 50 times a second while there are subscribers."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.skipped = 0
        self._loop = loop
        self._subscribers: list[OnTick] = []
        self._timer: asyncio.TimerHandle | None = None
        self._origin_at = 0.0
        self._number = 0

    def subscribe(self, on_tick: OnTick) -> None:
        """Start ticking for `on_tick`; it must not raise."""
        self._subscribers.append(on_tick)
        if self._timer is None:
            # ticks are numbered through pauses, so that the schedule starts afresh without a burst
            self._origin_at = self._loop.time() - self._number * TICK_S
            self._arm()

    def unsubscribe(self, on_tick: OnTick) -> None:
        """Stop ticking for `on_tick`; unknown ones are ignored."""
        if on_tick in self._subscribers:
            self._subscribers.remove(on_tick)
        if not self._subscribers and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self._timer = self._loop.call_at(self._origin_at + (self._number + 1) * TICK_S, self._fire)

    def _fire(self) -> None:
        due = max(self._number + 1, int((self._loop.time() - self._origin_at) / TICK_S))
        if due - self._number > _MAX_CATCH_UP_TICKS:
            self.skipped += due - self._number - 1
            self._number = due - 1
        while self._number < due:
            self._number += 1
            for on_tick in tuple(self._subscribers):
                on_tick(self._number)
        if self._subscribers:
            self._arm()


_tickers: WeakKeyDictionary[asyncio.AbstractEventLoop, Ticker] = WeakKeyDictionary()


def shared_ticker() -> Ticker:
    """The ticker of the running event loop."""
    loop = asyncio.get_running_loop()
    ticker = _tickers.get(loop)
    if ticker is None:
        ticker = _tickers[loop] = Ticker(loop)
    return ticker
