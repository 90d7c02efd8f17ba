"""A softphone for tests, demo and command line: SIP by `libs.sip`, audio by `libs.audio`, sockets by asyncio.

    async with await Softphone.open() as phone:
        call = await phone.call("sip:bestellung@127.0.0.1:5060")
        await call.wait_for_speech(timeout_s=5)
        await call.play(pcm).wait()
        await call.hang_up()

The SIP side is one datagram endpoint, or the connections of `stream`; it feeds the core, acts on what that returns and
arms one timer. The audio side is one socket per call; all calls of an event loop share one 20 ms ticker.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from libs.sip.errors import SdpError
from libs.sip.events import (
    Action,
    Answered,
    Confirmed,
    DtmfInfo,
    Ended,
    IncomingCall,
    InviteRefused,
    ReinviteRejected,
    Rejected,
    Ringing,
    Send,
    SessionChanged,
)
from libs.sip.registration import RegistrationEvent
from libs.sip.sdp import SessionDescription, accept_answer, make_offer
from libs.sip.uri import DEFAULT_PORTS, SipUri, Transport
from libs.sip.user_agent import OutgoingCall, UaConfig, UserAgent
from libs.softphone.call import CallEnd, CallOptions, CallRejected, PhoneCall
from libs.softphone.endpoint import RtpEndpoint
from libs.softphone.stream import PhoneStreams, PhoneTls
from libs.softphone.talker import PlayHandle, RtpStart

__all__ = ["CallEnd", "CallOptions", "CallRejected", "PhoneCall", "PhoneTls", "PlayHandle", "RtpStart", "Softphone"]

# How long `close` waits for the answers to its last BYEs.
_LINGER_S = 1.0


class Softphone(asyncio.DatagramProtocol):
    """One SIP socket and any number of calls. Open with `open`, close with `close` or as async context manager."""

    def __init__(self) -> None:
        self.address = ("", 0)
        self.calls: dict[str, PhoneCall] = {}
        self._loop = asyncio.get_running_loop()
        self._agent: UserAgent | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self.streams: PhoneStreams | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._settled = asyncio.Event()

    @classmethod
    async def open(
        cls, local_host: str = "127.0.0.1", local_port: int = 0, user_agent: str = "callbus-phone",
        transport: Transport = "udp", tls: PhoneTls | None = None,
    ) -> Softphone:  # fmt: skip
        """Bind the SIP socket; port 0 takes a free one. Over TLS `tls` says whom to trust.

        Raises OSError when the port is busy.
        """
        loop = asyncio.get_running_loop()
        if transport == "udp":
            endpoint, phone = await loop.create_datagram_endpoint(cls, (local_host, local_port))
            phone.address = endpoint.get_extra_info("sockname")[:2]
            phone._transport = endpoint
        else:
            phone = cls()
            if transport == "tls":
                tls = tls or PhoneTls(ssl.create_default_context())
            phone.streams = PhoneStreams(
                local_host, tls if transport == "tls" else None, phone._received, phone._connection_lost
            )
            phone.address = (local_host, await phone.streams.listen(local_port) or DEFAULT_PORTS["tls"])
        config = UaConfig(*phone.address, user_agent=user_agent, contact_user="phone", transport=transport)
        phone._agent = UserAgent(config, lambda: secrets.token_hex(8))
        return phone

    async def __aenter__(self) -> Softphone:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def agent(self) -> UserAgent:
        """The SIP core, for its counters."""
        assert self._agent is not None
        return self._agent

    # -- calls --------------------------------------------------------------------------------------------------

    async def call(  # noqa: PLR0913  the same five things that every phone asks for
        self,
        target: str,
        *,
        from_user: str = "+4930123456",
        from_display: str = "",
        codecs: Sequence[str] = ("PCMU",),
        headers: Sequence[tuple[str, str]] = (),
        timeout_s: float = 32.0,
        options: CallOptions | None = None,
    ) -> PhoneCall:
        """Place a call and wait until it is answered.

        Raises CallRejected with status and reason; 408 when nobody answered in `timeout_s`, after a CANCEL.
        """
        call = await self.dial(
            target, from_user=from_user, from_display=from_display, codecs=codecs, headers=headers, options=options
        )
        await call.wait_answered(timeout_s)
        return call

    async def dial(
        self,
        target: str,
        *,
        from_user: str = "+4930123456",
        from_display: str = "",
        codecs: Sequence[str] = ("PCMU",),
        headers: Sequence[tuple[str, str]] = (),
        options: CallOptions | None = None,
    ) -> PhoneCall:
        """Place a call without waiting: for CANCEL, for ringing, for many calls at once."""
        destination = await self._resolve(SipUri.parse(target))
        host = self.address[0]
        rtp, media = await RtpEndpoint.open(host)
        options = options or CallOptions()
        offer = make_offer(options.local_media((host, media[1]), tuple(codecs)))
        from_uri = str(SipUri.build(from_user, *self.address))
        placed = OutgoingCall(target, destination, from_uri, from_display, offer.serialize(), headers)
        try:
            dialog, actions = self.agent.invite(placed, self._now())
        except BaseException:  # nothing is swallowed: the socket has no other owner yet
            rtp.close()
            raise
        call = PhoneCall(self, dialog, rtp, offer, options)
        self.calls[dialog] = call
        self._act(actions)
        return call

    async def _resolve(self, uri: SipUri) -> tuple[str, int]:
        if uri.scheme not in ("sip", "sips") or not uri.host:
            raise ValueError(f"{uri} names no host to call")
        default_port = DEFAULT_PORTS[self.agent.transport]
        found = await self._loop.getaddrinfo(uri.host.strip("[]"), uri.port or default_port)
        host, port = found[0][4][:2]
        return str(host), int(port)

    def hang_up(self, dialog: str, cause: str = "") -> None:
        """End a call in whatever state it is: BYE, or CANCEL before the answer."""
        self._act(self.agent.bye(dialog, self._now(), cause))

    def reinvite(self, dialog: str, offer: SessionDescription) -> None:
        """Offer a new session, for hold. Raises SipStateError when the dialog does not allow it."""
        self._act(self.agent.reinvite(dialog, offer.serialize(), self._now()))

    def send_raw(self, data: bytes, destination: tuple[str, int]) -> None:
        """Send any bytes from the SIP socket, for tests with damaged messages."""
        if self.streams is not None:
            self.streams.send(data, destination)
        elif self._transport is not None:
            self._transport.sendto(data, destination)

    async def close(self) -> None:
        """Hang up all calls, wait a moment for the answers to our requests, close the sockets."""
        for dialog in list(self.calls):
            self.hang_up(dialog)
        try:
            async with asyncio.timeout(_LINGER_S):
                while self._is_open and self.agent.unanswered_requests:
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            pass
        for call in list(self.calls.values()):
            call.end(CallEnd("closed"))
        self.calls.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.close()
            self._transport = None
        if self.streams is not None:
            self.streams.close()
            self.streams = None

    @property
    def _is_open(self) -> bool:
        return self._transport is not None or self.streams is not None

    # -- the shell of the SIP core ------------------------------------------------------------------------------

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self._received(data, (str(addr[0]), addr[1]))

    def _received(self, data: bytes, source: tuple[str, int]) -> None:
        if self._agent is not None:  # None for an instant while `open` is under way
            self._act(self._agent.receive(data, source, self._now()))

    def _connection_lost(self, peer: tuple[str, int]) -> None:
        self._act(self.agent.connection_lost(peer, self._now()))

    def error_received(self, exc: Exception) -> None:
        """ICMP errors: the timers of the core find out by themselves."""

    def _now(self) -> float:
        return self._loop.time()

    def _act(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                self.send_raw(action.data, action.destination)
            else:
                self._event(action)
        self._arm()
        self._settled.set()

    def _arm(self) -> None:
        at = self.agent.deadline()
        if self._timer is not None:
            if self._timer.when() == at:
                return
            self._timer.cancel()
        self._timer = None if at is None or not self._is_open else self._loop.call_at(at, self._expire)

    def _expire(self) -> None:
        self._timer = None
        # an event loop's timer may fire a clock tick early
        self._act(self.agent.expire(max(self._now(), self.agent.deadline() or 0.0)))

    def _event(self, action: Action) -> None:
        if isinstance(action, IncomingCall):
            self._act(self.agent.reject(action.dialog, 480, self._now()))
            return
        if isinstance(action, Send | InviteRefused | Confirmed | DtmfInfo | RegistrationEvent):
            return
        call = self.calls.get(action.dialog)
        if call is None:
            return
        match action:
            case Ringing():
                call.rang(action.status)
            case Answered():
                self._answered(call, action.sdp)
            case SessionChanged():
                call.media_changed(action.negotiated)
            case ReinviteRejected():
                call.offer_settled(CallRejected(action.status, action.reason))
            case Rejected():
                self._over(call, CallEnd("rejected", action.status, action.reason))
            case Ended():
                self._over(call, CallEnd(action.cause.value, action.status, action.reason))

    def _answered(self, call: PhoneCall, sdp: SessionDescription | None) -> None:
        try:
            if sdp is None:
                raise SdpError("the answer brought no session description")
            negotiated = accept_answer(call.offer, sdp)
        except SdpError as error:
            if call.is_answered:
                call.offer_settled(CallRejected(488, str(error)))
                return
            call.fail(CallRejected(488, str(error)))
            self.hang_up(call.dialog, "SIP;cause=488")
            return
        call.media_changed(negotiated)
        call.offer_settled(None)

    def _over(self, call: PhoneCall, end: CallEnd) -> None:
        self.calls.pop(call.dialog, None)
        call.end(end)
