"""Packet loss concealment in the spirit of ITU-T G.711 Appendix I: repeat the last pitch period and fade.

Simpler than the appendix in one respect: it adds no delay. Instead of the overlap-add of 3.75 ms before the gap,
the step into the repeated period is levelled out over its first milliseconds.
"""

import numpy as np
from numpy.typing import NDArray

_HISTORY_MS = 40
_LONGEST_PERIOD_MS = 15  # 66 Hz, Appendix I §I.2.2
_SHORTEST_PERIOD_MS = 5  # 200 Hz; shorter ones repeat twice within this and buzz less
_MATCHED_MS = 20
_FULL_LEVEL_MS = 10
_SILENT_AFTER_MS = 60
_CROSSFADE_MS = 5


class Concealer:
    """Fills gaps of one stream of mono PCM16LE at `rate_hz`."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._history_bytes = 2 * self._samples(_HISTORY_MS)
        self._history = bytes(self._history_bytes)
        self._period: NDArray[np.float64] | None = None
        self._step = 0.0
        self._concealed = 0

    def _samples(self, ms: int) -> int:
        return ms * self._rate_hz // 1000

    def good(self, pcm: bytes) -> bytes:
        """Pass a received frame through, cross-faded over 5 ms with the concealment if that came before."""
        if self._period is None:  # the hot path: nothing is computed until something is lost
            self._history = (self._history + pcm)[-self._history_bytes :]
            return pcm
        samples = np.frombuffer(pcm, "<i2").astype(np.float64)
        length = min(self._samples(_CROSSFADE_MS), len(samples))
        rising = np.arange(1, length + 1) / (length + 1)
        samples[:length] = rising * samples[:length] + (1 - rising) * self._continue(length)
        self._period = None
        self._concealed = 0
        joined = np.rint(samples).astype("<i2").tobytes()
        self._history = (self._history + joined)[-self._history_bytes :]
        return joined

    def conceal(self, samples: int) -> bytes:
        """Return `samples` samples in place of lost ones; silence from 60 ms after the last good frame."""
        if self._period is None:
            self._period = self._last_period()
        out = np.rint(self._continue(samples))
        return np.clip(out, -32768, 32767).astype("<i2").tobytes()

    def _last_period(self) -> NDArray[np.float64]:
        """Return the last pitch period, its end blended with what preceded it so that it joins itself."""
        history = np.frombuffer(self._history, "<i2").astype(np.float64)
        matched = self._samples(_MATCHED_MS)
        shortest, longest = self._samples(_SHORTEST_PERIOD_MS), self._samples(_LONGEST_PERIOD_MS)
        template = history[-matched:]
        # Row i is the history shifted back by longest - i samples.
        shifted = np.lib.stride_tricks.sliding_window_view(history[-matched - longest : -shortest], matched)
        energy = np.einsum("ij,ij->i", shifted, shifted)
        score = (shifted @ template) / np.sqrt(np.maximum(energy, 1.0))
        length = longest - int(np.argmax(score))
        period = history[-length:].copy()
        quarter = length // 4
        rising = np.arange(1, quarter + 1) / (quarter + 1)
        period[-quarter:] = (1 - rising) * period[-quarter:] + rising * history[-length - quarter : -length]
        self._step = float(history[-1] - history[-length - 1])
        return period

    def _continue(self, samples: int) -> NDArray[np.float64]:
        """Return the next samples of the repeated and fading period."""
        assert self._period is not None
        position = self._concealed + np.arange(samples)
        self._concealed += samples
        wave = self._period[position % len(self._period)]
        wave += self._step * np.clip(1 - position / self._samples(_CROSSFADE_MS), 0, 1)
        full, silent = self._samples(_FULL_LEVEL_MS), self._samples(_SILENT_AFTER_MS)
        faded: NDArray[np.float64] = wave * np.clip((silent - position) / (silent - full), 0, 1)
        return faded
