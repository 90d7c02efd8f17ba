"""G.711 companding, both laws (ITU-T G.711, static RTP payload types of RFC 3551 §6)."""

import warnings
from enum import Enum

with warnings.catch_warnings():
    # Deprecated up to 3.12, gone in 3.13, where audioop-lts brings the same module back.
    warnings.filterwarnings("ignore", "'audioop' is deprecated", DeprecationWarning)
    import audioop


class G711Error(ValueError):
    """The PCM handed over cannot be encoded."""


class Law(Enum):
    """One of the two companding laws; the value is the static RTP payload type (RFC 3551 table 4)."""

    PCMU = 0
    PCMA = 8

    @property
    def payload_type(self) -> int:
        """Static RTP payload type: 0 or 8."""
        return self.value

    @property
    def encoding_name(self) -> str:
        """Encoding name as in `a=rtpmap`: "PCMU" or "PCMA"."""
        return self.name

    @property
    def silence(self) -> bytes:
        """One byte that decodes to the smallest positive amplitude; repeat it to fill a frame."""
        return b"\xff" if self is Law.PCMU else b"\xd5"

    @property
    def rate_hz(self) -> int:
        """Samples per second of the PCM, and clock of RTP."""
        return 8000

    def encoder(self) -> "Law":
        """The law itself: it keeps no state."""
        return self

    def decoder(self) -> "Law":
        """The law itself: it keeps no state."""
        return self

    def silence_frame(self) -> bytes:
        """Payload of 20 ms of silence."""
        return _SILENCE_PCMU if self is Law.PCMU else _SILENCE_PCMA

    def encode(self, pcm16le: bytes) -> bytes:
        """Return one byte for each little-endian 16-bit sample.

        Raises G711Error when the input ends in the middle of a sample.
        """
        try:
            payload: bytes = audioop.lin2ulaw(pcm16le, 2) if self is Law.PCMU else audioop.lin2alaw(pcm16le, 2)
        except audioop.error:
            raise G711Error(f"{len(pcm16le)} bytes are not a whole number of 16-bit samples") from None
        return payload

    def decode(self, payload: bytes) -> bytes:
        """Return one little-endian 16-bit sample for each byte."""
        pcm16le: bytes = audioop.ulaw2lin(payload, 2) if self is Law.PCMU else audioop.alaw2lin(payload, 2)
        return pcm16le


_SILENCE_PCMU = Law.PCMU.silence * 160
_SILENCE_PCMA = Law.PCMA.silence * 160
