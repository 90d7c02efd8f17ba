"""Compares what was sent with what was heard, for tests and quality reports. Mono PCM16LE at one rate."""

import math

import numpy as np
from numpy.typing import NDArray


def best_correlation(reference: bytes, heard: bytes, max_lag: int | None = None) -> tuple[float, int]:
    """Find `reference` in `heard`: return (normalised correlation, lag in samples) at the best lag.

    The correlation is 1.0 for an exact copy at any gain and about 0 for something else; 0.0 at lag 0 when either
    is silent. A positive lag means that the reference begins so much later in `heard`. What lies outside `heard`
    counts as silence, so a reference that was cut off correlates less. `max_lag` bounds the lag both ways.
    """
    return _best(_floats(reference), _floats(heard), max_lag)


def snr_db(reference: bytes, heard: bytes) -> float:
    """Return signal-to-noise in dB of `heard` against `reference` at the best lag, over where they overlap.

    No gain is fitted: a change of level is noise. Returns inf for an exact copy, -inf for a silent reference.
    """
    sent, got = _floats(reference), _floats(heard)
    _, lag = _best(sent, got, None)
    sent = sent[max(0, -lag) : len(got) - lag]
    got = got[max(0, lag) :][: len(sent)]
    error = got - sent
    signal, noise = float(sent @ sent), float(error @ error)
    if signal == 0:
        return -math.inf
    return 10 * math.log10(signal / noise) if noise else math.inf


def _floats(pcm: bytes) -> NDArray[np.float64]:
    return np.frombuffer(pcm, "<i2").astype(np.float64)


def _fft_length(at_least: int) -> int:
    """Return the smallest length of the form 2^n, 3*2^n, 5*2^n, 9*2^n or 15*2^n."""
    return min(odd << max(0, (-(-at_least // odd) - 1).bit_length()) for odd in (1, 3, 5, 9, 15))


def _best(reference: NDArray[np.float64], heard: NDArray[np.float64], max_lag: int | None) -> tuple[float, int]:
    reference_energy = float(reference @ reference)
    if reference_energy == 0 or not heard.any():
        return 0.0, 0
    before = len(reference) - 1  # lags run from -before to len(heard) - 1
    length = _fft_length(len(heard) + before)
    spectrum = np.fft.rfft(heard, length) * np.conj(np.fft.rfft(reference, length))
    circular = np.fft.irfft(spectrum, length)
    products = np.concatenate((circular[length - before :], circular[: len(heard)]))
    running = np.concatenate((np.zeros(before + 1), np.cumsum(heard * heard), np.zeros(before)))
    running[before + 1 + len(heard) :] = running[before + len(heard)]
    energy = running[before + 1 :] - running[: -(before + 1)]
    # Rounding of the FFT must not win where there is next to nothing to correlate with.
    energy = np.maximum(energy, 1e-9 * running[-1])
    correlation = products / np.sqrt(reference_energy * energy)
    first = 0
    if max_lag is not None:
        first = max(0, before - max_lag)
        correlation = correlation[first : before + max_lag + 1]
    best = int(np.argmax(correlation))
    return float(correlation[best]), best + first - before
