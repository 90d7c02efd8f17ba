"""Voice activity detection: scores of single frames (level or probability) become utterances.

Theory of operation. A detector gives each frame a score; `SpeechGate` makes turns of speech out of the scores. Two
frames at the threshold or above begin an utterance, so that one click does not. From then on a frame counts as voiced
down to `release` (hysteresis: the level of a voice flickers), and `silence_ms` without one end the utterance. What had
less than `min_speech_ms` of voice is no utterance: it is discarded, after a shorter pause, because somebody may be
waiting for the verdict with the agent's voice stopped. If that was the beginning of a word, the pre-roll of the next
utterance brings it back.

`EnergyVad` scores by level, with a threshold in dBFS that steady noise raises by a bounded amount. Detectors of other
kinds (a neural one scores from 0 to 1) use the same gate. Pure; a frame costs a few microseconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from libs.audio.level import FLOOR_DBFS, dbfs

ONSET_MS = 40  # of voice begin an utterance
DISCARD_AFTER_MS = 300  # of silence tell that a short sound was none
HYSTERESIS_DB = 4.0
NOISE_MARGIN_DB = 6.0  # the threshold keeps this distance from steady noise
HIGHEST_RAISE_DB = 12.0  # but rises no further than this, so that a loud voice is always heard
NOISE_WINDOW_MS = 3000
_NOISE_SLICE_MS = 250


@dataclass(frozen=True, slots=True)
class VoiceStarted:
    """Somebody speaks; the utterance begins `preroll_ms` before the end of this frame."""

    preroll_ms: int


@dataclass(frozen=True, slots=True)
class VoiceStopped:
    """The utterance is over: it had `voiced_ms` of voice, and the last `silence_ms` of it are silent."""

    voiced_ms: int
    silence_ms: int


@dataclass(frozen=True, slots=True)
class VoiceDiscarded:
    """It was none: `voiced_ms` are too short."""

    voiced_ms: int


VadEvent = VoiceStarted | VoiceStopped | VoiceDiscarded


class Vad(Protocol):
    """A detector of speech in one stream."""

    @property
    def speaking(self) -> bool:
        """An utterance is under way."""
        ...

    def push(self, frame: bytes) -> VadEvent | None:
        """Take the next frame (PCM16LE, 20 ms usually) and report a change, if any."""
        ...

    def stop(self) -> VadEvent | None:
        """End the utterance under way, whoever speaks on; what follows is a new one."""
        ...


@dataclass(frozen=True, slots=True)
class GateTimes:
    """The agent's settings of turn detection, in ms."""

    prefix_padding_ms: int = 300
    silence_ms: int = 1000
    min_speech_ms: int = 120


class SpeechGate:
    """Makes utterances of scores; see the module. Durations count what was pushed, not the clock."""

    def __init__(self, times: GateTimes) -> None:
        self._times = times
        self._discard_after_ms = min(DISCARD_AFTER_MS, times.silence_ms)
        self._onset_ms = 0.0
        self._voiced_ms = 0.0
        self._quiet_ms = 0.0
        self.speaking = False

    def push(self, score: float, threshold: float, release: float, frame_ms: float) -> VadEvent | None:
        """Take the score of the next frame."""
        if not self.speaking:
            self._onset_ms = self._onset_ms + frame_ms if score >= threshold else 0.0
            if self._onset_ms < ONSET_MS:
                return None
            self.speaking = True
            self._voiced_ms, self._quiet_ms = self._onset_ms, 0.0
            return VoiceStarted(self._times.prefix_padding_ms + round(self._onset_ms))
        if score >= release:
            self._voiced_ms += frame_ms
            self._quiet_ms = 0.0
            return None
        self._quiet_ms += frame_ms
        is_short = self._voiced_ms < self._times.min_speech_ms
        if self._quiet_ms >= (self._discard_after_ms if is_short else self._times.silence_ms):
            return self.stop()
        return None

    def stop(self) -> VadEvent | None:
        """End the utterance under way."""
        if not self.speaking:
            return None
        self.speaking, self._onset_ms = False, 0.0
        voiced_ms, quiet_ms = round(self._voiced_ms), round(self._quiet_ms)
        if voiced_ms < self._times.min_speech_ms:
            return VoiceDiscarded(voiced_ms)
        return VoiceStopped(voiced_ms, quiet_ms)


class NoiseFloor:
    """The level of steady noise: the quietest moment of the last seconds, since speech has pauses and noise has not."""

    def __init__(self) -> None:
        self._slices: deque[float] = deque(maxlen=NOISE_WINDOW_MS // _NOISE_SLICE_MS)
        self._quietest = 0.0
        self._slice_ms = 0.0
        self.dbfs = FLOOR_DBFS

    def push(self, level_dbfs: float, frame_ms: float) -> None:
        """Take the level of the next frame; the floor is known when a whole window is."""
        self._quietest = min(self._quietest, level_dbfs)
        self._slice_ms += frame_ms
        if self._slice_ms < _NOISE_SLICE_MS:
            return
        self._slices.append(self._quietest)
        self._quietest, self._slice_ms = 0.0, 0.0
        if len(self._slices) == self._slices.maxlen:
            self.dbfs = min(self._slices)


class EnergyVad:
    """Speech by level. `threshold_dbfs` is an RMS level of a frame below 0; `adaptive` lets steady noise raise it."""

    def __init__(
        self, rate_hz: int, threshold_dbfs: float = -40.0, times: GateTimes | None = None, *, adaptive: bool = True
    ) -> None:
        self._samples_per_ms = rate_hz / 1000
        self._lowest = threshold_dbfs
        self._gate = SpeechGate(times or GateTimes())
        self._noise = NoiseFloor() if adaptive else None

    @property
    def speaking(self) -> bool:
        """See `Vad`."""
        return self._gate.speaking

    @property
    def threshold_dbfs(self) -> float:
        """The level that counts as voice at present."""
        if self._noise is None:
            return self._lowest
        return min(max(self._lowest, self._noise.dbfs + NOISE_MARGIN_DB), self._lowest + HIGHEST_RAISE_DB)

    def push(self, frame: bytes) -> VadEvent | None:
        """See `Vad`."""
        level, frame_ms = dbfs(frame), len(frame) / 2 / self._samples_per_ms
        threshold = self.threshold_dbfs
        if self._noise is not None:
            self._noise.push(level, frame_ms)
        return self._gate.push(level, threshold, threshold - HYSTERESIS_DB, frame_ms)

    def stop(self) -> VadEvent | None:
        """See `Vad`."""
        return self._gate.stop()
