"""The uplink clock of one call: 50 frames a second from acceptance to the end, silence included (R2). No I/O.

Frames go up as soon as the network gives them. Against the time since `start`, the count may lag by
`SLACK_FRAMES` (jitter) before a frame is made up, and lead by `LEAD_FRAMES` (a burst after a stall, a
sender whose clock is fast) before one is dropped. A model's voice detection counts appended audio, not
time: without this clock, silence suppression or loss would stop it.
"""

from __future__ import annotations

from collections import Counter

FRAME_S = 0.02
SLACK_FRAMES = 3
LEAD_FRAMES = 5


class Uplink:
    """One per call. `start` at acceptance; then `admit` for each received frame and `due` at each tick."""

    def __init__(self) -> None:
        self._started_at: float | None = None
        self._sent = 0
        self.counters: Counter[str] = Counter()

    @property
    def is_running(self) -> bool:
        """Whether frames are wanted."""
        return self._started_at is not None

    def start(self, now: float) -> None:
        """A worker accepted: the clock runs from here; a second start (failover) begins it anew."""
        self._started_at = now
        self._sent = 0

    def stop(self) -> None:
        """No worker owns the call: nothing goes up."""
        self._started_at = None

    def admit(self, now: float) -> bool:
        """Count a received frame; False when it must be dropped."""
        if self._started_at is None:
            self.counters["unowned"] += 1
            return False
        if self._sent - (now - self._started_at) / FRAME_S > LEAD_FRAMES:
            self.counters["overrun"] += 1
            return False
        self._sent += 1
        return True

    def due(self, now: float) -> int:
        """How many frames must be made up now, because the network gave none for too long; counts them."""
        if self._started_at is None:
            return 0
        missing = int((now - self._started_at) / FRAME_S) - SLACK_FRAMES - self._sent
        if missing <= 0:
            return 0
        if missing > LEAD_FRAMES:  # we were stalled ourselves: catch up with the clock, not with a burst
            self.counters["skipped"] += missing - 1
            self._sent += missing - 1
            missing = 1
        self._sent += missing
        self.counters["filled"] += missing
        return missing
