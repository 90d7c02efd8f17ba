"""Test tones, silence, comfort noise, and the filler a caller hears while waiting. All mono PCM16LE."""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_FULL_SCALE = 32768.0


def tone(hz: float, ms: int, rate_hz: int, dbfs: float = -10.0) -> bytes:
    """Return a sine that starts at phase zero; `dbfs` is its RMS level, so a full-scale sine has -3.01."""
    return _pcm(_sine(hz, ms, rate_hz, dbfs))


def silence(ms: int, rate_hz: int) -> bytes:
    """Return digital silence."""
    return bytes(2 * _samples(ms, rate_hz))


def comfort_noise(ms: int, rate_hz: int, dbfs: float = -60.0, seed: int = 0) -> bytes:
    """Return white noise at an RMS level of `dbfs`; the same seed gives the same noise."""
    return _pcm(_noise(_samples(ms, rate_hz), dbfs, seed))


@lru_cache(maxsize=8)
def waiting_tone(rate_hz: int) -> bytes:
    """Return two seconds that may be looped while a caller waits.

    Two soft tones at -30 dBFS a fifth apart over faint noise: it says "the line is alive" in every language.
    The tones fade over 20 ms and lie away from the ends, so neither they nor the loop click.
    """
    loop = _noise(2 * rate_hz, -62.0, seed=1)
    for start_ms, hz in ((300, 440.0), (550, 660.0)):
        note = _sine(hz, 200, rate_hz, -30.0)
        fade = _samples(20, rate_hz)
        ramp = 0.5 - 0.5 * np.cos(np.pi * np.arange(fade) / fade)
        note[:fade] *= ramp
        note[-fade:] *= ramp[::-1]
        start = _samples(start_ms, rate_hz)
        loop[start : start + len(note)] += note
    return _pcm(loop)


def _samples(ms: int, rate_hz: int) -> int:
    return ms * rate_hz // 1000


def _sine(hz: float, ms: int, rate_hz: int, dbfs: float) -> NDArray[np.float64]:
    amplitude = math.sqrt(2) * _FULL_SCALE * 10 ** (dbfs / 20)
    wave: NDArray[np.float64] = amplitude * np.sin(2 * np.pi * hz / rate_hz * np.arange(_samples(ms, rate_hz)))
    return wave


def _noise(samples: int, dbfs: float, seed: int) -> NDArray[np.float64]:
    # Uniform rather than Gaussian: the level is exact and no sample stands out.
    half_width = math.sqrt(3) * _FULL_SCALE * 10 ** (dbfs / 20)
    return np.random.default_rng(seed).uniform(-half_width, half_width, samples)


def _pcm(wave: NDArray[np.float64]) -> bytes:
    return np.clip(np.rint(wave), -32768, 32767).astype("<i2").tobytes()
