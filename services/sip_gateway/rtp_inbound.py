"""The caller's packets on their way to frames of 20 ms at the codec's rate. A core without I/O."""

from __future__ import annotations

from collections.abc import Callable

from libs.audio.conceal import Concealer
from libs.audio.dtmf import DtmfReceiver
from libs.audio.jitter import COMFORT_NOISE_PT, InOrderRelease, Released
from libs.audio.rtp import RtpPacket
from libs.contracts.frame import Flag
from services.sip_gateway.rtp_format import MediaFormat

TALKSPURT, CONCEALED = Flag.TALKSPURT.value, Flag.CONCEALED.value  # plain integers: enum arithmetic is slow


class Inbound:
    """`deliver` gets each frame with its flags, `on_digit` each telephone event once."""

    def __init__(self, media: MediaFormat, deliver: Callable[[bytes, float, int], None]) -> None:
        self.deliver = deliver
        self.on_digit: Callable[[str, float], None] | None = None
        self.in_order = InOrderRelease(event_payload_type=media.event_payload_type)
        self._digits = DtmfReceiver()
        self._set_format(media)

    def _set_format(self, media: MediaFormat) -> None:
        self._media = media
        self._decode = media.codec.decoder().decode
        self._concealer = Concealer(media.codec.rate_hz)
        self._frame_bytes = 2 * media.frame_samples
        self._per_unit = media.codec.rate_hz // 8000
        self._pending = b""
        self.in_order.event_payload_type = media.event_payload_type

    def change(self, media: MediaFormat) -> None:
        """A re-INVITE agreed on another codec."""
        self._set_format(media)

    def keep(self, media: MediaFormat) -> None:
        """A re-INVITE kept the codec and changed something else."""
        self._media = media
        self.in_order.event_payload_type = media.event_payload_type

    def push(self, packet: RtpPacket, now: float) -> None:
        """Take a packet of the agreed types, or comfort noise."""
        for released in self.in_order.push(packet, now):
            self._release(released, now)

    def expire(self, now: float) -> None:
        """Give up gaps whose time is over."""
        for released in self.in_order.expire(now):
            self._release(released, now)

    def conceal(self) -> bytes:
        """A frame in place of one that the network owes."""
        return self._concealer.conceal(self._media.frame_samples)

    def _release(self, released: Released, now: float) -> None:
        payload = released.payload
        if payload is None:
            self._frame(self._concealer.conceal(released.samples * self._per_unit), now, CONCEALED)
        elif released.payload_type == self._media.payload_type:
            self._frame(self._concealer.good(self._decode(payload)), now, TALKSPURT if released.marker else 0)
        elif released.payload_type == self._media.event_payload_type:
            digit = self._digits.push(payload, released.timestamp, released.marker)
            if digit is not None and self.on_digit is not None:
                self.on_digit(digit, now)
        elif released.payload_type != COMFORT_NOISE_PT:
            # it waited behind a gap while a re-INVITE took its codec out of use
            self._frame(self.conceal(), now, CONCEALED)

    def _frame(self, pcm: bytes, now: float, flags: int) -> None:
        size = self._frame_bytes
        if len(pcm) == size and not self._pending:
            self.deliver(pcm, now, flags)
            return
        self._pending += pcm  # another ptime than 20 ms
        while len(self._pending) >= size:
            self.deliver(self._pending[:size], now, flags)
            self._pending = self._pending[size:]
