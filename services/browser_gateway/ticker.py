"""One ticker for all pages: every 20 ms each gets its next frame, and the bus what a page owes it.

A browser's clock drifts against ours and its messages come with jitter: pacing here, by one clock, makes the drift
the page's to absorb in its buffer. It stands still without calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from libs.call_leg.instruments import TICKER
from libs.runtime.log import get_logger

log = get_logger()

TICK_S = 0.02


class Ticked(Protocol):
    """What is served."""

    def tick(self, now: float) -> None:
        """20 ms have passed."""

    def media_failed(self) -> None:
        """Its tick raised; it is served no more."""


class Ticker:
    """`on_lateness` hears how late each tick ran."""

    def __init__(self, on_lateness: Callable[[float, float], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._served: dict[int, Ticked] = {}
        self._on_lateness = on_lateness
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def add(self, one: Ticked) -> None:
        """Serve a page."""
        self._served[id(one)] = one
        if self._timer is None:
            self._due = self._loop.time() + TICK_S
            self._timer = self._loop.call_at(self._due, self._tick)

    def remove(self, one: Ticked) -> None:
        """Its call has ended."""
        self._served.pop(id(one), None)

    def close(self) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        now = self._loop.time()
        lateness_s = now - self._due
        TICKER.observe(max(0.0, lateness_s))
        self._on_lateness(lateness_s, now)
        for one in tuple(self._served.values()):
            try:
                one.tick(now)
            except Exception:  # one call's defect must not silence all the others
                log.exception("the media of a call failed")
                self.remove(one)
                one.media_failed()
        if not self._served:
            self._timer = None
            return
        self._due += TICK_S
        if self._due <= now:  # late by more than a tick: go on from here, missed ticks are not made up
            self._due = now + TICK_S
        self._timer = self._loop.call_at(self._due, self._tick)
