"""One call's RTP: packets of the caller to frames for the bus, the agent's frames to packets (RFC 3550, 3551).

Symmetric RTP (RFC 4961): we send to where the first valid packet came from, and accept nothing from
elsewhere after that. The send side keeps one timeline: 160 samples a packet, silence included. The first
packet of a talkspurt leaves at once, up to 20 ms before its time on that timeline; the pause after the
talkspurt gives the lead back, so that it never adds up.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

from libs.audio.conceal import Concealer
from libs.audio.dtmf import DtmfReceiver
from libs.audio.g711 import Law
from libs.audio.jitter import InOrderRelease, Released
from libs.audio.rtp import RtpError, RtpPacket, pack_header
from libs.call_leg.audio import CallAudio
from libs.contracts.events import MediaStatistics
from libs.contracts.frame import Flag

TALKSPURT, CONCEALED = Flag.TALKSPURT.value, Flag.CONCEALED.value  # plain integers: enum arithmetic is slow
FRAME_S = 0.02
FRAME_SAMPLES = 160
FRAME_BYTES = 2 * FRAME_SAMPLES
STALL_S = 0.04
READS_PER_SLOT = 64
MAX_PACKET_BYTES = 2048


@dataclass(frozen=True, slots=True)
class RtpStart:
    """Random starting values (RFC 3550 §5.1), given by the caller so that roll-over can be tested."""

    ssrc: int
    sequence_number: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class MediaFormat:
    """What the offer and answer settled."""

    law: Law
    payload_type: int
    event_payload_type: int | None


class RtpSession:
    """`read` and `tick` are called by the ticker, `send_now` by the leg when a talkspurt begins."""

    def __init__(
        self,
        sock: socket.socket,
        media: MediaFormat,
        remote: tuple[str, int],
        audio: CallAudio,
        start: RtpStart,
    ) -> None:
        self._sock = sock
        self.fileno = sock.fileno()
        self._media = media
        self._named = remote  # by SDP; packets go to `_remote`, which is where they come from (RFC 4961)
        self._remote = remote
        self._audio = audio
        self.on_digit: Callable[[str], None] | None = None
        self._law = media.law
        self._silence = media.law.silence * FRAME_SAMPLES
        self._in_order = InOrderRelease(event_payload_type=media.event_payload_type)
        self._concealer = Concealer(8000)
        self._digits = DtmfReceiver()
        self._pending = b""
        self._latched = False
        self._ssrc = start.ssrc
        self._sequence = start.sequence_number
        self._timestamp = start.timestamp
        self._next_at: float | None = None
        self._lead_s = 0.0
        self._talking = False
        self._is_settled = False  # the latch was moved to the named address once; not again
        self.may_latch: Callable[[str], bool] | None = None
        self.may_send = True
        self.received_at: float | None = None
        self.sent = 0
        self.unsent = 0
        self.foreign = 0
        self.malformed = 0
        self.other_payload = 0

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
        if source != self._remote and not self._may_become_remote(source):
            self.foreign += 1
            return
        try:
            packet = RtpPacket.parse(data)
        except RtpError:
            self.malformed += 1
            return
        self.received_at = now  # comfort noise is a sign of life, too
        media = self._media
        if packet.payload_type not in (media.payload_type, media.event_payload_type):
            self.other_payload += 1  # comfort noise (RFC 3389), a codec that was not agreed
            return
        if not self._latched or source != self._remote:
            self._is_settled = self._latched
            self._latched, self._remote = True, source
        for released in self._in_order.push(packet, now):
            self._release(released, now)

    def _may_become_remote(self, source: tuple[str, int]) -> bool:
        """Nobody takes over a call: only the named address may, or before that one speaks, a source that we answer."""
        if source == self._named:
            return not self._is_settled
        return not self._latched and (self.may_latch is None or self.may_latch(source[0]))

    def _release(self, released: Released, now: float) -> None:
        payload = released.payload
        if payload is None:
            self._up(self._concealer.conceal(FRAME_SAMPLES), now, CONCEALED)
        elif released.payload_type == self._media.event_payload_type:
            digit = self._digits.push(payload, released.timestamp, released.marker)
            if digit is not None and self.on_digit is not None:
                self.on_digit(digit)
        else:
            flags = TALKSPURT if released.marker else 0
            self._up(self._concealer.good(self._law.decode(payload)), now, flags)

    def _up(self, pcm: bytes, now: float, flags: int) -> None:
        if len(pcm) == FRAME_BYTES and not self._pending:
            self._audio.received(pcm, now, flags)
            return
        self._pending += pcm  # another ptime than 20 ms
        while len(self._pending) >= FRAME_BYTES:
            self._audio.received(self._pending[:FRAME_BYTES], now, flags)
            self._pending = self._pending[FRAME_BYTES:]

    def _conceal(self) -> bytes:
        return self._concealer.conceal(FRAME_SAMPLES)

    # -- the agent -------------------------------------------------------------------------------------------

    def answered(self, now: float) -> None:
        """200 OK went out: packets may flow."""
        if self._next_at is None:
            self._next_at = now

    def tick(self, now: float) -> None:
        """Give up gaps whose time is over, make up for missing frames, send what is due."""
        deadline = self._in_order.deadline()
        if deadline is not None and deadline <= now:
            for released in self._in_order.expire(now):
                self._release(released, now)
        self._audio.fill(now, self._conceal)
        next_at = self._next_at
        if next_at is None or now < next_at:
            return
        if now - next_at > STALL_S:  # we were stalled: the timeline goes on in real time, no burst makes up for it
            missed = int((now - next_at) / FRAME_S)
            self._timestamp += missed * FRAME_SAMPLES
            next_at += missed * FRAME_S
        self._send_frame(next_at)

    def send_now(self, now: float) -> None:
        """A talkspurt begins. If its time has not come, it leaves early and the timeline remembers the lead."""
        next_at = self._next_at
        if next_at is None:
            return
        if now < next_at:
            self._lead_s += next_at - now
            self._send_frame(now)
        else:
            self.tick(now)

    def _send_frame(self, sent_at: float) -> None:
        self._next_at = sent_at + FRAME_S
        if not self.may_send:  # on hold: nothing is played, so that nothing counts as heard
            self._timestamp += FRAME_SAMPLES
            self._talking, self._lead_s = False, 0.0
            return
        pcm = self._audio.tick()
        marker = False
        if pcm is None:
            payload = self._silence
            if self._talking:
                self._talking = False
                self._next_at += self._lead_s
                self._lead_s = 0.0
        else:
            payload = self._law.encode(pcm)
            marker = not self._talking  # RFC 3551 §4.1: the first packet after a silence
            self._talking = True
        header = pack_header(
            self._media.payload_type, self._sequence & 0xFFFF, self._timestamp & 0xFFFFFFFF, self._ssrc, marker
        )
        try:
            self._sock.sendto(header + payload, self._remote)
            self.sent += 1
        except OSError:
            self.unsent += 1
        self._sequence += 1
        self._timestamp += FRAME_SAMPLES

    # -- changes ----------------------------------------------------------------------------------------------

    def redirect(self, remote: tuple[str, int], *, may_send: bool, media: MediaFormat | None = None) -> None:
        """A re-INVITE named another address, direction or codec: latch anew, unless the address stayed."""
        if remote != self._named:
            self._named = self._remote = remote
            self._latched = self._is_settled = False
        self.may_send = may_send
        if media is not None and media != self._media:
            self._media = media
            self._law = media.law
            self._silence = media.law.silence * FRAME_SAMPLES
            self._in_order.event_payload_type = media.event_payload_type
            self._pending = b""

    def statistics(self) -> MediaStatistics:
        """Counters of the call so far."""
        order, audio = self._in_order, self._audio
        uplink, playout = audio.uplink.counters, audio.playout.counters
        return MediaStatistics(
            rtp_received=order.received,
            rtp_lost=order.lost + order.jumped,
            rtp_late=order.late,
            rtp_duplicate=order.duplicate,
            rtp_foreign=self.foreign,
            rtp_malformed=self.malformed,
            rtp_sent=self.sent,
            rtp_unsent=self.unsent,
            up_concealed=order.lost,
            up_filled=uplink["filled"],
            up_published=audio.published,
            up_dropped=audio.unpublished + uplink["overrun"] + uplink["unowned"],
            dn_received=playout["received"],
            dn_control=playout["control"],
            dn_stale=playout["stale"],
            dn_fenced=playout["fenced"] - playout["discarded"] + audio.foreign,
            dn_malformed=audio.malformed,
            dn_lost=playout["lost"],
            dn_played=playout["played"],
            dn_trimmed=playout["trimmed"],
            dn_flushed=playout["flushed"],
            dn_discarded=playout["discarded"],
            dn_waiting=audio.playout.depth,
            dn_underrun=playout["underrun"],
        )
