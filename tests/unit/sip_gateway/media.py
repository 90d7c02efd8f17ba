"""One RTP session of the gateway on a real loopback socket, with a caller beside it and a clock of the test's own."""

from __future__ import annotations

import socket

from libs.audio.g711 import Law
from libs.audio.rtp import RtpPacket
from libs.audio.tone import tone
from libs.call_leg.audio import CallAudio
from libs.contracts.frame import AudioFrame, Codec, pack, unpack
from services.sip_gateway.rtp_ports import PortPool
from services.sip_gateway.rtp_session import MediaFormat, RtpSession, RtpStart

WK, EPOCH = "wk-1", 1
PCMU = MediaFormat(Law.PCMU, 0, 101)
SPEECH = Law.PCMU.encode(tone(440, 20, 8000))


def udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


def everything(sock: socket.socket) -> list[bytes]:
    """What has arrived; loopback delivers before `sendto` returns."""
    got = []
    while True:
        try:
            got.append(sock.recv(2048))
        except BlockingIOError:
            return got


class Line:
    """`caller` is the peer that SDP named; `frames` is what went up to the bus.

    As a `pair`, both ends have a second port for RTCP.
    """

    def __init__(
        self, media: MediaFormat = PCMU, start: RtpStart | None = None, *, rate_hz: int = 8000, pair: bool = False
    ) -> None:
        self.caller, ours = (PortPool(None).acquire("127.0.0.1") if pair else udp() for _ in range(2))
        self.sockets = [self.caller, ours]
        self.rate_hz = rate_hz
        self.address = ours.getsockname()
        self.frames: list[AudioFrame] = []
        self.audio = CallAudio("default", "gw-1", "call-1", self._publish, rate_hz=rate_hz)
        self.rtp = RtpSession(
            ours, media, self.caller.getsockname(), self.audio, start or RtpStart(0xCA11, 1000, 50_000)
        )
        self.digits: list[str] = []
        self.rtp.on_digit = self.digits.append
        self.now = 100.0
        self.audio.start(WK, EPOCH, "paced", self.now)
        self._down = 0

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()

    def _publish(self, subject: str, payload: bytes) -> bool:
        self.frames.append(unpack(payload))
        return True

    def stranger(self) -> socket.socket:
        self.sockets.append(udp())
        return self.sockets[-1]

    # -- up ---------------------------------------------------------------------------------------------

    def send(self, *packets: RtpPacket | bytes, sock: socket.socket | None = None) -> None:
        for packet in packets:
            data = packet if isinstance(packet, bytes) else packet.serialize()
            (sock or self.caller).sendto(data, self.address)
        self.rtp.read(self.now)

    @property
    def pcm(self) -> bytes:
        """What went up, as one piece."""
        return b"".join(frame.payload for frame in self.frames)

    # -- down -------------------------------------------------------------------------------------------

    def say(self, pcm: bytes, *, begins: bool = False) -> None:
        """A `dn` frame of the worker arrives; the gateway sends a talkspurt's first frame at once."""
        samples = len(pcm) // 2
        frame = AudioFrame(Codec.of_rate(self.rate_hz), 0, EPOCH, self._down, self._down * samples, pcm, 0)
        self._down += 1
        starts = self.audio.heard_from_worker(WK, pack(frame))
        assert starts is begins
        if starts:
            self.rtp.send_now(self.now)

    def pass_time(self, ms: int, slot_ms: int = 5) -> None:
        for _ in range(ms // slot_ms):
            self.now += slot_ms / 1000
            self.rtp.tick(self.now)

    def heard(self) -> list[RtpPacket]:
        return [RtpPacket.parse(data) for data in everything(self.caller)]


def packet(number: int, payload: bytes = SPEECH, *, pt: int = 0, marker: bool = False, ts: int | None = None):
    timestamp = number * len(payload) if ts is None else ts
    return RtpPacket(pt, number & 0xFFFF, timestamp & 0xFFFFFFFF, 7, payload, marker)
