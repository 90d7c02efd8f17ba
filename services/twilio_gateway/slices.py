"""The caller's audio in pieces of any size, to frames of 20 ms at the pace of time. A core without I/O.

Twilio sends 20 ms a message, and each is passed on as it comes. Larger pieces wait here and leave one frame
per 20 ms, as the model hears time by the frames it gets. What is behind by more than the present message is
the rest of a stall: the oldest of it is dropped, so that latency never grows for good.
"""

from __future__ import annotations

from collections import deque

FRAME_BYTES = 160  # u-law, 20 ms at 8 kHz
FRAME_S = 0.02
BURST_FRAMES = 3.0
BACKLOG_FRAMES = 3


class Slices:
    """One per call: `push` what came, `take` what is due."""

    def __init__(self) -> None:
        self._rest = b""
        self._waiting: deque[bytes] = deque()
        self._credit = BURST_FRAMES
        self._credited_at: float | None = None
        self.frames = 0
        self.dropped = 0

    def push(self, ulaw: bytes) -> None:
        """Append what a message brought."""
        data = self._rest + ulaw if self._rest else ulaw
        whole = len(data) - len(data) % FRAME_BYTES
        for start in range(0, whole, FRAME_BYTES):
            self._waiting.append(data[start : start + FRAME_BYTES])
        self._rest = data[whole:]
        new = whole // FRAME_BYTES
        self.frames += new
        while len(self._waiting) > new + BACKLOG_FRAMES:
            self._waiting.popleft()
            self.dropped += 1

    def take(self, now: float) -> list[bytes]:
        """The frames that may go up now."""
        if self._credited_at is None:
            self._credited_at = now
        self._credit = min(BURST_FRAMES, self._credit + (now - self._credited_at) / FRAME_S)
        self._credited_at = now
        due = min(int(self._credit + 1e-6), len(self._waiting))
        self._credit -= due
        return [self._waiting.popleft() for _ in range(due)]
