"""SRTP and SRTCP of one direction (RFC 3711), by libsrtp; keys come from SDP (libs.sip.sdes, RFC 4568).

The roll-over counter lives in these objects: it starts at 0 with a master key and is never sent, so one object serves
a key for as long as that key is in use.
"""

import pylibsrtp

PROFILES = {
    "AES_CM_128_HMAC_SHA1_80": pylibsrtp.Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
    "AES_CM_128_HMAC_SHA1_32": pylibsrtp.Policy.SRTP_PROFILE_AES128_CM_SHA1_32,
}
_MAX_PACKET_BYTES = 1300  # libsrtp's binding holds 1500 bytes with the trailer


class Unauthentic(ValueError):
    """The packet is not from who has the key, or came before (RFC 3711 §3.3)."""


def _session(suite: str, master: bytes, ssrc_type: int) -> pylibsrtp.Session:
    profile = PROFILES.get(suite)
    if profile is None:
        raise ValueError(f"crypto suite {suite!r} is none of {', '.join(PROFILES)}")
    return pylibsrtp.Session(pylibsrtp.Policy(master, ssrc_type, srtp_profile=profile))


class SrtpSender:
    """Protects what we send. `master` is key and salt, 30 bytes. Raises ValueError for an unknown suite."""

    def __init__(self, suite: str, master: bytes) -> None:
        self._session = _session(suite, master, pylibsrtp.Policy.SSRC_ANY_OUTBOUND)

    def protect(self, packet: bytes) -> bytes:
        """An RTP packet, encrypted and signed."""
        protected: bytes = self._session.protect(packet)
        return protected

    def protect_rtcp(self, packet: bytes) -> bytes:
        """A compound RTCP packet, encrypted and signed (RFC 3711 §3.4)."""
        protected: bytes = self._session.protect_rtcp(packet)
        return protected


class SrtpReceiver:
    """Opens what the peer sent. `master` is the peer's key and salt. Raises ValueError for an unknown suite."""

    def __init__(self, suite: str, master: bytes) -> None:
        self._session = _session(suite, master, pylibsrtp.Policy.SSRC_ANY_INBOUND)

    def unprotect(self, packet: bytes) -> bytes:
        """The RTP packet within. Raises Unauthentic: wrong key, changed on the way, or replayed."""
        if len(packet) > _MAX_PACKET_BYTES:
            raise Unauthentic(f"{len(packet)} bytes are more than {_MAX_PACKET_BYTES}")
        try:
            opened: bytes = self._session.unprotect(packet)
        except pylibsrtp.Error as error:
            raise Unauthentic(str(error)) from None
        return opened

    def unprotect_rtcp(self, packet: bytes) -> bytes:
        """The compound RTCP packet within. Raises Unauthentic as `unprotect` does."""
        if len(packet) > _MAX_PACKET_BYTES:
            raise Unauthentic(f"{len(packet)} bytes are more than {_MAX_PACKET_BYTES}")
        try:
            opened: bytes = self._session.unprotect_rtcp(packet)
        except pylibsrtp.Error as error:
            raise Unauthentic(str(error)) from None
        return opened
