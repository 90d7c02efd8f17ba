"""One ticker for all calls of the process: every 20 ms each call takes what is due and sends its frame."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from libs.call_leg.instruments import TICKER
from libs.runtime.log import get_logger

log = get_logger()

SLOT_S = 0.02


class Ticked(Protocol):
    """Who is called."""

    def tick(self, now: float) -> None:
        """20 ms have passed."""


class Ticker:
    """Calls are added at their set-up and removed at their end; without any it stands still.

    `on_lateness` hears how late each slot ran, `on_failure` of a call that raised; it is served no more.
    """

    def __init__(self, on_lateness: Callable[[float, float], None], on_failure: Callable[[Ticked], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, Ticked] = {}
        self._on_lateness = on_lateness
        self._on_failure = on_failure
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def add(self, call: Ticked) -> None:
        """Serve a call."""
        self._calls[id(call)] = call
        if self._timer is None:
            self._due = self._loop.time() + SLOT_S
            self._timer = self._loop.call_at(self._due, self._slot)

    def remove(self, call: Ticked) -> None:
        """The call has ended."""
        self._calls.pop(id(call), None)

    def close(self) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()

    def _slot(self) -> None:
        now = self._loop.time()
        lateness_s = now - self._due
        TICKER.observe(max(0.0, lateness_s))
        self._on_lateness(lateness_s, now)
        for call in tuple(self._calls.values()):
            try:
                call.tick(now)
            except Exception:  # one call's defect must not silence all the others
                log.exception("the media of a call failed")
                self.remove(call)
                self._on_failure(call)
        if not self._calls:
            self._timer = None
            return
        self._due += SLOT_S
        if self._due <= now:  # late by more than a slot: missed slots are not made up, a burst helps nobody
            self._due = now + SLOT_S
        self._timer = self._loop.call_at(self._due, self._slot)
