"""One call's RTP: packets of the caller to frames for the bus, the agent's frames to packets (RFC 3550, 3551).

The shell around four cores: `Latch` says who the caller is (RFC 4961), `Inbound` and `Outbound` are the two
directions, `RtcpReporter` is the control protocol. What is encrypted is opened before anything else looks at it
(RFC 3711), so nobody without the key latches, counts or speaks.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from libs.audio.jitter import COMFORT_NOISE_PT
from libs.audio.resample import Resampler
from libs.audio.rtcp import RtcpError, RtcpReporter, is_rtcp
from libs.audio.rtp import RtpError, RtpPacket
from libs.audio.srtp import Unauthentic
from libs.audio.tone import waiting_tone
from libs.call_leg.audio import CallAudio
from libs.contracts.media import MediaStatistics
from services.sip_gateway.quality import observe, reported
from services.sip_gateway.rtp_bridge import BridgeQueue, loop_of
from services.sip_gateway.rtp_crypto import MediaKeys
from services.sip_gateway.rtp_format import MediaFormat, RtpStart
from services.sip_gateway.rtp_inbound import Inbound
from services.sip_gateway.rtp_latch import Latch
from services.sip_gateway.rtp_outbound import Outbound
from services.sip_gateway.rtp_ports import RtpSocket

__all__ = ["MediaFormat", "RtpSession", "RtpStart"]

READS_PER_SLOT = 64
MAX_PACKET_BYTES = 2048
_NOWHERE = ("0.0.0.0", "::")  # the hold of RFC 2543; the system would take them for ourselves


class RtpSession:
    """`read`, `read_rtcp` and `tick` are called by the ticker, `send_now` by the leg when a talkspurt begins.

    RTCP runs where there is a way for it: `sock` is one of a pair, or one port for both was agreed on (RFC 5761).
    """

    def __init__(
        self,
        sock: socket.socket,
        media: MediaFormat,
        remote: tuple[str, int],
        audio: CallAudio,
        start: RtpStart,
    ) -> None:
        self._sock = sock
        self._rtcp_sock = sock.rtcp if isinstance(sock, RtpSocket) else None
        self.fileno = sock.fileno()
        self.rtcp_fileno = self._rtcp_sock.fileno() if self._rtcp_sock is not None else None
        self._audio = audio
        self.on_digit: Callable[[str], None] | None = None
        self._latch = Latch(remote)
        self._rtcp_latch = Latch(_rtcp_address(remote, media))
        self._rtcp = RtcpReporter(start.ssrc, f"{start.ssrc:08x}{start.timestamp:08x}")
        self._in = Inbound(media, audio.received)
        self._in.on_digit = self._digit
        self._out = Outbound(media, start, audio.tick, self._send)
        self._peer: RtpSession | None = None
        self._from_peer: BridgeQueue | None = None
        self._listener: RtpSession | None = None  # hears our call's agent in place of our caller
        self._speaker: RtpSession | None = None  # whose agent our caller hears
        self._is_early = False
        self._keys = MediaKeys()
        self._keys.change(media.srtp, None)
        self._set_format(media)
        self.received_at: float | None = None
        self.sent = self.unsent = 0
        self.foreign = self.malformed = self.unauthentic = self.other_payload = 0
        self.early_packets = 0
        self.bridged = self.bridge_dropped = 0
        self.rtcp_sent = self.rtcp_received = self.rtcp_malformed = 0

    def _set_format(self, media: MediaFormat) -> None:
        """Wire the two directions: to the bus, resampled where the call's rate is another, or to another call."""
        self._media = media
        heard = self._heard = self._speaker._audio if self._speaker is not None else self._audio
        rate_hz, bus_hz, heard_hz = media.codec.rate_hz, 50 * self._audio.frame_samples, 50 * heard.frame_samples
        self._to_bus = Resampler(rate_hz, bus_hz)
        self._from_bus = Resampler(heard_hz, rate_hz)
        self._bus_silence = bytes(2 * heard.frame_samples)
        self._was_talking = False
        if self._peer is not None:
            self._join(self._peer)
            return
        self._in.deliver = self._audio.received if rate_hz == bus_hz else self._resampled_up
        self._out.source = heard.tick if rate_hz == heard_hz else self._resampled_down
        if self._speaker is not None:
            self._in.deliver = _unheard
        elif self._listener is not None:
            self._in.deliver, self._out.source = self._silenced_up, loop_of(waiting_tone(rate_hz), media.frame_samples)

    @property
    def may_latch(self) -> Callable[[str], bool] | None:
        """Judges the hosts of sources that SDP did not name; None takes any."""
        return self._latch.may_latch

    @may_latch.setter
    def may_latch(self, judge: Callable[[str], bool] | None) -> None:
        self._latch.may_latch = self._rtcp_latch.may_latch = judge

    @property
    def may_send(self) -> bool:
        """Off while the caller holds: the agent's audio waits."""
        return self._out.may_send

    @may_send.setter
    def may_send(self, may_send: bool) -> None:
        self._out.may_send = may_send

    # -- the caller ------------------------------------------------------------------------------------------

    def read(self, now: float) -> None:
        """Take what the socket holds."""
        for _ in range(READS_PER_SLOT):
            try:
                data, source = self._sock.recvfrom(MAX_PACKET_BYTES)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error of an earlier packet shows here (RFC 1122 §4.1.3.3)
                continue
            self._take(data, (source[0], source[1]), now)

    def _take(self, data: bytes, source: tuple[str, int], now: float) -> None:
        latch = self._latch
        if source != latch.remote and not latch.accepts(source):
            self.foreign += 1
            return
        if self._media.rtcp_mux and is_rtcp(data):
            self._take_rtcp(data, now)
            return
        try:
            packet = RtpPacket.parse(data if self._keys.receiver is None else self._keys.receiver.unprotect(data))
        except RtpError:
            self.malformed += 1
            return
        except Unauthentic:
            self.unauthentic += 1
            return
        self.received_at = now  # comfort noise is a sign of life, too
        media = self._media
        is_audio = packet.payload_type == media.payload_type
        if not is_audio and packet.payload_type != media.event_payload_type:
            self.other_payload += 1  # comfort noise (RFC 3389), a codec that was not agreed
            if packet.payload_type != COMFORT_NOISE_PT or not latch.is_latched or source != latch.remote:
                return
        else:
            latch.hold(source)
        self._rtcp.reception.received(packet.ssrc, packet.sequence_number, packet.timestamp if is_audio else None, now)
        if self._is_early:  # announcements and ringing before the answer are nothing that the caller says
            self.early_packets += 1
            return
        self._in.push(packet, now)

    def _digit(self, digit: str, now: float) -> None:
        if self._peer is not None:
            self._peer.send_digits(digit, now)
        if self.on_digit is not None:
            self.on_digit(digit)

    def _resampled_up(self, pcm: bytes, now: float, flags: int) -> None:
        self._audio.received(self._to_bus.process(pcm), now, flags)

    def _silenced_up(self, pcm: bytes, now: float, flags: int) -> None:
        self._audio.received(self._bus_silence, now)

    def _conceal(self) -> bytes:
        return self._to_bus.process(self._in.conceal())

    # -- the agent -------------------------------------------------------------------------------------------

    def early(self) -> None:
        """Early media (183 with SDP): until `answered`, packets of the peer latch, are counted and go no further."""
        self._is_early = not self._out.is_running

    def answered(self, now: float) -> None:
        """200 OK went out, or came: packets may flow."""
        self._is_early = False
        self._out.begin(now)
        if self._rtcp_sock is not None or self._media.rtcp_mux:
            self._rtcp.start(now)

    def tick(self, now: float) -> None:
        """Give up gaps whose time is over, make up for missing frames, send what is due."""
        gap_until = self._in.in_order.deadline()
        if gap_until is not None and gap_until <= now:
            self._in.expire(now)
        if self._peer is None:
            self._audio.fill(now, self._conceal if self._listener is None else None)
        self._out.tick(now)
        report_at = self._rtcp.due_at
        if report_at is not None and report_at <= now:
            self._send_rtcp(self._rtcp.report(now))

    def send_now(self, now: float) -> None:
        """A talkspurt begins. If its time has not come, it leaves early and the timeline remembers the lead."""
        if self._listener is not None:
            self._listener._out.send_now(now)
        elif self._peer is None:
            self._out.send_now(now)

    def send_digits(self, digits: str, now: float) -> None:
        """Queue DTMF digits: as telephone events where they were agreed on, else as tones (RFC 4733, Q.23).

        The agent's audio waits meanwhile and does not count as heard. Raises DtmfError when one is no digit.
        """
        self._out.send_digits(digits)

    @property
    def is_sending_digits(self) -> bool:
        """Whether digits are on their way or wait."""
        return self._out.is_sending_digits

    def _resampled_down(self) -> bytes | None:
        pcm = self._heard.tick()
        if pcm is None:
            if not self._was_talking:
                return None
            pcm = self._bus_silence  # lets out the end of the talkspurt that the filter holds
            self._was_talking = False
        else:
            self._was_talking = True
        return self._from_bus.process(pcm)

    def _send(self, packet: bytes, payload_bytes: int, sent_at: float) -> None:
        self._rtcp.rtp_sent(payload_bytes, self._out.timestamp, sent_at)
        try:
            sender = self._keys.sender
            self._sock.sendto(packet if sender is None else sender.protect(packet), self._latch.remote)
            self.sent += 1
        except OSError:
            self.unsent += 1

    # -- RTCP --------------------------------------------------------------------------------------------------

    def read_rtcp(self, now: float) -> None:
        """Take what the socket for RTCP holds."""
        if self._rtcp_sock is None:
            return
        for _ in range(READS_PER_SLOT):
            try:
                data, address = self._rtcp_sock.recvfrom(MAX_PACKET_BYTES)
            except BlockingIOError:
                return
            except OSError:  # as for RTP
                continue
            source = (address[0], address[1])
            if not self._rtcp_latch.accepts(source):
                self.foreign += 1
            elif self._take_rtcp(data, now):
                self._rtcp_latch.hold(source)

    def _take_rtcp(self, data: bytes, now: float) -> bool:
        try:
            self._rtcp.receive(data if self._keys.receiver is None else self._keys.receiver.unprotect_rtcp(data), now)
        except RtcpError:
            self.rtcp_malformed += 1
            return False
        except Unauthentic:
            self.unauthentic += 1
            return False
        self.rtcp_received += 1
        reported(self._rtcp.remote.jitter_ms, self._rtcp.remote.round_trip_ms)
        return True

    def _send_rtcp(self, data: bytes) -> None:
        sock, remote = (
            (self._sock, self._latch.remote) if self._media.rtcp_mux else (self._rtcp_sock, self._rtcp_latch.remote)
        )
        if sock is None or remote[0] in _NOWHERE:
            return
        try:
            sock.sendto(data if self._keys.sender is None else self._keys.sender.protect_rtcp(data), remote)
            self.rtcp_sent += 1
        except OSError:
            return  # the next report tells the same and more

    def finish(self, now: float) -> None:
        """The call has ended: RTCP BYE, the bridge is gone, and how the audio was goes into the metrics."""
        self.unbridge()
        if self._rtcp.due_at is not None:
            self._send_rtcp(self._rtcp.goodbye(now))
        observe(self.statistics())

    # -- changes ----------------------------------------------------------------------------------------------

    def redirect(self, remote: tuple[str, int], *, may_send: bool, media: MediaFormat | None = None) -> None:
        """A re-INVITE named another address, direction, codec or key: latch anew, unless the address stayed."""
        self._latch.rename(remote)
        self._rtcp_latch.rename(_rtcp_address(remote, media or self._media))
        self.may_send = may_send
        if media is None or media == self._media:
            return
        before = self._media
        self._keys.change(media.srtp, before.srtp)
        if (media.codec, media.payload_type) != (before.codec, before.payload_type):
            self._in.change(media)
            self._out.change(media)
            self._set_format(media)
            return
        self._media = media
        self._in.keep(media)
        self._out.change(media)

    def bridge_to(self, other: RtpSession) -> None:
        """Join two calls of this gateway: each hears the other's caller, the bus hears and says nothing.

        Codecs and rates may differ. Digits of one are sent to the other. The agent's audio is not played meanwhile.
        """
        self.unbridge()
        other.unbridge()
        self._join(other)
        other._join(self)

    def announce_to(self, other: RtpSession) -> None:
        """The agent speaks to the other call's caller, whom nobody hears; ours waits, and sends the bus silence.

        Until `bridge_to` or `unbridge`.
        """
        self.unbridge()
        other.unbridge()
        self._listener, other._speaker = other, self
        for session in (self, other):
            session._set_format(session._media)

    def _join(self, other: RtpSession) -> None:
        self._drop_queue()
        self._peer = other
        self._from_peer = BridgeQueue(self._media.codec.rate_hz)
        self._in.deliver, self._out.source = self._to_peer, self._from_peer.pop

    def _drop_queue(self) -> None:
        if self._from_peer is not None:
            self.bridge_dropped += self._from_peer.dropped + self._from_peer.depth
        self._from_peer = None

    def _to_peer(self, pcm: bytes, now: float, flags: int) -> None:
        peer = self._peer
        if peer is not None and peer._from_peer is not None:
            self.bridged += 1
            peer._from_peer.push(pcm, self._media.codec.rate_hz)

    def unbridge(self) -> None:
        """Back to the bus, for both calls; nothing happens where there is no other call."""
        other = self._peer or self._listener or self._speaker
        self._peer = self._listener = self._speaker = None
        if other is None:
            return
        self._drop_queue()
        self._set_format(self._media)
        other.unbridge()

    @property
    def is_bridged(self) -> bool:
        """Whether another call is at the other end."""
        return self._peer is not None

    def statistics(self) -> MediaStatistics:
        """Counters of the call so far."""
        order, rtcp, queue = self._in.in_order, self._rtcp, self._from_peer
        line = {
            "rtp_received": order.received,
            "rtp_lost": order.lost + order.jumped,
            "rtp_late": order.late,
            "rtp_duplicate": order.duplicate,
            "rtp_foreign": self.foreign,
            "rtp_malformed": self.malformed,
            "rtp_unauthentic": self.unauthentic,
            "rtp_early": self.early_packets,
            "rtp_sent": self.sent,
            "rtp_unsent": self.unsent,
            "rtp_skipped": self._out.skipped,
            "rtp_jitter_ms": rtcp.reception.jitter_ms,
            "rtcp_received": self.rtcp_received,
            "rtcp_sent": self.rtcp_sent,
            "rtcp_malformed": self.rtcp_malformed,
            "remote_lost": rtcp.remote.lost,
            "remote_fraction_lost": rtcp.remote.fraction_lost,
            "remote_jitter_ms": rtcp.remote.jitter_ms,
            "round_trip_ms": rtcp.remote.round_trip_ms,
            "up_concealed": order.lost,
            "up_bridged": self.bridged,
            "bridge_dropped": self.bridge_dropped + (queue.dropped if queue is not None else 0),
        }
        return self._audio.statistics().model_copy(update=line)


def _unheard(pcm: bytes, now: float, flags: int) -> None:
    """Who listens to an announcement does not interrupt it."""


def _rtcp_address(remote: tuple[str, int], media: MediaFormat) -> tuple[str, int]:
    return media.remote_rtcp or (remote[0], min(remote[1] + 1, 65535))
