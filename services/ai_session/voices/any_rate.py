"""A whole recording at another rate, for rates that no telephone has (22.05 kHz of speech programs). Pure.

A windowed sinc, one set of taps for each phase of the ratio. Streams of telephony's own rates go through
`libs.audio.resample`, which is made for them.
"""

from __future__ import annotations

from math import gcd

import numpy as np
from numpy.typing import NDArray

_PCM16 = np.dtype("<i2")
_HALF_LENGTH = 24  # samples of the lower rate on each side
_CUTOFF = 0.4625  # of the lower rate: the transition ends at its half
_KAISER_BETA = 7.9  # about -80 dB
_BLOCK = 4096  # outputs at a time, to bound the memory of the windows


def converted(pcm16le: bytes, in_hz: int, out_hz: int) -> bytes:
    """The recording (mono PCM16LE) at `out_hz`, as long as it was."""
    if in_hz == out_hz:
        return pcm16le
    divisor = gcd(in_hz, out_hz)
    up, down = out_hz // divisor, in_hz // divisor
    stretch = max(1.0, in_hz / out_hz)
    half = int(np.ceil(_HALF_LENGTH * stretch))
    taps = _taps(up, half, stretch)
    samples = np.frombuffer(pcm16le, _PCM16).astype(np.float64)
    padded = np.concatenate([np.zeros(half), samples, np.zeros(half + 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half)
    outputs = len(samples) * up // down
    parts = []
    for first in range(0, outputs, _BLOCK):
        number = np.arange(first, min(first + _BLOCK, outputs), dtype=np.int64) * down
        parts.append(np.einsum("ij,ij->i", windows[number // up + 1], taps[number % up]))
    sound = np.concatenate(parts) if parts else np.zeros(0)
    return np.clip(np.rint(sound), -32768, 32767).astype(_PCM16).tobytes()


def _taps(up: int, half: int, stretch: float) -> NDArray[np.float64]:
    """A row for each phase: the weights of the `2 * half` inputs around an output."""
    at = np.arange(1 - half, half + 1)[None, :] - np.arange(up)[:, None] / up
    cutoff = 2 * _CUTOFF / stretch
    window = np.i0(_KAISER_BETA * np.sqrt(np.clip(1 - (at / half) ** 2, 0, None))) / np.i0(_KAISER_BETA)
    taps: NDArray[np.float64] = np.sinc(cutoff * at) * window
    taps /= taps.sum(axis=1, keepdims=True)
    return taps
