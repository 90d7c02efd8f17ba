"""The input audio buffer and its voice activity detection.

Positions are milliseconds of *appended* audio, as on the real server: the wall clock plays no part, so
audio that arrives in a burst is judged as if it had arrived in time, and audio that stops ends nothing.
"""

from __future__ import annotations

import audioop
import math
from dataclasses import dataclass

from libs.audio.g711 import Law
from services.rehearsal.session_config import TurnDetection, bytes_per_ms
from services.rehearsal.speech import to_8k

WINDOW_MS = 10
_ONSET_WINDOWS = 4  # 40 ms: longer than a click, shorter than a syllable
_HYSTERESIS_DB = 6.0


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    audio_start_ms: int


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    audio_end_ms: int


def threshold_dbfs(threshold: float) -> float:
    """The level above which a window counts as speech: 0 is -50 dBFS, the default 0.5 is -35, 1 is -20."""
    return -50.0 + 30.0 * threshold


class InputBuffer:
    """Audio appended since the last commit, in ms, with the VAD that watches it."""

    def __init__(self, audio_format: str, detection: TurnDetection | None, *, keeps_audio: bool = False) -> None:
        self.appended_ms = 0.0
        self.speaking = False
        self._committed_ms = 0.0
        self._window_end_ms = 0.0
        self._remainder = b""
        self._kept = bytearray() if keeps_audio else None
        self._loud = 0
        self._quiet = 0
        self._onset_ms = 0.0
        self.configure(audio_format, detection)

    def configure(self, audio_format: str, detection: TurnDetection | None) -> None:
        """Take over a changed session; a change of the format drops an incomplete window."""
        if getattr(self, "_format", audio_format) != audio_format:
            self._remainder = b""
            self._window_end_ms = self.appended_ms
            self.take_audio()  # of another format; nobody has committed it
        self._format = audio_format
        self._detection = detection
        if detection is None:
            self.speaking = False
            self._loud = self._quiet = 0
        else:
            self._on_rms = 32768 * 10 ** (threshold_dbfs(detection.threshold) / 20)
            self._off_rms = self._on_rms * 10 ** (-_HYSTERESIS_DB / 20)

    @property
    def pending_ms(self) -> float:
        """Audio that a commit would take."""
        return self.appended_ms - self._committed_ms

    def append(self, audio: bytes) -> list[SpeechStarted | SpeechStopped]:
        """Add audio in the session's input format and say what the VAD made of it."""
        per_ms = bytes_per_ms(self._format)
        self.appended_ms += len(audio) / per_ms
        if self._kept is not None:
            self._kept += audio
        if self._detection is None:
            return []
        window_bytes = WINDOW_MS * per_ms
        data = self._remainder + audio if self._remainder else audio
        found: list[SpeechStarted | SpeechStopped] = []
        whole = len(data) - len(data) % window_bytes
        for start in range(0, whole, window_bytes):
            self._window_end_ms += WINDOW_MS
            event = self._judge(self._rms(data[start : start + window_bytes]))
            if event is not None:
                found.append(event)
        self._remainder = data[whole:]
        return found

    def commit(self) -> float:
        """Take the pending audio; return its length in ms."""
        pending = self.pending_ms
        self._committed_ms = self.appended_ms
        return pending

    def clear(self) -> None:
        """Drop pending audio and a turn that had begun."""
        self._committed_ms = self.appended_ms
        self.speaking = False
        self._loud = self._quiet = 0
        self.take_audio()

    def take_audio(self) -> bytes:
        """PCM16 at 8 kHz since this was asked last; empty unless the buffer keeps audio."""
        kept = bytes(self._kept or b"")
        if self._kept:
            self._kept.clear()
        return to_8k(kept, 24000) if self._format == "audio/pcm" else self._decoded(kept)

    def _decoded(self, audio: bytes) -> bytes:
        if self._format == "audio/pcmu":
            return Law.PCMU.decode(audio)
        return Law.PCMA.decode(audio) if self._format == "audio/pcma" else audio

    def _rms(self, window: bytes) -> int:
        return audioop.rms(self._decoded(window), 2)

    def _judge(self, rms: int) -> SpeechStarted | SpeechStopped | None:
        detection = self._detection
        if detection is None:
            return None
        if not self.speaking:
            self._loud = self._loud + 1 if rms >= self._on_rms else 0
            if self._loud < _ONSET_WINDOWS:
                return None
            self.speaking, self._loud, self._quiet = True, 0, 0
            onset_ms = self._window_end_ms - _ONSET_WINDOWS * WINDOW_MS
            # Both positions bound the audio that the model gets, so the padding belongs to it.
            start_ms = max(self._committed_ms, onset_ms - detection.prefix_padding_ms, 0.0)
            self._onset_ms = start_ms
            return SpeechStarted(math.floor(start_ms))
        self._quiet = 0 if rms >= self._off_rms else self._quiet + 1
        if self._quiet * WINDOW_MS < detection.silence_duration_ms:
            return None
        self.speaking, self._quiet = False, 0
        return SpeechStopped(math.floor(self._window_end_ms))

    def take_turn(self) -> float:
        """Commit a finished VAD turn; return the ms from its start to now."""
        self._committed_ms = self.appended_ms
        return max(self._window_end_ms - self._onset_ms, 0.0)
