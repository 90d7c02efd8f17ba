"""What comes over a model's connection: first to whoever opens the session, then to whoever serves the call."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from libs.runtime.log import get_logger
from services.ai_session.backends.port import BackendError, Lost

log = get_logger()

MAX_EARLY_EVENTS = 1000  # that wait while a session is being opened; more are dropped and counted

E = TypeVar("E")


class FrameReader(Protocol[E]):
    """Decodes frames; bad ones are counted as `malformed` and have no events."""

    counters: Counter[str]

    def read(self, data: bytes) -> list[E]:
        """The events of a frame."""
        ...


class Arrivals(Generic[E]):
    """One connection. Until `opened`, events wait for `next`; from then on each goes to `take` at once."""

    def __init__(self, frames: FrameReader[E], take: Callable[[E], None], counters: Counter[str], now: float) -> None:
        self._frames, self._take, self._counters = frames, take, counters
        self._early: asyncio.Queue[E | Lost] | None = asyncio.Queue()
        self.heard_at = now  # the last sign of life: a frame that can be read

    @property
    def is_open(self) -> bool:
        """The session is open: nothing waits any more."""
        return self._early is None

    def received(self, data: bytes, now: float) -> None:
        """A whole frame."""
        malformed = self._frames.counters["malformed"]
        events = self._frames.read(data)
        if self._frames.counters["malformed"] == malformed:
            self.heard_at = now
        elif not malformed:  # one line per connection; all are counted
            log.warning("the model's server sent a frame that is not understood", begins=repr(data[:80]))
        for event in events:
            if self._early is None:
                self._take(event)
            elif self._early.qsize() < MAX_EARLY_EVENTS:
                self._early.put_nowait(event)
            else:
                self._counters["early_events_dropped"] += 1

    def lost(self, lost: Lost) -> bool:
        """The connection is gone. Whether that decides about the opening: else somebody has to be told."""
        if self._early is None:
            return False
        self._early.put_nowait(lost)
        return True

    async def next(self) -> E:
        """The next event while the session is being opened.

        Raises:
            BackendError: the connection was lost.
        """
        assert self._early is not None
        event = await self._early.get()
        if isinstance(event, Lost):
            raise unopened(event)
        return event

    def opened(self) -> list[E]:
        """The session is open; what still waits, in order, is the caller's to deal with before anything else comes.

        Raises:
            BackendError: the connection was lost in the meantime.
        """
        early, self._early = self._early, None
        waiting = [early.get_nowait() for _ in range(early.qsize())] if early is not None else []
        for event in waiting:
            if isinstance(event, Lost):
                raise unopened(event)
        return [event for event in waiting if not isinstance(event, Lost)]


def unopened(lost: Lost) -> BackendError:
    """A session that was lost before it was open."""
    return BackendError("unreachable" if lost.retry else "refused", lost.detail, retry=lost.retry)
