"""RTCP and SRTP of one call of the softphone."""

from __future__ import annotations

import time

from libs.audio.rtcp import RtcpError, RtcpReporter, is_rtcp
from libs.audio.rtp import HEADER_BYTES, RtpPacket
from libs.audio.srtp import SrtpReceiver, SrtpSender, Unauthentic
from libs.sip.sdes import SrtpKeys
from libs.sip.sdp import Negotiated
from libs.softphone.endpoint import RtpEndpoint


class Security:
    """Encrypts where keys were agreed on, and passes everything through where not."""

    def __init__(self) -> None:
        self._keys: SrtpKeys | None = None
        self._sender: SrtpSender | None = None
        self._receiver: SrtpReceiver | None = None

    def agree(self, keys: SrtpKeys | None) -> None:
        """Learn what an answer settled; keys that stay keep their roll-over counters."""
        before, self._keys = self._keys, keys
        if keys is None:
            self._sender = self._receiver = None
            return
        if before is None or before.ours != keys.ours:
            self._sender = SrtpSender(keys.ours.suite, keys.ours.master)
        if before is None or before.theirs != keys.theirs:
            self._receiver = SrtpReceiver(keys.theirs.suite, keys.theirs.master)

    def protect(self, packet: bytes) -> bytes:
        return packet if self._sender is None else self._sender.protect(packet)

    def unprotect(self, packet: bytes) -> bytes:
        """Raises Unauthentic."""
        return packet if self._receiver is None else self._receiver.unprotect(packet)

    def protect_rtcp(self, packet: bytes) -> bytes:
        return packet if self._sender is None else self._sender.protect_rtcp(packet)

    def unprotect_rtcp(self, packet: bytes) -> bytes:
        """Raises Unauthentic."""
        return packet if self._receiver is None else self._receiver.unprotect_rtcp(packet)


class ControlEnd:
    """Reports over the port after RTP's, or over the same one where that was agreed on (RFC 5761)."""

    def __init__(self, ssrc: int, rtp: RtpEndpoint, security: Security, now: float) -> None:
        self.reporter = RtcpReporter(ssrc, f"{ssrc:08x}@callbus-phone")
        self.malformed = 0
        self._rtp = rtp
        self._security = security
        self._mux = False
        self._remote = ("", 0)
        self.reporter.start(now)
        if rtp.rtcp is not None:
            rtp.rtcp.on_datagram = self._datagram

    def agree(self, negotiated: Negotiated) -> None:
        """Learn where the peer wants RTCP."""
        self._mux = negotiated.rtcp_mux
        self._remote = (
            (negotiated.remote_host, negotiated.remote_port) if negotiated.rtcp_mux else negotiated.remote_rtcp
        )

    def sent(self, packet: bytes, now: float) -> None:
        """An RTP packet goes out, not encrypted yet."""
        self.reporter.rtp_sent(len(packet) - HEADER_BYTES, int.from_bytes(packet[4:8], "big"), now)

    def received(self, packet: RtpPacket, now: float) -> None:
        """An RTP packet came."""
        self.reporter.reception.received(packet.ssrc, packet.sequence_number, packet.timestamp, now)

    def took(self, data: bytes) -> bool:
        """Whether a datagram of the RTP port was RTCP, and is dealt with."""
        if not (self._mux and is_rtcp(data)):
            return False
        self._datagram(data)
        return True

    def _datagram(self, data: bytes) -> None:
        try:
            self.reporter.receive(self._security.unprotect_rtcp(data), time.monotonic())
        except (RtcpError, Unauthentic):
            self.malformed += 1

    def tick(self, now: float) -> None:
        """Report when it is time."""
        due_at = self.reporter.due_at
        if due_at is not None and due_at <= now:
            self._send(self.reporter.report(now))

    def close(self, now: float) -> None:
        """RTCP BYE."""
        self._send(self.reporter.goodbye(now))

    def _send(self, data: bytes) -> None:
        endpoint = self._rtp if self._mux else self._rtp.rtcp
        if endpoint is not None:
            endpoint.send(self._security.protect_rtcp(data), self._remote)
