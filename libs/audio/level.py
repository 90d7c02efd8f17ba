"""Levels of PCM16LE."""

import math

import numpy as np

FLOOR_DBFS = -96.0
_FULL_SCALE = 32768.0


def rms(pcm: bytes) -> float:
    """Return the root mean square, 0 to 32768; 0 for no samples."""
    samples = np.frombuffer(pcm, "<i2").astype(np.float64)
    return math.sqrt(float(samples @ samples) / len(samples)) if len(samples) else 0.0


def dbfs(pcm: bytes) -> float:
    """Return the RMS level in dB below full scale (32768), never below -96; a full-scale sine has -3.01.

    Asked for every frame of every call: in single precision, which is enough to compare levels.
    """
    samples = np.frombuffer(pcm, "<i2").astype(np.float32)
    if not len(samples):
        return FLOOR_DBFS
    power = float(samples.dot(samples)) / len(samples)
    return max(FLOOR_DBFS, 10 * math.log10(power / _FULL_SCALE**2)) if power > 0 else FLOOR_DBFS
