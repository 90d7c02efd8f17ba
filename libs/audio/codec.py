"""What the media path asks of a telephone codec, and the codecs that answer it.

All of them count RTP time at 8000 Hz and fill one byte per unit of it, G.722 included (RFC 3551 §4.5.2); they differ in
the rate of their audio and in whether they keep state.
"""

from typing import Protocol

from libs.audio.g711 import Law
from libs.audio.g722 import G722

CLOCK_HZ = 8000


class Encoder(Protocol):
    """One outgoing stream."""

    def encode(self, pcm16le: bytes, /) -> bytes:
        """Payload of these samples."""

    def silence_frame(self) -> bytes:
        """Payload of 20 ms of silence."""


class Decoder(Protocol):
    """One incoming stream."""

    def decode(self, payload: bytes, /) -> bytes:
        """Samples of this payload, mono PCM16LE."""


class AudioCodec(Protocol):
    """A codec by its name in SDP."""

    @property
    def encoding_name(self) -> str:
        """As in `a=rtpmap`."""

    @property
    def payload_type(self) -> int:
        """Static RTP payload type (RFC 3551 table 4)."""

    @property
    def rate_hz(self) -> int:
        """Samples per second of the audio; RTP's clock is `CLOCK_HZ`."""

    def encoder(self) -> Encoder:
        """For one outgoing stream."""

    def decoder(self) -> Decoder:
        """For one incoming stream."""


CODECS: dict[str, AudioCodec] = {codec.encoding_name: codec for codec in (Law.PCMU, Law.PCMA, G722)}


def codec_named(name: str) -> AudioCodec:
    """The codec with this encoding name.

    Raises:
        ValueError: there is none.
    """
    codec = CODECS.get(name.upper())
    if codec is None:
        raise ValueError(f"{name!r} is none of {', '.join(CODECS)}")
    return codec
