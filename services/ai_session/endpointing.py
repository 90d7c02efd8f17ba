"""How long after the caller's last sound a turn was found to be over, for the metrics.

Nobody tells that: a voice detection, the provider's or ours, reports the end of a turn some time after it. So the last
frames are kept, and at the end of a turn they are looked at once, from the level of what is heard.
"""

from __future__ import annotations

from collections import deque

import numpy as np

FRAME_S = 0.02
WINDOW_FRAMES = 125  # 2.5 s
BELOW_LOUDEST = 10 ** (-25 / 20)  # speech has this much between its loudest and its faintest parts
FAINTEST = 32768 * 10 ** (-50 / 20)  # below it is a quiet room


class Endpointing:
    """One per call; `fed` is on the hot path."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque(maxlen=WINDOW_FRAMES)
        self.fed = self._frames.append

    def silence_s(self) -> float | None:
        """Seconds since the caller's last sound, by what was fed; None when there was none in the window."""
        if not self._frames:
            return None
        size = len(self._frames[-1])
        alike = [frame for frame in self._frames if len(frame) == size]
        samples = np.frombuffer(b"".join(alike), "<i2").reshape(len(alike), -1).astype(np.float32)
        levels = np.sqrt(np.mean(samples * samples, axis=1))
        loud = np.flatnonzero(levels > max(FAINTEST, float(levels.max()) * BELOW_LOUDEST))
        return (len(alike) - 1 - int(loud[-1])) * FRAME_S if len(loud) else None
