"""When a model session is opened again, and when that is given up. Pure.

A server that restarts is back within a second and one that refuses stays away: attempts begin at once, back off, and
end with the patience of the caller. A server that takes every connection and drops it is another case: each loss
begins a new row of attempts, so the losses without anything heard in between are counted.
"""

from __future__ import annotations

PAUSES_S = (0.1, 0.3, 1.0)  # before the second, third, and every further attempt
LOSSES_IN_A_ROW = 3
STEADY_S = 10.0  # a connection that lasted this long was well, even if nobody said anything


class Patience:
    """One row of attempts to open a session."""

    def __init__(self, patience_s: float, now: float) -> None:
        self._until = now + patience_s
        self._pauses = list(PAUSES_S)
        self._failed = 0

    def left_s(self, now: float) -> float:
        """What is left of the patience."""
        return max(0.0, self._until - now)

    def pause_s(self, now: float) -> float | None:
        """An attempt failed: how long to wait before the next one; None when there is no time for another.

        A second one there is always: the first may have hung for as long as patience lasts.
        """
        self._failed += 1
        pause_s = self._pauses.pop(0) if len(self._pauses) > 1 else self._pauses[0]
        return pause_s if self._failed == 1 or now + pause_s < self._until else None


class Losses:
    """The connections that one call has lost. `heard` is the ledger's played position, in samples."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._opened_at = 0.0
        self._heard_before = 0

    def opened(self, heard: int, now: float) -> None:
        """A connection is open."""
        self._opened_at, self._heard_before = now, heard

    def may_replace(self, heard: int, now: float) -> bool:
        """A connection was lost; tell whether another one is worth its opening."""
        if heard > self._heard_before or now - self._opened_at >= STEADY_S:
            self._in_a_row = 0
        self._in_a_row += 1
        return self._in_a_row <= LOSSES_IN_A_ROW
