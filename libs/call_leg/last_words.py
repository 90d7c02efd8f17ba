"""What a caller hears whom no agent serves, and may say then: the same at every entrance."""

from __future__ import annotations

import asyncio
import audioop
import base64
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from libs.audio.resample import Resampler
from libs.audio.tone import silence, tone
from libs.call_leg.voicemail import GO_TIMEOUT_S, Voicemail
from libs.contracts.termination import Reason

if TYPE_CHECKING:
    from libs.call_leg.audio import CallAudio
    from libs.contracts.config import Fallback
    from libs.runtime.bus import Bus

MAX_SPEAKING = 64
"""Calls without an agent that hear a message, or leave one, at a time: those are not within `max_calls`."""
TAIL_S = 0.3  # after a message: what is under way, or in the buffer of the other side, is not cut off
TONE_HZ, TONE_MS = 1000, 300  # after which a message may be left
ULAW_RATE_HZ = 8000
FLUSH_MS = 10  # for what the resampler holds back
OVER_S = GO_TIMEOUT_S + 1.0  # for the recorders of messages that a drain cuts off


def message_pcm(fallback: Fallback, rate_hz: int) -> bytes:
    """The route's message at the call's rate; empty where it has none."""
    pcm = audioop.ulaw2lin(base64.b64decode(fallback.message_ulaw_b64 or ""), 2)
    if rate_hz == ULAW_RATE_HZ or not pcm:
        return pcm
    return Resampler(ULAW_RATE_HZ, rate_hz).process(pcm + silence(FLUSH_MS, ULAW_RATE_HZ))


class LastWords:
    """One per gateway. The entrance has a call's audio ticked while `say` lasts, and sets `gone` when it is over."""

    def __init__(self, bus: Bus, gw: str, most: int = MAX_SPEAKING) -> None:
        self._bus, self._gw = bus, gw
        self.most = most
        self.speaking = 0
        self._waits: set[asyncio.Timeout] = set()
        self._is_draining = self._is_cut = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def has_room(self) -> bool:
        """Whether one more caller may hear a message; a crowd that no agent takes is refused in a word."""
        return self.speaking < self.most and not self._is_draining

    def takes_message(self, fallback: Fallback, why: Reason) -> bool:
        """Whether this caller may leave one; a gateway that is about to end hears nobody out."""
        return fallback.kind == "voicemail" and why is not Reason.DRAINING and self.has_room

    async def say(self, fallback: Fallback, audio: CallAudio, gone: asyncio.Event) -> None:
        """Play the route's message; `voicemail`: then a tone, and record what the caller says to it."""
        rate_hz = 50 * audio.frame_samples
        takes_message = fallback.kind == "voicemail" and self.has_room
        pcm = message_pcm(fallback, rate_hz)
        if takes_message:
            pcm += tone(TONE_HZ, TONE_MS, rate_hz)
        audio.set_filler(pcm + bytes(4 * int(rate_hz * TAIL_S)))  # longer than we wait: it would go round
        self.speaking += 1
        self._idle.clear()
        try:
            await self._wait(gone, len(pcm) / 2 / rate_hz + (0.0 if takes_message else TAIL_S))
            audio.set_filler(b"")
            if takes_message and not gone.is_set() and not self._is_cut:
                said = partial(self._wait, gone, fallback.max_recording_s)
                await Voicemail(self._bus, audio, self._gw).take(said)
        finally:
            audio.set_filler(b"")
            self.speaking -= 1
            if not self.speaking:
                self._idle.set()

    async def drain(self, until: float) -> None:
        """Nobody begins any more; who hears or leaves a message may finish `until` then, by the loop's clock.

        A message that is cut off then is over for its recorder as any other is: what was said of it is stored at once.
        """
        self._is_draining = True
        await self._idle_by(until)
        self._is_cut = True
        for wait in tuple(self._waits):
            if not wait.expired():
                wait.reschedule(until)
        await self._idle_by(asyncio.get_running_loop().time() + OVER_S)

    async def _idle_by(self, until: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._idle.wait()

    async def _wait(self, gone: asyncio.Event, limit_s: float) -> None:
        """Until the caller is `gone`, or has heard or said enough, or the gateway can wait no longer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s) as wait:
                self._waits.add(wait)
                try:
                    await gone.wait()
                finally:
                    self._waits.discard(wait)
