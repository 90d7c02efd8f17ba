"""Call audio (PCM16LE at the call's rate) to and from a model's wire format: G.711 as it is, or PCM at 24 kHz."""

from __future__ import annotations

from libs.audio.g711 import Law
from libs.audio.resample import Resampler
from libs.audio.samples import WholeSamples

PCM_RATE_HZ = 24_000


class WireAudio:
    """Both directions of one session; `audio_format` is the API's name of the format."""

    def __init__(self, audio_format: str, rate_hz: int) -> None:
        self._law: Law | None = {"audio/pcmu": Law.PCMU, "audio/pcma": Law.PCMA}.get(audio_format)
        self._rate_hz = rate_hz
        self._up = Resampler(rate_hz, PCM_RATE_HZ)
        self._down = Resampler(PCM_RATE_HZ, rate_hz)
        self._whole = WholeSamples()

    def begin_response(self) -> None:
        """A new response: what an interrupted one left over, half a sample perhaps, must not get into it."""
        if self._law is None:
            self._down = Resampler(PCM_RATE_HZ, self._rate_hz)
            self._whole.forget()

    def encode(self, pcm: bytes) -> bytes:
        """20 ms of the call for the model."""
        return self._law.encode(pcm) if self._law is not None else self._up.process(pcm)

    def decode(self, data: bytes) -> bytes:
        """A delta of the model for the call; half a sample at its end waits for the next delta."""
        if self._law is not None:
            return self._law.decode(data)
        return self._down.process(self._whole.push(data))
