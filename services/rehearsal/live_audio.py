"""Audio of a Live session: any of its formats to and from 8 kHz, where the stand-in listens and speaks."""

from __future__ import annotations

from libs.audio.g711 import Law
from libs.audio.resample import Resampler
from services.rehearsal.outputs import Frame

RATE_HZ = 8000


class LiveAudio:
    """Both directions in the format of ``session.audio.format``."""

    def __init__(self, audio_format: Frame) -> None:
        self.kind = str(audio_format["type"])
        self.rate_hz = int(audio_format["rate"])
        self._law = {"audio/pcmu": Law.PCMU, "audio/pcma": Law.PCMA}.get(self.kind)
        self.bytes_per_ms = self.rate_hz * (1 if self._law is not None else 2) // 1000
        self._down = Resampler(self.rate_hz, RATE_HZ)
        self._silent_byte = self._law.encode(b"\0\0") if self._law is not None else b"\0"

    def heard(self, audio: bytes) -> bytes:
        """Appended audio as PCM16 at 8 kHz."""
        return self._law.decode(audio) if self._law is not None else self._down.process(audio)

    def spoken(self, pcm: bytes) -> bytes:
        """PCM16 at 8 kHz, a whole utterance, in the session's format; positions stay what they are."""
        if self._law is not None:
            return self._law.encode(pcm)
        resampler = Resampler(RATE_HZ, self.rate_hz)
        delay_bytes = 2 * resampler.delay_samples
        upsampled = resampler.process(pcm + bytes(delay_bytes + 512))
        return upsampled[delay_bytes : delay_bytes + len(pcm) * self.rate_hz // RATE_HZ]

    def silence(self, duration_ms: int) -> bytes:
        return self._silent_byte * (self.bytes_per_ms * duration_ms)
