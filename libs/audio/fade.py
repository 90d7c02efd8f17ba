"""Short ramps at the edges of speech that is cut or taken up again: a step in the wave is a click. PCM16LE, mono."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def fade_in(pcm: bytes) -> bytes:
    """Return the same samples, rising from silence over their whole length."""
    return _shaped(pcm, _ramp(len(pcm) // 2))


def fade_out(pcm: bytes) -> bytes:
    """Return the same samples, falling to silence over their whole length."""
    return _shaped(pcm, _ramp(len(pcm) // 2)[::-1])


def _shaped(pcm: bytes, gain: NDArray[np.float32]) -> bytes:
    return (np.frombuffer(pcm, "<i2") * gain).astype("<i2").tobytes()


@lru_cache(maxsize=8)
def _ramp(samples: int) -> NDArray[np.float32]:
    """A raised cosine from 0 to 1: no corner at either end."""
    return (0.5 - 0.5 * np.cos(np.pi * np.arange(samples) / max(1, samples))).astype(np.float32)
