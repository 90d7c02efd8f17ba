"""Levels of PCM16LE and a voice activity detector on energy alone."""

import math
from dataclasses import dataclass

import numpy as np

FLOOR_DBFS = -96.0
_FULL_SCALE = 32768.0


def rms(pcm: bytes) -> float:
    """Return the root mean square, 0 to 32768; 0 for no samples."""
    samples = np.frombuffer(pcm, "<i2").astype(np.float64)
    return math.sqrt(float(samples @ samples) / len(samples)) if len(samples) else 0.0


def dbfs(pcm: bytes) -> float:
    """Return the RMS level in dB below full scale (32768), never below -96; a full-scale sine has -3.01."""
    level = rms(pcm)
    return max(FLOOR_DBFS, 20 * math.log10(level / _FULL_SCALE)) if level > 0 else FLOOR_DBFS


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Speech began `position_samples` after the start of the stream (prefix included)."""

    position_samples: int


@dataclass(frozen=True, slots=True)
class SpeechEnded:
    """The last loud frame ended `position_samples` after the start of the stream."""

    position_samples: int


class EnergyVad:
    """Tells speech from pauses by level: `min_speech_ms` of loud frames start, `silence_ms` of quiet ones end.

    The start is reported `prefix_ms` before the first loud frame, because consonants are quieter than vowels.
    """

    def __init__(
        self,
        rate_hz: int,
        threshold_dbfs: float = -40.0,
        *,
        prefix_ms: int = 100,
        min_speech_ms: int = 60,
        silence_ms: int = 500,
    ) -> None:
        self._threshold_dbfs = threshold_dbfs
        self._prefix = prefix_ms * rate_hz // 1000
        self._min_speech = min_speech_ms * rate_hz // 1000
        self._silence = silence_ms * rate_hz // 1000
        self._position = 0
        self._loud_from: int | None = None
        self._loud_to = 0
        self.speaking = False

    def push(self, frame: bytes) -> SpeechStarted | SpeechEnded | None:
        """Take the next frame (20 ms of PCM16LE, other lengths do as well) and report a change, if any."""
        begin = self._position
        self._position += len(frame) // 2
        loud = dbfs(frame) >= self._threshold_dbfs
        if loud:
            self._loud_to = self._position
        if self.speaking:
            if not loud and self._position - self._loud_to >= self._silence:
                self.speaking = False
                self._loud_from = None
                return SpeechEnded(self._loud_to)
            return None
        if not loud:
            self._loud_from = None
            return None
        if self._loud_from is None:
            self._loud_from = begin
        if self._position - self._loud_from < self._min_speech:
            return None
        self.speaking = True
        return SpeechStarted(max(0, self._loud_from - self._prefix))
