"""Audio of two calls of one gateway handed over directly, for a bridged transfer. A core without I/O.

Each direction is a short queue of frames at the listener's rate: the two calls' packets come by two clocks, so a frame
or two wait for the next tick, and what exceeds the bound makes room for what is newer. Latency never grows for good.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import cycle

from libs.audio.resample import Resampler

MAX_FRAMES = 6
PREBUFFER_FRAMES = 2


def loop_of(pcm: bytes, frame_samples: int) -> Callable[[], bytes]:
    """A source that plays this over and over, frame by frame; what is no whole frame at its end is left out."""
    size = 2 * frame_samples
    return cycle([pcm[start : start + size] for start in range(0, len(pcm) - size + 1, size)]).__next__


class BridgeQueue:
    """What one call's caller says, on its way to the other call's. `rate_hz` is the listener's."""

    def __init__(self, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self.dropped = 0
        self._frames: deque[bytes] = deque()
        self._frame_bytes = 2 * rate_hz // 50
        self._resampler = Resampler(rate_hz, rate_hz)
        self._is_flowing = False

    @property
    def depth(self) -> int:
        """Frames waiting."""
        return len(self._frames)

    def push(self, pcm: bytes, rate_hz: int) -> None:
        """20 ms of the speaker, at the speaker's rate; the oldest frame is dropped when too many wait."""
        if rate_hz != self._resampler.in_hz:  # a re-INVITE changed the codec
            self._resampler = Resampler(rate_hz, self.rate_hz)
        self._frames.append(self._resampler.process(pcm))
        if len(self._frames) > MAX_FRAMES:
            self._frames.popleft()
            self.dropped += 1

    def pop(self) -> bytes | None:
        """20 ms for the listener; None for silence, after which a small reserve is gathered anew."""
        if not self._is_flowing and len(self._frames) < PREBUFFER_FRAMES:
            return None
        if not self._frames:
            self._is_flowing = False
            return None
        self._is_flowing = True
        return self._frames.popleft()
