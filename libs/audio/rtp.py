"""RTP packets and the arithmetic of their wrapping counters (RFC 3550 §5.1, §5.3.1)."""

import struct
from typing import NamedTuple

_HEADER = struct.Struct("!BBHII")
HEADER_BYTES = 12


class RtpError(ValueError):
    """The datagram is not an RTP packet."""


def uint16_add(a: int, b: int) -> int:
    """Return a + b modulo 2^16."""
    return (a + b) & 0xFFFF


def uint16_gt(a: int, b: int) -> bool:
    """Tell whether a comes after b, less than half the number circle away."""
    return 0 < ((a - b) & 0xFFFF) < 0x8000


def uint32_add(a: int, b: int) -> int:
    """Return a + b modulo 2^32."""
    return (a + b) & 0xFFFFFFFF


def uint32_gt(a: int, b: int) -> bool:
    """Tell whether a comes after b, less than half the number circle away."""
    return 0 < ((a - b) & 0xFFFFFFFF) < 0x80000000


def pack_header(payload_type: int, sequence_number: int, timestamp: int, ssrc: int, marker: bool = False) -> bytes:
    """Return the 12 byte header without CSRC, extension and padding; the payload follows it on the wire."""
    return _HEADER.pack(0x80, 0x80 | payload_type if marker else payload_type, sequence_number, timestamp, ssrc)


class RtpPacket(NamedTuple):
    """One packet; `sequence_number` and `timestamp` are as on the wire (16 and 32 bits, wrapping)."""

    payload_type: int
    sequence_number: int
    timestamp: int
    ssrc: int
    payload: bytes
    marker: bool = False

    @classmethod
    def parse(cls, data: bytes) -> "RtpPacket":
        """Parse one datagram; CSRC list, header extension and padding are skipped.

        Raises RtpError when it is truncated, of another version, or RTCP on the RTP port (RFC 5761 §4).
        """
        length = len(data)
        if length < HEADER_BYTES:
            raise RtpError(f"{length} bytes are shorter than the RTP header of {HEADER_BYTES}")
        first, second, sequence_number, timestamp, ssrc = _HEADER.unpack_from(data)
        if first >> 6 != 2:
            raise RtpError(f"RTP version is {first >> 6}, not 2")
        payload_type = second & 0x7F
        if 72 <= payload_type <= 76:
            raise RtpError(f"payload type {payload_type} is reserved, this is RTCP packet type {payload_type + 128}")
        payload = data[HEADER_BYTES:] if first == 0x80 else data[_payload_start(data) : _payload_end(data)]
        return cls(payload_type, sequence_number, timestamp, ssrc, payload, second > 127)

    def serialize(self) -> bytes:
        """Return the packet as one datagram."""
        return (
            pack_header(self.payload_type, self.sequence_number, self.timestamp, self.ssrc, self.marker) + self.payload
        )


def _payload_start(data: bytes) -> int:
    start = HEADER_BYTES + 4 * (data[0] & 0x0F)
    if start > len(data):
        raise RtpError(f"CSRC list ends at byte {start} of a packet of {len(data)} bytes")
    if data[0] & 0x10:  # RFC 3550 §5.3.1: profile, length in 32-bit words, words
        if start + 4 > len(data):
            raise RtpError("header extension is truncated before its length")
        start += 4 + 4 * int.from_bytes(data[start + 2 : start + 4], "big")
        if start > len(data):
            raise RtpError(f"header extension ends at byte {start} of a packet of {len(data)} bytes")
    return start


def _payload_end(data: bytes) -> int:
    if not data[0] & 0x20:
        return len(data)
    available = len(data) - _payload_start(data)
    padding = data[-1] if available else 0
    if not 0 < padding <= available:
        raise RtpError(f"padding of {padding} bytes does not fit the {available} bytes after the header")
    return len(data) - padding


class Unwrapper:
    """Extends a wrapping counter of `bits` bits to an integer that never wraps.

    The first value stays as it is. Each later one is taken as the nearest to the highest seen so far, so both a
    roll-over and packets reordered around it come out right; values older than the first may be negative.
    """

    def __init__(self, bits: int) -> None:
        self._mask = (1 << bits) - 1
        self._half = 1 << (bits - 1)
        self._highest: int | None = None

    def extend(self, value: int) -> int:
        """Return the extended value, equal to `value` modulo 2^bits."""
        if self._highest is None:
            self._highest = value
            return value
        extended = self._highest + ((value - self._highest + self._half) & self._mask) - self._half
        self._highest = max(self._highest, extended)
        return extended
