"""Providers, PBXs and phones at the other end of the gateway: a SIP socket that does what the test says."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable

from libs.audio.g711 import Law
from libs.audio.rtp import RtpPacket
from libs.sip.digest_server import DigestServer
from libs.sip.events import Action, Answered, Cancelled, Confirmed, Ended, IncomingCall, Send
from libs.sip.message import Reply, Request, build_response, parse
from libs.sip.sdp import LocalMedia, make_offer, negotiate
from libs.sip.user_agent import OutgoingCall, UaConfig, UserAgent

Script = Callable[["FarEnd", IncomingCall], None]


class FarEnd(asyncio.DatagramProtocol):
    """`async with await FarEnd.open(answering)`: `script` is called for each call that comes.

    It takes registrations, too: `registered` has their Contacts, `refuses` the status for those that are not wanted.
    """

    def __init__(self, script: Script, doorman: DigestServer | None) -> None:
        self.script = script
        self.doorman = doorman
        self.loop = asyncio.get_running_loop()
        self.calls: list[IncomingCall] = []
        self.events: list[Action] = []
        self.messages: list[str] = []
        self.registered: list[str] = []
        self.refuses: int | None = None
        self.is_silent = False
        self.rtp: dict[str, socket.socket] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()

    @classmethod
    async def open(cls, script: Script, doorman: DigestServer | None = None, *, port: int = 0, **config) -> FarEnd:
        loop = asyncio.get_running_loop()
        _, far = await loop.create_datagram_endpoint(lambda: cls(script, doorman), ("127.0.0.1", port))
        config = {"session_expires_s": 0} | config
        far.agent = UserAgent(
            UaConfig("127.0.0.1", far.port, contact_user="far", **config), lambda: secrets.token_hex(6),
            doorkeeper=lambda source: doorman,
        )  # fmt: skip
        return far

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    async def __aenter__(self) -> FarEnd:
        return self

    async def __aexit__(self, *_) -> None:
        if self._timer:
            self._timer.cancel()
        self.transport.close()
        for sock in self.rtp.values():
            sock.close()

    # -- SIP ------------------------------------------------------------------------------------------------

    def datagram_received(self, data: bytes, addr) -> None:
        text = data.decode()
        self.messages.append(text)
        self._changed.set()
        if self.is_silent:
            return
        if text.startswith("REGISTER "):
            self._register(parse(data), addr)
            return
        self.act(self.agent.receive(data, addr, self.loop.time()))

    def _register(self, request: Request, addr) -> None:
        contact = request.values("contact")[0]
        headers: tuple[tuple[str, str], ...] = (("Contact", contact),)
        status = self.refuses or 200
        if self.doorman is not None and status == 200:
            lines = request.headers.get("authorization", ())
            if self.doorman.check("REGISTER", lines, self.loop.time()).verdict != "accepted":
                status, headers = 401, tuple(self.doorman.challenge(self.loop.time()))
        if status == 200:
            self.registered.append(contact)
        self.transport.sendto(build_response(request, Reply(status, headers), addr, secrets.token_hex(4)), addr)

    def act(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                self.transport.sendto(action.data, action.destination)
                continue
            self.events.append(action)
            if isinstance(action, IncomingCall):
                self.calls.append(action)
                self.script(self, action)
        self._changed.set()
        if self._timer:
            self._timer.cancel()
        at = self.agent.deadline()
        self._timer = None if at is None else self.loop.call_at(at, self._expire)

    def _expire(self) -> None:
        self.act(self.agent.expire(max(self.loop.time(), self.agent.deadline() or 0)))

    async def until(self, happened: Callable[[], object], limit_s: float = 5.0):
        async with asyncio.timeout(limit_s):
            while not (found := happened()):
                self._changed.clear()
                await self._changed.wait()
        return found

    async def event(self, kind: type):
        return await self.until(lambda: next((e for e in self.events if isinstance(e, kind)), None))

    async def call(self, number: int = 0) -> IncomingCall:
        await self.until(lambda: len(self.calls) > number)
        return self.calls[number]

    def requests(self, method: str) -> list[str]:
        return [text for text in self.messages if text.startswith(f"{method} ")]

    async def request(self, method: str) -> str:
        return await self.until(lambda: next(iter(self.requests(method)), None))

    def answer(self, call: IncomingCall, codecs: tuple[str, ...] = ("PCMU", "PCMA"), **media) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        self.rtp[call.dialog] = sock
        agreed = negotiate(call.offer, LocalMedia("127.0.0.1", sock.getsockname()[1], codecs, **media))
        self.agreed = agreed
        self.gateway_rtp = (agreed.remote_host, agreed.remote_port)
        self.act(self.agent.answer(call.dialog, agreed.answer.serialize(), self.loop.time()))

    def bye(self, call: IncomingCall) -> None:
        self.act(self.agent.bye(call.dialog, self.loop.time()))

    # -- calls of its own --------------------------------------------------------------------------------------

    def dial(self, port: int, user: str = "bestellung", codecs: tuple[str, ...] = ("PCMU",), **more) -> str:
        """Call the gateway; the dialog's id."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        offer = make_offer(LocalMedia("127.0.0.1", sock.getsockname()[1], codecs))
        target = f"sip:{user}@127.0.0.1:{port}"
        named = {"from_uri": f"sip:+4930123456@127.0.0.1:{self.port}"} | more
        call = OutgoingCall(target, ("127.0.0.1", port), sdp=offer.serialize(), **named)
        dialog, actions = self.agent.invite(call, self.loop.time())
        self.rtp[dialog] = sock
        self.act(actions)
        return dialog

    async def talk(self, port: int, **more) -> str:
        """Call the gateway, and wait until it answers."""
        dialog = self.dial(port, **more)
        answered = await self.until(
            lambda: next((e for e in self.events if isinstance(e, Answered) and e.dialog == dialog), None)
        )
        media = answered.sdp.media[0]
        self.gateway_rtp = (answered.sdp.media_host(media), media.port)
        return dialog

    # -- RTP ------------------------------------------------------------------------------------------------

    def packets(self, call: IncomingCall | str) -> list[RtpPacket]:
        """What has come since the last look."""
        got = []
        while True:
            try:
                got.append(RtpPacket.parse(self.rtp[_dialog(call)].recv(2048)))
            except BlockingIOError:
                return got

    async def speak(self, call: IncomingCall | str, pcm: bytes, law: Law = Law.PCMU, *, first: int = 0) -> None:
        sock = self.rtp[_dialog(call)]
        for number in range(first, first + len(pcm) // 320):
            payload = law.encode(pcm[320 * (number - first) : 320 * (number - first + 1)])
            packet = RtpPacket(law.payload_type, number, number * 160, 7, payload, number == first)
            sock.sendto(packet.serialize(), self.gateway_rtp)
            await asyncio.sleep(0.02)


def _dialog(call: IncomingCall | str) -> str:
    return call if isinstance(call, str) else call.dialog


# -- scripts ------------------------------------------------------------------------------------------------


def answering(far: FarEnd, call: IncomingCall) -> None:
    """Ring, then answer."""
    far.act(far.agent.ring(call.dialog, far.loop.time()))
    far.answer(call)


def ringing(far: FarEnd, call: IncomingCall) -> None:
    """Ring and ring."""
    far.act(far.agent.ring(call.dialog, far.loop.time()))


def refusing(status: int, *headers: tuple[str, str]) -> Script:
    """A final response."""

    def refuse(far: FarEnd, call: IncomingCall) -> None:
        far.act(far.agent.reject(call.dialog, status, far.loop.time(), headers=headers))

    return refuse


__all__ = ["Cancelled", "Confirmed", "Ended", "FarEnd", "answering", "refusing", "ringing"]
