"""Which workers live and which of them takes the next call. A core without I/O.

Theory of operation. A worker exists by its heartbeats. It is judged dead
 - when both its connections are gone (disconnect advisories, R5), at once; or
 - when its heartbeats are silent for `SILENT_AFTER_S`, but only while our own link is sound (R3): up for
   `SETTLE_S`, our own ticker not late within that time, and our own heartbeats coming back from the broker.
   A broker that restarts or hangs, or our own stall, makes every worker silent; it says nothing about any.
A dead worker is forgotten; heartbeats make it known again (it was frozen, or we were wrong), without the
calls that were taken from it.

Load is what the worker says plus what we offered since its last heartbeat: two calls offered within
100 ms do not both see the same free place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

SILENT_AFTER_S = 0.35
SETTLE_S = 0.5
LATE_TICK_S = 0.1
HALF_GONE_S = 2.0
ECHO_WITHIN_S = 0.2  # of our own heartbeats, sent every 0.1 s: less than SILENT_AFTER_S minus one of them
RECHECK_S = 0.1


@dataclass(frozen=True, slots=True)
class Gone:
    """A worker was judged dead."""

    wk: str
    cause: Literal["gone", "silent"]


@dataclass(slots=True)
class _Worker:
    heard_at: float
    calls: int = 0
    capacity: int = 0
    draining: bool = False
    offered: int = 0
    half_gone: dict[str, float] = field(default_factory=dict)  # connection -> when it was reported gone


class Roster:
    """Fed by the shell with heartbeats, advisories and the state of our own link and ticker."""

    def __init__(self) -> None:
        self._workers: dict[str, _Worker] = {}
        self._link_up_at: float | None = None
        self._late_at = float("-inf")
        self._echoed_at: float | None = None
        self._recheck_at = float("-inf")
        self.counters: Counter[str] = Counter()

    # -- our own soundness (R3) ------------------------------------------------------------------------

    def link_up(self, now: float) -> None:
        """Our connection was made, or made again."""
        self._link_up_at = now

    def link_down(self) -> None:
        """Our connection was lost: nobody is judged."""
        self._link_up_at = None

    def ticked(self, lateness_s: float, now: float) -> None:
        """Our ticker ran `lateness_s` after its time."""
        if lateness_s >= LATE_TICK_S:
            self._late_at = now
            self.counters["own_stall"] += 1

    def echoed(self, now: float) -> None:
        """Our own heartbeat came back: the broker delivers. Once called, its silence makes the link unsound."""
        if self._echoed_at is not None and now - self._echoed_at >= SILENT_AFTER_S:
            self._late_at = now  # the others' heartbeats come behind ours: let them
            self.counters["broker_silent"] += 1
        self._echoed_at = now

    def is_sound(self, now: float) -> bool:
        """Whether silence of a peer is evidence."""
        return self._sound_from() <= now and (self._echoed_at is None or now - self._echoed_at < ECHO_WITHIN_S)

    def _sound_from(self) -> float:
        up_at = float("inf") if self._link_up_at is None else self._link_up_at
        return max(up_at, self._late_at) + SETTLE_S

    # -- the workers --------------------------------------------------------------------------------------

    def heartbeat(self, wk: str, now: float, *, calls: int, capacity: int, draining: bool) -> None:
        """A worker says that it lives, and how busy it is."""
        worker = self._workers.get(wk)
        if worker is None:
            worker = self._workers[wk] = _Worker(now)
            self.counters["joined"] += 1
        worker.heard_at = now
        worker.calls, worker.capacity, worker.draining = calls, capacity, draining
        worker.offered = 0
        worker.half_gone.pop("control", None)  # heartbeats come over it

    def disconnected(self, client_name: str, now: float) -> list[Gone]:
        """An advisory: the client of this name lost its connection. Gone when both of a worker's are."""
        wk, _, connection = client_name.rpartition("-")
        worker = self._workers.get(wk)
        if worker is None or connection not in ("media", "control"):
            return []
        worker.half_gone[connection] = now
        if len(worker.half_gone) == 2 and min(worker.half_gone.values()) >= now - HALF_GONE_S:
            return [self._forget(wk, "gone")]
        return []

    def deadline(self) -> float | None:
        """When `expire` should be called next."""
        if not self._workers or self._link_up_at is None:
            return None
        heard_at = min(worker.heard_at for worker in self._workers.values())
        return max(heard_at + SILENT_AFTER_S, self._sound_from(), self._recheck_at)

    def expire(self, now: float) -> list[Gone]:
        """Judge the silent ones."""
        if not self.is_sound(now):
            self._recheck_at = now + RECHECK_S
            return []
        silent = [wk for wk, worker in self._workers.items() if now - worker.heard_at >= SILENT_AFTER_S]
        return [self._forget(wk, "silent") for wk in silent]

    def _forget(self, wk: str, cause: Literal["gone", "silent"]) -> Gone:
        del self._workers[wk]
        self.counters[cause] += 1
        return Gone(wk, cause)

    # -- choice -----------------------------------------------------------------------------------------------

    def pick(self, excluded: Collection[str] = ()) -> str | None:
        """The live, non-draining worker with the most room, or None."""
        room = {
            wk: worker.capacity - worker.calls - worker.offered
            for wk, worker in self._workers.items()
            if not worker.draining and wk not in excluded
        }
        best = max(room, key=lambda wk: (room[wk], wk), default=None)
        return best if best is not None and room[best] > 0 else None

    def offered(self, wk: str) -> None:
        """Count an offer until the worker's next heartbeat tells its load."""
        if worker := self._workers.get(wk):
            worker.offered += 1

    def is_alive(self, wk: str) -> bool:
        """Whether the worker is known and not judged dead."""
        return wk in self._workers

    def __len__(self) -> int:
        return len(self._workers)
