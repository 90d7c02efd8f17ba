"""Waiting for speech and for silence in what the softphone hears."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from libs.audio.level import dbfs
from libs.softphone.heard import HeardPacket


@dataclass(frozen=True, slots=True)
class Speech:
    """Where in `heard` speech began, and when its first packet came (`time.monotonic()`)."""

    position_samples: int
    arrived_at: float


@dataclass(slots=True)
class SpeechWait:
    """Its `future` is done when `samples` of uninterrupted audio of at least `min_dbfs` were heard."""

    min_dbfs: float
    samples: int
    future: asyncio.Future[Speech]
    run_samples: int = 0
    began: Speech | None = None
    expected_position: int = -1

    def heard(self, level_dbfs: float, packet: HeardPacket) -> None:
        """One packet more."""
        if level_dbfs < self.min_dbfs:
            self.run_samples = 0
            return
        if self.run_samples == 0 or packet.position_samples != self.expected_position:
            self.run_samples = 0
            self.began = Speech(packet.position_samples, packet.arrived_at)
        self.run_samples += packet.samples
        self.expected_position = packet.position_samples + packet.samples
        if self.run_samples >= self.samples and not self.future.done() and self.began is not None:
            self.future.set_result(self.began)


@dataclass(slots=True)
class SilenceWait:
    """Its `future` is done when nothing of at least `min_dbfs` came for `silence_s`; no packets are silence too."""

    min_dbfs: float
    silence_s: float
    future: asyncio.Future[None]
    timer: asyncio.TimerHandle | None = field(default=None)

    def heard(self, level_dbfs: float) -> None:
        """One packet more."""
        if level_dbfs >= self.min_dbfs:
            self.restart()

    def restart(self) -> None:
        """Count the silence from now on."""
        if self.timer is not None:
            self.timer.cancel()
        self.timer = asyncio.get_running_loop().call_later(self.silence_s, self._silent)

    def _silent(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class Listener:
    """Everybody who waits for something in one call's audio."""

    def __init__(self) -> None:
        self._speech: list[SpeechWait] = []
        self._silence: list[SilenceWait] = []

    def heard(self, pcm: bytes, packet: HeardPacket) -> None:
        """Decoded audio, as it came."""
        if not self._speech and not self._silence:
            return
        level = dbfs(pcm)
        for speech in tuple(self._speech):
            speech.heard(level, packet)
        for silence in self._silence:
            silence.heard(level)

    def for_speech(self, min_dbfs: float, samples: int) -> SpeechWait:
        """Wait for speech from now on; `forget` it in the end."""
        wait = SpeechWait(min_dbfs, samples, asyncio.get_running_loop().create_future())
        self._speech.append(wait)
        return wait

    def for_silence(self, min_dbfs: float, silence_s: float) -> SilenceWait:
        """Wait for silence from now on; `forget` it in the end."""
        wait = SilenceWait(min_dbfs, silence_s, asyncio.get_running_loop().create_future())
        self._silence.append(wait)
        wait.restart()
        return wait

    def forget(self, wait: SpeechWait | SilenceWait) -> None:
        """Whoever waited has an answer, or gave up."""
        if isinstance(wait, SpeechWait):
            self._speech.remove(wait)
            return
        self._silence.remove(wait)
        if wait.timer is not None:
            wait.timer.cancel()
