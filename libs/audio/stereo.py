"""A call's two directions side by side, on the clock of what the caller hears. A core without I/O.

Theory of operation. The gateway publishes one `out` frame every 20 ms, and the caller's frames as they come. Both
travel in order on one subscription, so that what arrived between two `out` frames was said between them. The caller's
frames wait in a short queue, from which each `out` frame takes one; the right channel is delayed by as much. When the
queue was too long or too short over a second (the caller's clock is fast or slow, or frames were lost), it loses a
frame or gains a silent one: the channels stay within a frame of each other. `out` frames that were lost are silence.
"""

from __future__ import annotations

from collections import Counter, deque

import numpy as np

FRAME_MS = 20
DEPTH = 2  # frames by which both channels are late: what jitter may be without a gap
WANTED = DEPTH + 0.5  # frames waiting at an `out` frame: a frame comes half a frame before it on average
TOLERATED = 0.5  # frames off on average
WINDOW = 50  # frames over which the average is taken: a second
MOST_MISSING = 250  # frames of silence for lost ones at a time: 5 s


class StereoTrack:
    """One recording. `caller` takes what the caller said, `heard` what they heard and returns finished stereo."""

    def __init__(self, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self._frame_bytes = 2 * rate_hz * FRAME_MS // 1000
        self._silence = bytes(self._frame_bytes)
        self._left: deque[bytes] = deque([self._silence] * DEPTH)
        self._part = b""  # less than a frame of the caller
        self._right: deque[bytes] = deque([self._silence] * DEPTH)
        self._has_heard = False  # a caller who never sent anything needs no place
        self._seq: int | None = None
        self._waiting = self._ticks = 0
        self.counters: Counter[str] = Counter()

    def caller(self, pcm: bytes) -> None:
        """PCM16LE at the call's rate, as it came."""
        self._has_heard = True
        data = self._part + pcm if self._part else pcm
        size = self._frame_bytes
        whole = len(data) - len(data) % size
        self._left.extend(data[at : at + size] for at in range(0, whole, size))
        self._part = data[whole:]

    def heard(self, seq: int, pcm: bytes) -> bytes:
        """One `out` frame, empty for silence. Returns interleaved PCM16LE; nothing for a frame that is old."""
        missing = 0 if self._seq is None else seq - self._seq - 1
        if missing < 0:
            self.counters["repeated"] += 1
            return b""
        self._seq = seq
        self.counters["lost"] += missing
        pieces = [self._next(self._silence) for _ in range(min(missing, MOST_MISSING))]
        pieces.append(self._next(pcm[: self._frame_bytes].ljust(self._frame_bytes, b"\0")))
        return b"".join(pieces)

    def rest(self) -> bytes:
        """What still waits, at the end of the recording."""
        pieces = [self._interleave(self._take(), self._right.popleft()) for _ in range(len(self._right))]
        return b"".join(pieces)

    def _next(self, right: bytes) -> bytes:
        self._right.append(right)
        self._correct()
        return self._interleave(self._take(), self._right.popleft())

    def _take(self) -> bytes:
        if not self._has_heard:
            return self._silence
        if self._left:
            return self._left.popleft()
        self.counters["filled"] += 1
        return self._silence

    def _correct(self) -> None:
        self._waiting += len(self._left)
        self._ticks += 1
        if self._ticks < WINDOW:
            return
        off = self._waiting / WINDOW - WANTED
        self._waiting = self._ticks = 0
        if off > TOLERATED:
            for _ in range(min(round(off), len(self._left))):
                self._left.popleft()
                self.counters["dropped"] += 1
        elif off < -TOLERATED and self._has_heard:
            self._left.appendleft(self._silence)
            self.counters["inserted"] += 1

    def _interleave(self, left: bytes, right: bytes) -> bytes:
        stereo = np.empty((len(left) // 2, 2), "<i2")
        stereo[:, 0] = np.frombuffer(left, "<i2")
        stereo[:, 1] = np.frombuffer(right, "<i2")
        return stereo.tobytes()
