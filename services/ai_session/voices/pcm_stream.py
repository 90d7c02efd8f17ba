"""A provider's byte stream as whole samples at the call's rate. Pure."""

from __future__ import annotations

from libs.audio.g711 import Law
from libs.audio.resample import Resampler
from libs.audio.samples import WholeSamples

BYTES_PER_SAMPLE = 2
NO_AUDIO = ("text/", "application/json")  # content types: a portal's page, or another API behind the address


class PcmStream:
    """Audio of one text: chunks of any length in, whole PCM16LE samples at `out_hz` out.

    `law` decodes G.711 first. Raises ValueError for rates that cannot be converted.
    """

    def __init__(self, in_hz: int, out_hz: int, law: Law | None = None) -> None:
        self._resampler = Resampler(in_hz, out_hz)
        self._out_hz = out_hz
        self._law = law
        self._whole = WholeSamples()
        self._samples = 0

    @property
    def seconds(self) -> float:
        """How much speech has come out."""
        return self._samples / self._out_hz

    def feed(self, data: bytes) -> bytes:
        """The samples that `data` completes; half a sample waits for the next chunk."""
        if self._law is not None:
            return self._count(self._resampler.process(self._law.decode(data)))
        return self._count(self._resampler.process(self._whole.push(data)))

    def end(self) -> bytes:
        """What the converter still holds back; half a sample at the very end is no sound."""
        self._whole.forget()
        delay = self._resampler.delay_samples
        if not delay or not self._samples:
            return b""
        return self._count(
            self._resampler.process(bytes(BYTES_PER_SAMPLE * delay * self._resampler.in_hz // self._out_hz))
        )

    def _count(self, pcm: bytes) -> bytes:
        self._samples += len(pcm) // BYTES_PER_SAMPLE
        return pcm
