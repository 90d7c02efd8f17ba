"""What we offer and accept on a trunk, and what an agreement means for RTP. No I/O."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from libs.audio.codec import codec_named
from libs.contracts.termination import Reason, Termination
from libs.sip.errors import NoCommonCodec, SdpError
from libs.sip.sdes import MASTER_BYTES
from libs.sip.sdp import (
    PAYLOAD_TYPES,
    TELEPHONE_EVENT_PT,
    Direction,
    LocalMedia,
    Negotiated,
    SessionDescription,
    accept_answer,
    make_offer,
    negotiate,
)
from services.sip_gateway.rtp_format import MediaFormat
from services.sip_gateway.trunks import TrunkConfig

UNSPECIFIED = ("0.0.0.0", "::")
NOWHERE = ("127.0.0.1", 9)  # until an answer says where; nothing is sent there


class Refusal(Exception):
    """The call gets no leg."""

    def __init__(self, termination: Termination) -> None:
        super().__init__(termination.detail)
        self.termination = termination


@dataclass(frozen=True, slots=True)
class Agreed:
    """What offer and answer settled. `sdp` is our description; while `is_held` nothing of the caller is owed."""

    sdp: str
    format: MediaFormat
    remote: tuple[str, int]
    may_send: bool
    is_held: bool = False

    @classmethod
    def of(cls, media: Negotiated, sdp: str = "") -> Agreed:
        """Anything but both ways is a hold (RFC 3264 §8.4), and so is no address (the hold of RFC 2543)."""
        nowhere = media.remote_host in UNSPECIFIED
        is_held = nowhere or media.direction is not Direction.SENDRECV
        may_send = media.direction.sends and not nowhere
        remote = (media.remote_host, media.remote_port)
        return cls(sdp or media.answer.serialize(), MediaFormat.of(media), remote, may_send, is_held)


def local_media(trunk: TrunkConfig, host: str, port: int) -> LocalMedia:
    """What we bring to a negotiation on this trunk, with a key of its own for every call."""
    key = secrets.token_bytes(MASTER_BYTES) if trunk.srtp != "off" else b""
    return LocalMedia(
        host, port, trunk.codecs, session_id=secrets.randbits(31), srtp=trunk.srtp, srtp_key=key,
        rtcp_mux=trunk.rtcp_mux,
    )  # fmt: skip


def answer_offer(offer: SessionDescription | None, local: LocalMedia) -> Agreed:
    """Our answer to an INVITE.

    Raises:
        Refusal: no common codec, or an offer that cannot be served.
    """
    if offer is None:
        return late_offer(local)
    try:
        return Agreed.of(negotiate(offer, local))
    except NoCommonCodec as error:
        raise Refusal(Termination.of(Reason.NO_COMMON_CODEC, str(error))) from None
    except SdpError as error:
        raise Refusal(Termination.of(Reason.MALFORMED_OFFER, str(error))) from None


def late_offer(local: LocalMedia) -> Agreed:
    """An INVITE without SDP: we offer in the 200, the answer comes in the ACK (RFC 3261 §13.2.1).

    One codec, so that the agent's session knows it before the ACK, and in the clear: no key is agreed on yet when the
    first packet is due.
    """
    codec = next((name for name in local.codecs if name != "G722"), "PCMA")
    if local.srtp == "required":
        raise Refusal(Termination.of(Reason.NO_COMMON_CODEC, "SRTP is required here, and the call offers no media yet"))
    plain = LocalMedia(local.host, local.port, (codec,), local.session_id)
    settled = MediaFormat(codec_named(codec), PAYLOAD_TYPES[codec], TELEPHONE_EVENT_PT)
    return Agreed(make_offer(plain).serialize(), settled, NOWHERE, may_send=False)


def accepted_answer(offer: SessionDescription, answer: SessionDescription | None) -> Agreed:
    """What the answer to our offer means.

    Raises:
        Refusal: it refused our audio, or cannot be read.
    """
    if answer is None:
        raise Refusal(Termination.of(Reason.NO_COMMON_CODEC, "the answer brought no session description"))
    try:
        return Agreed.of(accept_answer(offer, answer), offer.serialize())
    except SdpError as error:  # NoCommonCodec is one
        raise Refusal(Termination.of(Reason.NO_COMMON_CODEC, str(error))) from None


def offered(offer: SessionDescription, local: LocalMedia) -> Agreed:
    """What is known of the media before the answer: the codec that we would like best, nobody to send to."""
    codec = local.codecs[0]
    settled = MediaFormat(codec_named(codec), PAYLOAD_TYPES[codec], TELEPHONE_EVENT_PT)
    return Agreed(offer.serialize(), settled, NOWHERE, may_send=False)
