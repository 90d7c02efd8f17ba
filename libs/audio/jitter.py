"""Puts received RTP packets back in order and says what is missing. It adds no delay to packets in order.

Theory of operation. `_next` is the extended sequence number that goes out next. A packet that has it is released
in the same call, with the packets held behind it. A packet beyond it opens a gap: it is held, until the missing
ones arrive, `reorder_ms` have passed since the first packet behind the gap arrived, or `max_held` packets wait.
Then the gap is given up: up to `max_conceal` missing frames come out as concealment, the rest is passed over.
Playout at a steady pace is not done here: upstream wants speech at once, and RTP senders pace for themselves.
"""

from collections import deque
from typing import NamedTuple

from libs.audio.rtp import RtpPacket, Unwrapper

COMFORT_NOISE_PT = 13  # RFC 3389; it shares the sequence numbers of the audio it stands for
_MAX_JUMP = 1000  # sequence numbers; more is a peer that restarted (in the spirit of RFC 3550 appendix A.1)


class Released(NamedTuple):
    """One frame in order; `payload` is None for one that was lost and is to be concealed.

    `timestamp` is extended and never wraps within one stream. `timestamp_gap_samples` is the time before this
    frame in which the peer sent no audio, although no packet is missing (silence suppression, telephone events)
    or although more are missing than were concealed. It is as the peer says, up to 2^31: bound it before filling it.
    """

    payload: bytes | None
    timestamp: int
    marker: bool
    timestamp_gap_samples: int
    payload_type: int = 0
    samples: int = 0
    """For a lost frame: how long the packets of this stream are, in units of the RTP timestamp."""


class InOrderRelease:
    """The receive side of one RTP stream, as packets in and frames out.

    A concealed frame is as long as the last packet was, `frame_samples` before the first one. Packets of
    `event_payload_type` (RFC 4733) and of comfort noise are put in order with the audio, since they share its sequence
    numbers, but take no part in its timeline. One byte of audio is one unit of the timestamp, as in G.711 and G.722.
    """

    def __init__(
        self,
        frame_samples: int = 160,
        reorder_ms: int = 60,
        max_held: int = 10,
        max_conceal: int = 5,
        *,
        event_payload_type: int | None = None,
    ) -> None:
        self._frame_samples = frame_samples
        self._reorder_s = reorder_ms / 1000
        self._max_held = max_held
        self._max_conceal = max_conceal
        self.event_payload_type = event_payload_type
        """May change within a stream, with the session description."""
        self.received = 0
        """Packets pushed."""
        self.released = 0
        """Packets that came out."""
        self.late = 0
        """Packets dropped because they had been given up, or precede the first one."""
        self.duplicate = 0
        """Packets dropped because the same one is held or came out."""
        self.lost = 0
        """Missing frames that came out as concealment."""
        self.jumped = 0
        """Missing frames that were passed over without concealment."""
        self.reordered = 0
        """Packets that came after a later one and were still in time."""
        self.resets = 0
        """Times the stream began anew (other SSRC, or sequence number far off)."""
        self._ssrc: int | None = None
        self._begin(None)

    def _begin(self, packet: RtpPacket | None) -> None:
        self._sequence = Unwrapper(16)
        self._timestamps = Unwrapper(32)
        self._next = self._first = self._highest = 0
        self._held: dict[int, tuple[RtpPacket, float]] = {}  # by arrival, each with its time of arrival
        self._given_up: deque[tuple[int, int]] = deque(maxlen=32)
        self._expected_timestamp: int | None = None
        self._payload_type = 0
        if packet is not None:
            self._ssrc = packet.ssrc
            self._payload_type = packet.payload_type
            self._next = self._first = self._highest = self._sequence.extend(packet.sequence_number)

    def push(self, packet: RtpPacket, now: float) -> list[Released]:
        """Take one packet that arrived at `now` (seconds, monotonic) and return what may go out at once."""
        self.received += 1
        out: list[Released] = []
        if packet.ssrc != self._ssrc:
            self._restart(packet, out)
        number = self._sequence.extend(packet.sequence_number)
        if abs(number - self._next) > _MAX_JUMP:
            self._restart(packet, out)
            number = self._next
        if number < self._next:
            self._drop(number)
        elif number in self._held:
            self.duplicate += 1
        else:
            if number < self._highest:
                self.reordered += 1
            self._highest = max(self._highest, number)
            if number == self._next:
                self._release(packet, out)
                self._release_consecutive(out)
            else:
                self._held[number] = packet, now
                if len(self._held) >= self._max_held:
                    self._give_up_gap(out)
        return out

    def deadline(self) -> float | None:
        """Return when `expire` wants to be called, None while nothing is held."""
        for _, arrived_at in self._held.values():
            return arrived_at + self._reorder_s  # the first held is the oldest
        return None

    def expire(self, now: float) -> list[Released]:
        """Give up the gaps whose time is over and return what lay behind them."""
        out: list[Released] = []
        while (deadline := self.deadline()) is not None and now >= deadline:
            self._give_up_gap(out)
        return out

    def _restart(self, packet: RtpPacket, out: list[Released]) -> None:
        """Let go what is held of the old stream, without concealment, and begin with `packet`."""
        if self._ssrc is not None:
            self.resets += 1
        for number in sorted(self._held):
            self.jumped += number - self._next
            self._next = number
            self._release(self._held[number][0], out)
        self._begin(packet)

    def _drop(self, number: int) -> None:
        if number < self._first or any(start <= number < stop for start, stop in self._given_up):
            self.late += 1
        else:
            self.duplicate += 1

    def _give_up_gap(self, out: list[Released]) -> None:
        behind = min(self._held)
        missing = behind - self._next
        self._given_up.append((self._next, behind))
        for _ in range(min(missing, self._max_conceal)):
            self.lost += 1
            timestamp = self._expected_timestamp
            if timestamp is None:  # no audio yet to continue: nothing to repeat, nothing to date it by
                timestamp = self._timestamps.extend(self._held[behind][0].timestamp)
            else:
                self._expected_timestamp = timestamp + self._frame_samples
            out.append(Released(None, timestamp, False, 0, self._payload_type, self._frame_samples))
        self.jumped += max(0, missing - self._max_conceal)
        self._next = behind
        self._release_consecutive(out)

    def _release_consecutive(self, out: list[Released]) -> None:
        while self._held and (entry := self._held.pop(self._next, None)) is not None:
            self._release(entry[0], out)

    def _release(self, packet: RtpPacket, out: list[Released]) -> None:
        self._next += 1
        self.released += 1
        timestamp = self._timestamps.extend(packet.timestamp)
        gap = 0
        if packet.payload_type not in (self.event_payload_type, COMFORT_NOISE_PT):
            if self._expected_timestamp is not None:
                gap = max(0, timestamp - self._expected_timestamp)
            self._expected_timestamp = timestamp + len(packet.payload)
            self._frame_samples = len(packet.payload) or self._frame_samples
            self._payload_type = packet.payload_type
        out.append(Released(packet.payload, timestamp, packet.marker, gap, packet.payload_type))
