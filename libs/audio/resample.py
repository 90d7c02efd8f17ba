"""Streaming sample rate conversion between the rates of telephony and of speech models.

A linear-phase polyphase FIR (Kaiser window, 24 low-rate samples on each side) in numpy. Each call returns all
samples that the input so far determines, so 20 ms in is 20 ms out, every time. Block resamplers such as soxr
hold several frames back and then burst; `audioop.ratecv` has no alias filter at all.

The taps are rounded to multiples of 2^-24. Every product with a 16-bit sample and every sum is then exact in a
double, whatever the order in which BLAS adds, so the way a stream is cut into chunks cannot change one bit.
"""

from functools import cache
from math import gcd

import numpy as np
from numpy.typing import NDArray

_PCM16 = np.dtype("<i2")

_HALF_LENGTH = 24  # in samples of the lower rate: 3 ms at 8 kHz
_CUTOFF = 0.4875  # of the lower rate: 3.9 kHz at 8 kHz, the middle of a transition of about 1 kHz
_KAISER_BETA = 9.4  # about -94 dB, Kaiser's formula 0.1102 (A - 8.7)
_GROUP = 16  # input/output periods for each matrix row; 20 ms of all supported pairs are ten rows
_SUPPORTED_HZ = frozenset({8000, 16000, 24000, 48000})


@cache
def _taps(up: int, down: int) -> NDArray[np.float64]:
    """Low-pass at the common multiple of both rates, with a gain of `up` to make good for the zeros stuffed in."""
    ratio = max(up, down)  # common multiple / lower rate
    half = _HALF_LENGTH * ratio
    offset = np.arange(-half, half + 1, dtype=np.float64)
    cutoff = _CUTOFF / ratio
    taps = np.sinc(2 * cutoff * offset) * np.kaiser(2 * half + 1, _KAISER_BETA)
    taps *= up / taps.sum()
    exact: NDArray[np.float64] = np.rint(taps * 2.0**24) / 2.0**24
    return exact


@cache
def _group_matrix(up: int, down: int) -> NDArray[np.float64]:
    """Matrix that turns a window of input into `_GROUP * up` consecutive outputs."""
    taps = _taps(up, down)
    per_phase = -(-len(taps) // up)
    last_input = (_GROUP * up - 1) * down // up
    matrix = np.zeros((per_phase + last_input, _GROUP * up))
    for output in range(_GROUP * up):
        newest = output * down // up + per_phase - 1
        phase = taps[output * down % up :: up]
        matrix[newest - len(phase) + 1 : newest + 1, output] = phase[::-1]
    return matrix


class Resampler:
    """Converts one stream of mono PCM16LE; 8, 16, 24 and 48 kHz in any combination.

    Equal rates pass through. Raises ValueError for any other rate.
    """

    def __init__(self, in_hz: int, out_hz: int) -> None:
        if in_hz not in _SUPPORTED_HZ or out_hz not in _SUPPORTED_HZ:
            raise ValueError(f"cannot resample {in_hz} Hz to {out_hz} Hz")
        self.in_hz = in_hz
        self.out_hz = out_hz
        divisor = gcd(in_hz, out_hz)
        self._up = out_hz // divisor
        self._down = in_hz // divisor
        if in_hz == out_hz:
            return
        self._matrix = _group_matrix(self._up, self._down)
        past = -(-len(_taps(self._up, self._down)) // self._up) - 1
        self._past = past
        # Input from `past` samples before the period of the next output; `_skip` outputs of that period are out.
        self._input = np.zeros(past)
        self._skip = 0

    @property
    def delay_samples(self) -> int:
        """Group delay in output samples."""
        if self.in_hz == self.out_hz:
            return 0
        return _HALF_LENGTH * self.out_hz // min(self.in_hz, self.out_hz)

    def process(self, pcm16le: bytes) -> bytes:
        """Return the output that the input so far determines; a remainder of the ratio is carried over.

        After n input samples, ceil(n * out_hz / in_hz) samples have come out. Raises ValueError when the input
        ends in the middle of a sample.
        """
        if len(pcm16le) % 2:
            raise ValueError(f"{len(pcm16le)} bytes are not a whole number of 16-bit samples")
        if self.in_hz == self.out_hz or not pcm16le:
            return pcm16le
        up, down, past = self._up, self._down, self._past
        samples = np.frombuffer(pcm16le, _PCM16)
        fed = len(self._input) - past + len(samples)
        outputs = -(-fed * up // down)  # counted from the start of the current period
        rows = -(-outputs // (_GROUP * up))
        window = self._matrix.shape[0]
        padded = np.zeros(max((rows - 1) * _GROUP * down + window, past + fed))
        known = len(self._input)
        padded[:known] = self._input
        padded[known : known + len(samples)] = samples
        windows: NDArray[np.float64] = np.ndarray(
            (rows, window), np.float64, padded, strides=(_GROUP * down * padded.itemsize, padded.itemsize)
        )
        result: NDArray[np.float64] = np.dot(windows, self._matrix).reshape(-1)[self._skip : outputs]
        periods, self._skip = divmod(outputs, up)
        self._input = padded[periods * down : past + fed].copy()
        np.rint(result, out=result)
        np.clip(result, -32768, 32767, out=result)
        return result.astype(_PCM16).tobytes()
