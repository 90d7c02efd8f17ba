"""The send side of one call: which packet leaves when. A core without I/O.

One timeline: 160 units a packet, silence included. The first packet of a talkspurt leaves at once, up to 20 ms before
its time on that timeline; the pause after the talkspurt gives the lead back, so that it never adds up. Digits take the
place of the agent's audio, which waits for their end: as events where they were agreed on (RFC 4733), else as tones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from libs.audio.dtmf import dtmf_packets, tones
from libs.audio.rtp import pack_header
from services.sip_gateway.rtp_format import CLOCK_UNITS, FRAME_S, MediaFormat, RtpStart

STALL_S = 0.04
_FRAME_MS = 20
_DIGIT_MS, _GAP_MS = 100, 60  # RFC 4733 §2.5.1.3 leaves it open; Q.24 asks for 40 ms of each


class _Event(NamedTuple):
    """One slot of a digit as a telephone event; an empty payload is the pause between two."""

    payload: bytes
    marker: bool


class Outbound:
    """`source` gives the next 20 ms at the codec's rate or None for silence; `send` takes each packet.

    `send` gets the packet, the length of its payload and the slot's time.
    """

    def __init__(
        self,
        media: MediaFormat,
        start: RtpStart,
        source: Callable[[], bytes | None],
        send: Callable[[bytes, int, float], None],
    ) -> None:
        self.source = source
        self.may_send = True
        self.skipped = 0  # packets that had no time, since the process stood still
        self.ssrc = start.ssrc
        self._send = send
        self._sequence = start.sequence_number
        self._timestamp = start.timestamp
        self._event_timestamp = 0
        self._next_at: float | None = None
        self._lead_s = 0.0
        self._talking = False
        self._digits: deque[_Event | bytes] = deque()
        self._set_format(media)

    def _set_format(self, media: MediaFormat) -> None:
        self._media = media
        self._encoder = media.codec.encoder()

    def change(self, media: MediaFormat) -> None:
        """A re-INVITE agreed on another codec; digits that wait are given up when it changes how they are sent."""
        same_events = media.event_payload_type == self._media.event_payload_type
        if not (same_events and media.codec.rate_hz == self._media.codec.rate_hz):
            self._digits.clear()
        if media.codec is not self._media.codec:
            self._set_format(media)
        self._media = media

    @property
    def is_running(self) -> bool:
        """Whether packets flow, but for a hold."""
        return self._next_at is not None

    @property
    def timestamp(self) -> int:
        """RTP timestamp of the next packet, as on the wire."""
        return self._timestamp & 0xFFFFFFFF

    def begin(self, now: float) -> None:
        """Packets may flow."""
        if self._next_at is None:
            self._next_at = now

    # -- digits --------------------------------------------------------------------------------------------------

    @property
    def is_sending_digits(self) -> bool:
        """Whether digits are on their way or wait."""
        return bool(self._digits)

    def send_digits(self, digits: str) -> None:
        """Queue digits. Raises DtmfError, and then none of them is sent."""
        if self._media.event_payload_type is None:
            pcm = tones(digits, self._media.codec.rate_hz, _DIGIT_MS, _GAP_MS)
            size = 2 * self._media.frame_samples
            self._digits.extend(pcm[start : start + size] for start in range(0, len(pcm), size))
            return
        slots: list[_Event | bytes] = [_Event(b"", False)] * (len(digits) * (_DIGIT_MS + _GAP_MS) // _FRAME_MS)
        for packet in dtmf_packets(digits, _DIGIT_MS, _GAP_MS, packet_ms=_FRAME_MS):
            slots[packet.at_ms // _FRAME_MS] = _Event(packet.payload, packet.marker)
        self._digits.extend(slots)

    def _digit_slot(self, slot: _Event | bytes, sent_at: float) -> None:
        media = self._media
        if isinstance(slot, bytes):
            self._packet(media.payload_type, self._timestamp, self._encoder.encode(slot), sent_at)
        elif slot.payload and media.event_payload_type is not None:
            if slot.marker:  # all packets of one event carry the timestamp of its beginning (RFC 4733 §2.5.1.2)
                self._event_timestamp = self._timestamp
            self._packet(media.event_payload_type, self._event_timestamp, slot.payload, sent_at, slot.marker)
        else:
            self._packet(media.payload_type, self._timestamp, self._encoder.silence_frame(), sent_at)

    # -- the timeline --------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Send what is due."""
        next_at = self._next_at
        if next_at is None or now < next_at:
            return
        if now - next_at > STALL_S:  # we were stalled: the timeline goes on in real time, no burst makes up for it
            missed = int((now - next_at) / FRAME_S)
            self.skipped += missed
            self._timestamp += missed * CLOCK_UNITS
            next_at += missed * FRAME_S
        self._slot(next_at)

    def send_now(self, now: float) -> None:
        """A talkspurt begins. If its time has not come, it leaves early and the timeline remembers the lead."""
        next_at = self._next_at
        if next_at is None or self._digits:
            return
        if now < next_at:
            self._lead_s += next_at - now
            self._slot(now)
        else:
            self.tick(now)

    def _slot(self, sent_at: float) -> None:
        self._next_at = sent_at + FRAME_S
        if not self.may_send:  # on hold: nothing is played, so that nothing counts as heard
            self._talking, self._lead_s = False, 0.0
        elif self._digits:
            self._pause()
            self._digit_slot(self._digits.popleft(), sent_at)
        else:
            pcm = self.source()
            if pcm is None:
                self._pause()
                self._packet(self._media.payload_type, self._timestamp, self._encoder.silence_frame(), sent_at)
            else:
                # RFC 3551 §4.1: the first packet after a silence is marked
                marker, self._talking = not self._talking, True
                self._packet(self._media.payload_type, self._timestamp, self._encoder.encode(pcm), sent_at, marker)
        self._timestamp += CLOCK_UNITS

    def _pause(self) -> None:
        if self._talking:
            assert self._next_at is not None
            self._talking = False
            self._next_at += self._lead_s
            self._lead_s = 0.0

    def _packet(self, payload_type: int, timestamp: int, payload: bytes, sent_at: float, marker: bool = False) -> None:
        header = pack_header(payload_type, self._sequence & 0xFFFF, timestamp & 0xFFFFFFFF, self.ssrc, marker)
        self._sequence += 1
        self._send(header + payload, len(payload), sent_at)
