"""What offer and answer settled about a call's media, and the random values that it starts with."""

from __future__ import annotations

from dataclasses import dataclass

from libs.audio.codec import AudioCodec, codec_named
from libs.sip.sdes import SrtpKeys
from libs.sip.sdp import Negotiated

FRAME_S = 0.02
CLOCK_UNITS = 160  # of RTP's clock in a frame: it runs at 8000 Hz for every codec here (RFC 3551 §4.5.2)


@dataclass(frozen=True, slots=True)
class RtpStart:
    """Random starting values (RFC 3550 §5.1), given by the caller so that roll-over can be tested."""

    ssrc: int
    sequence_number: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class MediaFormat:
    """What the offer and answer settled. `remote_rtcp` None is the port after RTP's; `srtp` None is in the clear."""

    codec: AudioCodec
    payload_type: int
    event_payload_type: int | None
    rtcp_mux: bool = False
    remote_rtcp: tuple[str, int] | None = None
    srtp: SrtpKeys | None = None

    @classmethod
    def of(cls, agreed: Negotiated) -> MediaFormat:
        """The media of a negotiation."""
        return cls(
            codec_named(agreed.codec), agreed.payload_type, agreed.telephone_event_pt,
            agreed.rtcp_mux, agreed.remote_rtcp, agreed.srtp,
        )  # fmt: skip

    @property
    def frame_samples(self) -> int:
        """Samples of 20 ms at the codec's rate."""
        return self.codec.rate_hz // 50
