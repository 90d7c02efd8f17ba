"""G.722 wideband at 64 kbit/s (ITU-T G.722, RFC 3551 §4.5.2): 16 kHz audio in as many bytes as G.711.

RTP counts it at 8000 Hz although its audio has 16 kHz, an error of RFC 1890 that was kept: one byte of payload is two
samples and one unit of the RTP timestamp. Encoder and decoder adapt to the signal, so each keeps state: one encoder
for each stream sent, one decoder for each stream received, and silence is encoded like everything else.
"""

import array
import sys

import G722 as _native

RATE_HZ = 16000
BIT_RATE = 64000
_SILENT_FRAME = array.array("h", bytes(2 * RATE_HZ // 50))


class G722Error(ValueError):
    """The PCM handed over cannot be encoded."""


class G722Encoder:
    """One outgoing stream."""

    def __init__(self) -> None:
        self._codec = _native.G722(RATE_HZ, BIT_RATE)

    def encode(self, pcm16le: bytes) -> bytes:
        """Return one byte for each two samples at 16 kHz, little-endian, 16 bit.

        Raises G722Error when the input is not a whole number of pairs of samples.
        """
        if len(pcm16le) % 4:
            raise G722Error(f"{len(pcm16le)} bytes are not a whole number of pairs of 16-bit samples")
        if not pcm16le:
            return b""
        samples = array.array("h", pcm16le)
        if sys.byteorder == "big":
            samples.byteswap()
        encoded: bytes = self._codec.encode(samples)
        return encoded

    def silence_frame(self) -> bytes:
        """Payload of 20 ms of silence, as the state of the stream demands."""
        encoded: bytes = self._codec.encode(_SILENT_FRAME)
        return encoded


class G722Decoder:
    """One incoming stream."""

    def __init__(self) -> None:
        self._codec = _native.G722(RATE_HZ, BIT_RATE)

    def decode(self, payload: bytes) -> bytes:
        """Return two little-endian 16-bit samples at 16 kHz for each byte."""
        if not payload:
            return b""
        samples: array.array[int] = self._codec.decode(payload)
        if sys.byteorder == "big":
            samples.byteswap()
        return samples.tobytes()


class G722Codec:
    """What negotiation and set-up need to know of G.722."""

    encoding_name = "G722"
    payload_type = 9  # RFC 3551 table 4
    rate_hz = RATE_HZ

    def encoder(self) -> G722Encoder:
        """A fresh encoder, for one stream."""
        return G722Encoder()

    def decoder(self) -> G722Decoder:
        """A fresh decoder, for one stream."""
        return G722Decoder()


G722 = G722Codec()
