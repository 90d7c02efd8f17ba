"""What the phone hears: one growing timeline placed by RTP timestamp, and statistics of the stream. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from libs.audio.codec import CLOCK_HZ, Decoder
from libs.audio.rtp import RtpPacket, Unwrapper

# A timestamp further off than this is a new clock, not a pause: the audio is placed by its time of arrival.
_MAX_JUMP = 30 * CLOCK_HZ


class HeardPacket(NamedTuple):
    """Where one packet's audio lies in `heard`, and when it came (`time.monotonic()`)."""

    position_samples: int
    samples: int
    arrived_at: float
    sequence_number: int
    marker: bool


@dataclass(slots=True)
class StreamStats:
    """Counters of the received stream. `interarrival_ms` has one entry per packet after the first."""

    packets: int = 0
    lost: int = 0
    out_of_order: int = 0
    duplicates: int = 0
    malformed: int = 0
    other_payload: int = 0
    ssrc_changes: int = 0
    first_packet_at: float | None = None
    last_packet_at: float | None = None
    ssrc: int | None = None
    markers: list[int] = field(default_factory=list)
    interarrival_ms: list[float] = field(default_factory=list)


class Timeline:
    """Places decoded audio by RTP timestamp; gaps are silence. `pcm` is 16-bit little-endian at `rate_hz`."""

    def __init__(self, decoders: Mapping[int, Decoder], max_s: float = 3600.0, *, rate_hz: int = CLOCK_HZ) -> None:
        self.pcm = bytearray()
        self.packets: list[HeardPacket] = []
        self.stats = StreamStats()
        self._decoders = decoders
        self._rate_hz = rate_hz
        self._max_samples = int(max_s * rate_hz)
        self._sequence = Unwrapper(16)
        self._timestamp = Unwrapper(32)
        self._offset: int | None = None
        self._first_sequence = 0
        self._highest_sequence = 0
        self._received = 0
        self._lost_before = 0
        self._recent: deque[int] = deque(maxlen=512)

    def push(self, packet: RtpPacket, arrived_at: float) -> bytes | None:
        """Take one packet; gives its audio, None for repeated packets and for another payload."""
        stats = self.stats
        if stats.last_packet_at is None:
            stats.first_packet_at = arrived_at
        else:
            stats.interarrival_ms.append((arrived_at - stats.last_packet_at) * 1000)
        stats.last_packet_at = arrived_at
        stats.packets += 1
        if packet.ssrc != stats.ssrc:
            self._new_stream(packet)
        if not self._count(packet):
            return None
        decoder = self._decoders.get(packet.payload_type)
        if decoder is None:
            stats.other_payload += 1
            return None
        pcm = decoder.decode(packet.payload)
        self._place(packet, pcm, arrived_at)
        return pcm

    def _new_stream(self, packet: RtpPacket) -> None:
        if self.stats.ssrc is not None:
            self.stats.ssrc_changes += 1
            self._lost_before = self.stats.lost
        self.stats.ssrc = packet.ssrc
        self._sequence, self._timestamp = Unwrapper(16), Unwrapper(32)
        self._first_sequence = self._highest_sequence = packet.sequence_number
        self._received = 0
        self._recent.clear()
        self._offset = None

    def _count(self, packet: RtpPacket) -> bool:
        """Loss and order by extended sequence number (RFC 3550 A.3); False for a duplicate."""
        stats = self.stats
        number = self._sequence.extend(packet.sequence_number)
        if number in self._recent:
            stats.duplicates += 1
            return False
        self._recent.append(number)
        self._received += 1
        self._first_sequence = min(self._first_sequence, number)
        if number < self._highest_sequence:
            stats.out_of_order += 1
        self._highest_sequence = max(self._highest_sequence, number)
        stats.lost = self._lost_before + self._highest_sequence - self._first_sequence + 1 - self._received
        return True

    def _place(self, packet: RtpPacket, pcm: bytes, arrived_at: float) -> None:
        timestamp = self._timestamp.extend(packet.timestamp)
        end, per_unit = len(self.pcm) // 2, self._rate_hz // CLOCK_HZ
        if self._offset is None or abs(timestamp - self._offset - end // per_unit) > _MAX_JUMP:
            first_at = self.stats.first_packet_at or arrived_at
            elapsed = int((arrived_at - first_at) * CLOCK_HZ) if self.packets else 0
            self._offset = timestamp - max(end // per_unit, elapsed)
        position = (timestamp - self._offset) * per_unit
        samples = len(pcm) // 2
        if packet.marker:
            self.stats.markers.append(position)
        if position < 0 or position + samples > self._max_samples:
            return
        if position > end:
            self.pcm.extend(bytes(2 * (position - end)))
        self.pcm[2 * position : 2 * (position + samples)] = pcm
        self.packets.append(HeardPacket(position, samples, arrived_at, packet.sequence_number, packet.marker))
