"""What a caller hears whom no agent serves, and may say then: the same at every entrance."""

from __future__ import annotations

import asyncio
import audioop
import base64
from contextlib import suppress
from typing import TYPE_CHECKING

from libs.audio.resample import Resampler
from libs.audio.tone import silence, tone
from libs.call_leg.voicemail import Voicemail
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

    @property
    def has_room(self) -> bool:
        """Whether one more caller may hear a message; a crowd that no agent takes is refused in a word."""
        return self.speaking < self.most

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
        try:
            with suppress(TimeoutError):  # or the caller has heard enough
                async with asyncio.timeout(len(pcm) / 2 / rate_hz + (0.0 if takes_message else TAIL_S)):
                    await gone.wait()
            audio.set_filler(b"")
            if takes_message and not gone.is_set():
                await Voicemail(self._bus, audio, self._gw).take(fallback.max_recording_s, gone)
        finally:
            audio.set_filler(b"")
            self.speaking -= 1
