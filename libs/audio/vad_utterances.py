"""Cuts a caller's utterances out of the stream: voice detection with the audio that belongs to it.

The beginning comes from a ring of recent frames, because consonants are quieter than vowels and a detector is late by
its onset. Of the silence that ended an utterance only a little is kept: transcription is paid by the minute, and
models hear words in silence. Pure.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from libs.audio.vad import ONSET_MS, GateTimes, Vad, VoiceDiscarded, VoiceStarted, VoiceStopped

KEPT_SILENCE_MS = 240
LONGEST_UTTERANCE_MS = 60_000
FRAME_MS = 20


@dataclass(frozen=True, slots=True)
class UtteranceBegan:
    """The caller speaks."""


@dataclass(frozen=True, slots=True)
class UtteranceEnded:
    """What was said, as PCM16LE with its pre-roll; `voiced_ms` of it are voice."""

    pcm: bytes
    voiced_ms: int


@dataclass(frozen=True, slots=True)
class UtteranceDropped:
    """It was none."""

    voiced_ms: int


UtteranceEvent = UtteranceBegan | UtteranceEnded | UtteranceDropped


class Utterances:
    """The utterances of one stream of mono PCM16LE at `rate_hz`, in frames of 20 ms.

    Who speaks for longer than `LONGEST_UTTERANCE_MS` is cut there: the rest is another utterance.
    """

    def __init__(self, vad: Vad, rate_hz: int, times: GateTimes) -> None:
        self._vad = vad
        self._bytes_per_ms = 2 * rate_hz // 1000
        self._ring: deque[bytes] = deque(maxlen=(times.prefix_padding_ms + ONSET_MS) // FRAME_MS + 1)
        self._frames: list[bytes] = []
        self._longest_bytes = LONGEST_UTTERANCE_MS * self._bytes_per_ms
        self._held_bytes = 0

    @property
    def speaking(self) -> bool:
        """An utterance is under way."""
        return self._vad.speaking

    def push(self, frame: bytes) -> UtteranceEvent | None:
        """Take the next frame."""
        event = self._vad.push(frame)
        if event is None:
            if not self._vad.speaking:
                self._ring.append(frame)
                return None
            self._frames.append(frame)
            self._held_bytes += len(frame)
            if self._held_bytes < self._longest_bytes:
                return None
            event = self._vad.stop()
        elif isinstance(event, VoiceStarted):
            self._begin(frame, event.preroll_ms)
            return UtteranceBegan()
        else:
            self._frames.append(frame)
        match event:
            case VoiceStopped(voiced_ms, silence_ms):
                return UtteranceEnded(self._end(silence_ms), voiced_ms)
            case VoiceDiscarded(voiced_ms):
                self._end(0)
                return UtteranceDropped(voiced_ms)
            case _:
                return None

    def _begin(self, frame: bytes, preroll_ms: int) -> None:
        self._ring.append(frame)
        recent = b"".join(self._ring)
        begin = max(0, len(recent) - preroll_ms * self._bytes_per_ms)
        self._frames = [recent[begin:]]
        self._held_bytes = len(recent) - begin
        self._ring.clear()

    def _end(self, silence_ms: int) -> bytes:
        pcm = b"".join(self._frames)
        self._frames, self._held_bytes = [], 0
        self._ring.extend(
            pcm[at : at + FRAME_MS * self._bytes_per_ms]
            for at in range(
                max(0, len(pcm) - (self._ring.maxlen or 0) * FRAME_MS * self._bytes_per_ms),
                len(pcm),
                FRAME_MS * self._bytes_per_ms,
            )
        )
        return pcm[: len(pcm) - max(0, silence_ms - KEPT_SILENCE_MS) * self._bytes_per_ms]
