"""DTMF digits: telephone events in RTP (RFC 4733), and the tones themselves (ITU-T Q.23)."""

import math
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

_PAYLOAD = struct.Struct("!BBH")
_DIGITS = "0123456789*#ABCD"  # by event code, RFC 4733 §3.2
_LONGEST_SEGMENT = 0xFFFF
_END_PACKETS = 3  # RFC 4733 §2.5.1.4: the last packet and two retransmissions


class DtmfError(ValueError):
    """Not a telephone-event payload, or not a DTMF digit."""


@dataclass(frozen=True, slots=True)
class TelephoneEvent:
    """The payload of one packet; `duration` is in timestamp units, `volume` in dBm0 without its minus sign."""

    event: int
    end: bool
    volume: int
    duration: int

    @classmethod
    def parse(cls, payload: bytes) -> "TelephoneEvent":
        """Parse the first event of a payload (RFC 4733 §2.3). Raises DtmfError when it is too short."""
        if len(payload) < _PAYLOAD.size:
            raise DtmfError(f"telephone-event payload has {len(payload)} bytes, needs {_PAYLOAD.size}")
        event, flags, duration = _PAYLOAD.unpack_from(payload)
        return cls(event, flags > 0x7F, flags & 0x3F, duration)

    def serialize(self) -> bytes:
        """Return the payload of four bytes."""
        return _PAYLOAD.pack(self.event, (0x80 if self.end else 0) | self.volume, self.duration)

    @property
    def digit(self) -> str | None:
        """The DTMF digit, None for other events (flash, modem tones)."""
        return _DIGITS[self.event] if self.event < len(_DIGITS) else None


class DtmfReceiver:
    """Turns the packets of events into digits, each reported once, at the first packet that tells of it.

    All packets of one event carry the timestamp of its beginning (RFC 4733 §2.5.1.2), so that alone tells
    repetitions from a new press, whichever packets are lost. The beginning is reported rather than the end: the
    last digit of a call would otherwise be lost with its end packets.
    """

    def __init__(self) -> None:
        self.malformed = 0
        """Payloads that were no telephone event; they are otherwise ignored."""
        self._reported: deque[int] = deque(maxlen=8)
        self._last: TelephoneEvent | None = None
        self._last_timestamp = 0

    def push(self, payload: bytes, timestamp: int, marker: bool) -> str | None:
        """Take one packet; return the digit if it is the first sign of one."""
        try:
            event = TelephoneEvent.parse(payload)
        except DtmfError:
            self.malformed += 1
            return None
        timestamp &= 0xFFFFFFFF
        if timestamp in self._reported:
            if timestamp == self._last_timestamp:
                self._last = event
            return None
        continues = not marker and self._continues(event, timestamp)
        self._reported.append(timestamp)
        self._last, self._last_timestamp = event, timestamp
        return None if continues else event.digit

    def _continues(self, event: TelephoneEvent, timestamp: int) -> bool:
        """RFC 4733 §2.5.1.3: an event longer than 65535 units goes on in a segment with a new timestamp."""
        last = self._last
        return (
            last is not None
            and last.event == event.event
            and not last.end
            and timestamp == (self._last_timestamp + _LONGEST_SEGMENT) & 0xFFFFFFFF
        )


class DtmfPacket(NamedTuple):
    """One packet to send `at_ms` after the first one, `timestamp_offset` after the timestamp of the first one."""

    payload: bytes
    timestamp_offset: int
    marker: bool
    at_ms: int


def dtmf_packets(
    digits: str,
    duration_ms: int = 100,
    gap_ms: int = 60,
    *,
    rate_hz: int = 8000,
    packet_ms: int = 20,
    volume: int = 10,
) -> Iterator[DtmfPacket]:
    """Yield the packets of `digits` (0-9, *, #, A-D, in either case), in the order of sending.

    The end packet is sent three times, `packet_ms` apart; the pause is lengthened if it does not hold them.
    Raises DtmfError for any other character, before the first packet.
    """
    events = [_event_code(digit) for digit in digits]
    packets = max(1, -(-duration_ms // packet_ms))
    pause_ms = max(gap_ms, _END_PACKETS * packet_ms)
    units_per_packet = packet_ms * rate_hz // 1000
    start_ms = 0
    for event in events:
        offset = start_ms * rate_hz // 1000
        for number in range(packets + _END_PACKETS - 1):
            end = number >= packets - 1
            duration = min(min(number + 1, packets) * units_per_packet, _LONGEST_SEGMENT)
            payload = TelephoneEvent(event, end, volume, duration).serialize()
            yield DtmfPacket(payload, offset, number == 0, start_ms + number * packet_ms)
        start_ms += packets * packet_ms + pause_ms


def _event_code(digit: str) -> int:
    code = _DIGITS.find(digit.upper())
    if code < 0:
        raise DtmfError(f"{digit!r} is not a DTMF digit")
    return code


_LOW_HZ = (697, 770, 852, 941)
_HIGH_HZ = (1209, 1336, 1477, 1633)
_KEYS = ("123A", "456B", "789C", "*0#D")
_LOW_DBFS, _HIGH_DBFS = -15.0, -13.0  # -9 and -7 dBm0; the high group is the stronger one, as lines attenuate it more
_RAMP_MS = 2  # a tone that starts at full level clicks, and the click's spectrum disturbs some receivers


def tones(digits: str, rate_hz: int, duration_ms: int = 100, gap_ms: int = 60) -> bytes:
    """Return the digits as audio (ITU-T Q.23), mono PCM16LE: for peers that take no telephone events.

    Each digit is `duration_ms` of both its frequencies and `gap_ms` of silence (Q.24 asks for 40 ms of each). Raises
    DtmfError as `dtmf_packets` does.
    """
    codes = [_event_code(digit) for digit in digits]
    gap = bytes(2 * (gap_ms * rate_hz // 1000))
    return b"".join(_tone(_DIGITS[code], rate_hz, duration_ms) + gap for code in codes)


@lru_cache(maxsize=64)
def _tone(digit: str, rate_hz: int, duration_ms: int) -> bytes:
    row = next(number for number, keys in enumerate(_KEYS) if digit in keys)
    column = _KEYS[row].index(digit)
    samples = duration_ms * rate_hz // 1000
    at = 2 * np.pi * np.arange(samples) / rate_hz
    low = 10 ** (_LOW_DBFS / 20) * np.sin(_LOW_HZ[row] * at)
    high = 10 ** (_HIGH_DBFS / 20) * np.sin(_HIGH_HZ[column] * at)
    ramp = min(_RAMP_MS * rate_hz // 1000, samples // 2)
    envelope = np.ones(samples)
    envelope[:ramp] = np.arange(ramp) / ramp
    envelope[samples - ramp :] = envelope[:ramp][::-1]
    return np.rint(32767 * math.sqrt(2) * envelope * (low + high)).astype("<i2").tobytes()
