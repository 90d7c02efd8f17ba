"""RTCP: packets, reception statistics and the reports of one end of a stream (RFC 3550 §6, appendix A). No I/O.

Theory of operation. `RtcpReporter` is one end of one call. It hears of every RTP packet received (`reception`) and
sent (`rtp_sent`), says when the next report is due (`due_at`), and builds it: a sender report when we sent since the
last two, else a receiver report, always with our CNAME (§6.1). What the peer reports about our stream ends up in
`remote`, with the round trip from its LSR and DLSR (§6.4.1). The NTP time in our reports is time since the process
started, which §6.4.1 allows who does not want to name the wall clock; round trips need no more.
"""

import struct
from dataclasses import dataclass
from typing import NamedTuple

_HEADER = struct.Struct("!BBH")
_WORD = struct.Struct("!I")
_SENDER_INFO = struct.Struct("!QIII")
_BLOCK = struct.Struct("!IIIIII")
SR, RR, SDES, BYE, APP = 200, 201, 202, 203, 204
_CNAME = 1
_MAX_DROPOUT = 3000  # appendix A.1: a minute at 20 ms; what jumps farther either way began anew
INTERVAL_S = 5.0  # §6.2: the recommended minimum; two ends of one call never need more
_LONGEST_ROUND_TRIP_S = 30.0  # more is a report about nothing that we sent
_GOLDEN = 0x9E3779B9  # 2^32 / golden ratio: its multiples fall evenly over the circle


class RtcpError(ValueError):
    """The datagram is not a compound RTCP packet."""


class ReportBlock(NamedTuple):
    """What one end received of the source `ssrc` (§6.4.1). `fraction_lost` is in 1/256, `jitter` in clock units."""

    ssrc: int
    fraction_lost: int
    cumulative_lost: int
    highest_sequence: int
    jitter: int
    last_sr: int = 0
    delay_since_last_sr: int = 0

    def serialize(self) -> bytes:
        """24 bytes."""
        lost = max(-0x800000, min(self.cumulative_lost, 0x7FFFFF)) & 0xFFFFFF
        return _BLOCK.pack(
            self.ssrc, self.fraction_lost << 24 | lost, self.highest_sequence & 0xFFFFFFFF, self.jitter & 0xFFFFFFFF,
            self.last_sr, self.delay_since_last_sr,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class SenderReport:
    """SR (§6.4.1). `ntp` has 32 bits of seconds before 32 of their fraction."""

    ssrc: int
    ntp: int
    rtp_timestamp: int
    packets: int
    octets: int
    blocks: tuple[ReportBlock, ...] = ()

    def serialize(self) -> bytes:
        """The packet, with its header."""
        info = _SENDER_INFO.pack(
            self.ntp, self.rtp_timestamp & 0xFFFFFFFF, self.packets & 0xFFFFFFFF, self.octets & 0xFFFFFFFF
        )
        body = _WORD.pack(self.ssrc) + info + b"".join(block.serialize() for block in self.blocks)
        return _packet(SR, len(self.blocks), body)


@dataclass(frozen=True, slots=True)
class ReceiverReport:
    """RR (§6.4.2)."""

    ssrc: int
    blocks: tuple[ReportBlock, ...] = ()

    def serialize(self) -> bytes:
        """The packet, with its header."""
        body = _WORD.pack(self.ssrc) + b"".join(block.serialize() for block in self.blocks)
        return _packet(RR, len(self.blocks), body)


@dataclass(frozen=True, slots=True)
class SourceDescription:
    """SDES with the one item that is mandatory, CNAME (§6.5)."""

    ssrc: int
    cname: str

    def serialize(self) -> bytes:
        """The packet, with its header."""
        name = self.cname.encode()[:255]
        chunk = _WORD.pack(self.ssrc) + bytes((_CNAME, len(name))) + name + b"\0"
        return _packet(SDES, 1, chunk + bytes(-len(chunk) % 4))


@dataclass(frozen=True, slots=True)
class Goodbye:
    """BYE (§6.6)."""

    ssrcs: tuple[int, ...]
    reason: str = ""

    def serialize(self) -> bytes:
        """The packet, with its header."""
        body = b"".join(_WORD.pack(ssrc) for ssrc in self.ssrcs)
        if self.reason:
            text = self.reason.encode()[:255]
            body += bytes((len(text),)) + text
        return _packet(BYE, len(self.ssrcs), body + bytes(-len(body) % 4))


RtcpPacket = SenderReport | ReceiverReport | SourceDescription | Goodbye


def _packet(kind: int, count: int, body: bytes) -> bytes:
    return _HEADER.pack(0x80 | count, kind, len(body) // 4) + body


def is_rtcp(data: bytes) -> bool:
    """Tell RTCP from RTP on one port (RFC 5761 §4)."""
    return len(data) > 1 and 192 <= data[1] <= 223


def parse(data: bytes) -> list[RtcpPacket]:
    """Read a compound packet; kinds that we do not know are skipped (§6.1). SDES chunks without CNAME are, too.

    It need not begin with a report (RFC 5506): baresip opens its firewall with an APP alone. Raises RtcpError when it
    is truncated, of another version, or no RTCP (appendix A.2).
    """
    found: list[RtcpPacket] = []
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise RtcpError(f"{len(data) - at} bytes are left, an RTCP header has 4")
        first, kind, words = _HEADER.unpack_from(data, at)
        end = at + 4 + 4 * words
        if first >> 6 != 2:
            raise RtcpError(f"RTCP version is {first >> 6}, not 2")
        if end > len(data):
            raise RtcpError(f"packet of {end - at} bytes is cut off after {len(data) - at}")
        if not 192 <= kind <= 223:
            raise RtcpError(f"type {kind} is no RTCP packet type")
        body = data[at + 4 : end - _padding(data, first, at, end)]
        packet = _read(kind, first & 0x1F, body)
        if packet is not None:
            found.append(packet)
        at = end
    if not data:
        raise RtcpError("the datagram is empty")
    return found


def _padding(data: bytes, first: int, at: int, end: int) -> int:
    if not first & 0x20:
        return 0
    padding = data[end - 1]
    if end != len(data) or not 0 < padding <= end - at - 4:
        raise RtcpError(f"padding of {padding} bytes is not at the end, or does not fit")
    return padding


def _read(kind: int, count: int, body: bytes) -> RtcpPacket | None:
    if kind == SR:
        if len(body) < 24 + 24 * count:
            raise RtcpError(f"sender report of {len(body)} bytes does not hold {count} blocks")
        ntp, rtp_timestamp, packets, octets = _SENDER_INFO.unpack_from(body, 4)
        return SenderReport(_ssrc(body), ntp, rtp_timestamp, packets, octets, _blocks(body, 24, count))
    if kind == RR:
        if len(body) < 4 + 24 * count:
            raise RtcpError(f"receiver report of {len(body)} bytes does not hold {count} blocks")
        return ReceiverReport(_ssrc(body), _blocks(body, 4, count))
    if kind == SDES:
        return _read_cname(body) if count else None
    if kind == BYE:
        if len(body) < 4 * count:
            raise RtcpError(f"BYE of {len(body)} bytes does not hold {count} sources")
        reason = body[4 * count + 1 :][: body[4 * count]] if len(body) > 4 * count else b""
        ssrcs = tuple(ssrc for (ssrc,) in _WORD.iter_unpack(body[: 4 * count]))
        return Goodbye(ssrcs, reason.decode(errors="replace"))
    return None


def _ssrc(body: bytes) -> int:
    return int.from_bytes(body[:4], "big")


def _blocks(body: bytes, start: int, count: int) -> tuple[ReportBlock, ...]:
    found = []
    for fields in _BLOCK.iter_unpack(body[start : start + 24 * count]):
        ssrc, loss, *rest = fields
        lost = loss & 0xFFFFFF
        found.append(ReportBlock(ssrc, loss >> 24, lost - 0x1000000 if lost & 0x800000 else lost, *rest))
    return tuple(found)


def _read_cname(body: bytes) -> SourceDescription | None:
    at = 4
    while at + 2 <= len(body) and body[at]:
        kind, length = body[at], body[at + 1]
        if at + 2 + length > len(body):
            raise RtcpError(f"SDES item of {length} bytes is cut off")
        if kind == _CNAME:
            return SourceDescription(_ssrc(body), body[at + 2 : at + 2 + length].decode(errors="replace"))
        at += 2 + length
    return None


def interval_s(chance: float, *, is_first: bool = False) -> float:
    """Time to the next report: 0.5 to 1.5 times 5 s, half of that before the first (§6.2, §6.3.1).

    `chance` lies between 0 and 1; it keeps many calls from reporting at once.
    """
    return INTERVAL_S * (0.5 + chance) / (2 if is_first else 1)


class ReceptionStatistics:
    """What was received of one source: losses (A.3) and interarrival jitter (A.8), at a clock of `clock_hz`."""

    def __init__(self, clock_hz: int = 8000) -> None:
        self._clock_hz = clock_hz
        self.ssrc: int | None = None
        self._begin(0)

    def _begin(self, sequence_number: int) -> None:
        self._first = self._highest = sequence_number  # extended: they never wrap
        self._received = self._expected_before = self._received_before = 0
        self._transit: int | None = None
        self._jitter = 0.0

    def received(self, ssrc: int, sequence_number: int, timestamp: int | None, now: float) -> None:
        """Count a packet; `timestamp` None leaves it out of the jitter (an event's does not move with time)."""
        if ssrc != self.ssrc:
            self._begin(sequence_number)
            self.ssrc = ssrc
        self._received += 1
        ahead = (sequence_number - self._highest) & 0xFFFF
        if ahead < _MAX_DROPOUT:
            self._highest += ahead
        elif ahead < 0x10000 - _MAX_DROPOUT:
            self._begin(sequence_number)
            self._received = 1
        if timestamp is None:
            return
        transit = int(now * self._clock_hz) - timestamp & 0xFFFFFFFF
        last, self._transit = self._transit, transit
        if last is not None:
            # A.8; the difference is taken on the circle of 32 bits, so that a wrap is no jump
            difference = abs(((transit - last + 0x80000000) & 0xFFFFFFFF) - 0x80000000)
            if difference < self._clock_hz:  # a second or more: the peer's clock began anew, or it paused
                self._jitter += (difference - self._jitter) / 16

    @property
    def jitter_ms(self) -> float | None:
        """Interarrival jitter, None before a packet came."""
        return None if self.ssrc is None else self._jitter * 1000 / self._clock_hz

    @property
    def cumulative_lost(self) -> int:
        """Expected less received; duplicates count as received, so it may be negative (A.3)."""
        return self._highest - self._first + 1 - self._received if self.ssrc is not None else 0

    def block(self, last_sr: int, delay_since_last_sr: int) -> ReportBlock | None:
        """The report about this source, and the beginning of the next one's interval; None before a packet came."""
        if self.ssrc is None:
            return None
        expected = self._highest - self._first + 1
        expected_interval = expected - self._expected_before
        lost_interval = expected_interval - (self._received - self._received_before)
        self._expected_before, self._received_before = expected, self._received
        fraction = min(255, (lost_interval << 8) // expected_interval) if expected_interval and lost_interval > 0 else 0
        return ReportBlock(
            self.ssrc, fraction, expected - self._received, self._highest & 0xFFFFFFFF, int(self._jitter),
            last_sr, delay_since_last_sr,
        )  # fmt: skip


@dataclass(slots=True)
class RemoteReport:
    """What the peer says about our stream; None until it does."""

    lost: int | None = None
    fraction_lost: float | None = None
    jitter_ms: float | None = None
    round_trip_ms: float | None = None


class RtcpReporter:
    """One end of a call. `ssrc` is ours and random (RFC 3550 §8): the spread of our reports follows from it."""

    def __init__(self, ssrc: int, cname: str, clock_hz: int = 8000) -> None:
        self.ssrc = ssrc
        self.cname = cname
        self.reception = ReceptionStatistics(clock_hz)
        self.remote = RemoteReport()
        self.remote_cname = ""
        self.has_left = False
        """The peer said BYE."""
        self._clock_hz = clock_hz
        self._chance = ssrc & 0xFFFFFFFF
        self.due_at: float | None = None
        """When `report` wants to be called; None before `start` and after `goodbye`."""
        self._packets = self._octets = 0
        self._packets_before = (0, 0)  # at the last report and the one before
        self._timestamp, self._sent_at = 0, 0.0
        self._last_sr, self._last_sr_at = 0, 0.0

    def _next_interval(self, is_first: bool) -> float:
        self._chance = self._chance + _GOLDEN & 0xFFFFFFFF
        return interval_s(self._chance / 2**32, is_first=is_first)

    def start(self, now: float) -> None:
        """RTP may flow: the first report is due soon."""
        if self.due_at is None:
            self.due_at = now + self._next_interval(is_first=True)

    def stop(self) -> None:
        """No reports until `start`."""
        self.due_at = None

    def rtp_sent(self, payload_bytes: int, timestamp: int, now: float) -> None:
        """An RTP packet went out."""
        self._packets += 1
        self._octets += payload_bytes
        self._timestamp, self._sent_at = timestamp, now

    def report(self, now: float) -> bytes:
        """The compound packet that is due."""
        self.due_at = now + self._next_interval(is_first=False)
        return self._report(now) + SourceDescription(self.ssrc, self.cname).serialize()

    def goodbye(self, now: float, reason: str = "") -> bytes:
        """The last compound packet (§6.6)."""
        self.due_at = None
        description = SourceDescription(self.ssrc, self.cname).serialize()
        return self._report(now) + description + Goodbye((self.ssrc,), reason).serialize()

    def _report(self, now: float) -> bytes:
        delay = int((now - self._last_sr_at) * 65536) if self._last_sr_at else 0
        block = self.reception.block(self._last_sr, max(0, delay) & 0xFFFFFFFF)
        blocks = () if block is None else (block,)
        was_sender = self._packets > self._packets_before[1]  # §6.4: sent since the last two reports
        self._packets_before = (self._packets, self._packets_before[0])
        if not was_sender:
            return ReceiverReport(self.ssrc, blocks).serialize()
        timestamp = self._timestamp + int((now - self._sent_at) * self._clock_hz)  # the same instant as `ntp`
        return SenderReport(
            self.ssrc, int(now * 2**32) & 0xFFFFFFFFFFFFFFFF, timestamp, self._packets, self._octets, blocks
        ).serialize()

    def receive(self, data: bytes, now: float) -> None:
        """Read the peer's compound packet. Raises RtcpError, and then nothing has changed."""
        for packet in parse(data):
            match packet:
                case SenderReport():
                    self._last_sr, self._last_sr_at = packet.ntp >> 16 & 0xFFFFFFFF, now
                    self._read_blocks(packet.blocks, now)
                case ReceiverReport():
                    self._read_blocks(packet.blocks, now)
                case SourceDescription():
                    self.remote_cname = packet.cname
                case Goodbye():
                    self.has_left = True

    def _read_blocks(self, blocks: tuple[ReportBlock, ...], now: float) -> None:
        for block in blocks:
            if block.ssrc != self.ssrc:
                continue
            remote = self.remote
            remote.lost = block.cumulative_lost
            remote.fraction_lost = block.fraction_lost / 256
            remote.jitter_ms = block.jitter * 1000 / self._clock_hz
            if block.last_sr:
                # §6.4.1: in units of 1/65536 s, on a circle of 18 hours
                units = (int(now * 65536) - block.last_sr - block.delay_since_last_sr) & 0xFFFFFFFF
                if units > 0xFFFF0000:  # both ends round, so a short one may come out below nothing
                    units = 0
                if units < _LONGEST_ROUND_TRIP_S * 65536:
                    remote.round_trip_ms = units * 1000 / 65536
