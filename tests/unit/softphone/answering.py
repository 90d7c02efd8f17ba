"""A tiny answering side made of the SIP core: echoes audio, or does what a test tells it."""

from __future__ import annotations

import asyncio
import itertools

from libs.audio.dtmf import DtmfReceiver
from libs.audio.rtp import RtpPacket
from libs.sip.events import Action, Cancelled, Ended, IncomingCall, Send, SessionChanged, TransferRequested
from libs.sip.sdp import LocalMedia, Negotiated, negotiate
from libs.sip.user_agent import UaConfig, UserAgent

_numbers = itertools.count(1)


class Echo(asyncio.DatagramProtocol):
    """RTP side of one call: keeps what came and, when it echoes, sends it back."""

    def __init__(self, negotiated_pt: int | None, event_pt: int | None) -> None:
        self.packets: list[RtpPacket] = []
        self.digits: list[str] = []
        self.echoes = True
        self.event_pt = event_pt
        self.peer: tuple[str, int] | None = None
        self._dtmf = DtmfReceiver()

    def connection_made(self, transport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr) -> None:
        self.peer = addr
        packet = RtpPacket.parse(data)
        self.packets.append(packet)
        if packet.payload_type == self.event_pt:
            digit = self._dtmf.push(packet.payload, packet.timestamp, packet.marker)
            self.digits += [digit] if digit else []
        elif self.echoes:
            self.transport.sendto(data, addr)


class AnsweringSide(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.events: list[Action] = []
        self.legs: dict[str, Echo] = {}
        self.answers = True
        self.rejects: int | None = None
        self.loses = 0  # so many datagrams are lost
        self.changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    async def open(cls) -> AnsweringSide:
        loop = asyncio.get_running_loop()
        transport, side = await loop.create_datagram_endpoint(cls, ("127.0.0.1", 0))
        side.transport = transport
        side.address = transport.get_extra_info("sockname")
        side.agent = UserAgent(UaConfig(*side.address, t1_s=0.1, accepts_refer=True), lambda: f"s{next(_numbers)}")
        return side

    @property
    def uri(self) -> str:
        return f"sip:bestellung@127.0.0.1:{self.address[1]}"

    async def __aenter__(self) -> AnsweringSide:
        return self

    async def __aexit__(self, *_) -> None:
        if self._timer:
            self._timer.cancel()
        for leg in self.legs.values():
            leg.transport.close()
        self.transport.close()

    def datagram_received(self, data: bytes, addr) -> None:
        if self.loses:
            self.loses -= 1
            return
        self.act(self.agent.receive(data, addr, self.loop.time()))

    def act(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                self.transport.sendto(action.data, action.destination)
                continue
            self.events.append(action)
            if isinstance(action, IncomingCall):
                self._incoming(action)
            elif isinstance(action, TransferRequested) and action.is_accepted:
                self.act(self.agent.notify_transfer(action.dialog, 200, self.loop.time(), "OK"))
            elif isinstance(action, Ended | Cancelled) and action.dialog in self.legs:
                self.legs[action.dialog].transport.close()
        self.changed.set()
        if self._timer:
            self._timer.cancel()
        at = self.agent.deadline()
        self._timer = None if at is None else self.loop.call_at(at, self._expire)

    def _expire(self) -> None:
        self.act(self.agent.expire(self.loop.time() + 0.001))

    def _incoming(self, call: IncomingCall) -> None:
        now = self.loop.time()
        if self.rejects:
            self.act(self.agent.reject(call.dialog, self.rejects, now, "Besetzt"))
            return
        self.act(self.agent.ring(call.dialog, now))
        if self.answers:
            self._answering = self.loop.create_task(self.answer(call))

    async def answer(self, call: IncomingCall) -> None:
        leg = Echo(None, None)
        transport, _ = await self.loop.create_datagram_endpoint(lambda: leg, ("127.0.0.1", 0))
        port = transport.get_extra_info("sockname")[1]
        agreed: Negotiated = negotiate(call.offer, LocalMedia("127.0.0.1", port))
        leg.event_pt = agreed.telephone_event_pt
        self.legs[call.dialog] = leg
        self.act(self.agent.answer(call.dialog, agreed.answer.serialize(), self.loop.time()))

    async def until(self, kind: type) -> Action:
        async with asyncio.timeout(5):
            while True:
                for event in self.events:
                    if isinstance(event, kind):
                        return event
                self.changed.clear()
                await self.changed.wait()

    @property
    def leg(self) -> Echo:
        (leg,) = self.legs.values()
        return leg

    async def session_changed(self) -> SessionChanged:
        return await self.until(SessionChanged)
