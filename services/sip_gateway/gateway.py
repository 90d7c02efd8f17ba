"""The application between SIP dialogs and call legs: who calls whom, which agent answers, what came of it."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import Counter
from dataclasses import dataclass

from libs.audio.g711 import Law
from libs.call_leg.audio import CallAudio
from libs.call_leg.gateway import CallLegs, RefusedAttempt
from libs.call_leg.numbers import normalise
from libs.call_leg.ports import NewCall
from libs.call_leg.shell import LegShell
from libs.contracts.config import DEFAULT_ORG, AgentConfig, RouteConfig
from libs.contracts.ids import new_call_id
from libs.contracts.offer import CallState
from libs.contracts.termination import Reason, Termination
from libs.runtime.bus import Bus
from libs.runtime.config_copy import ConfigCopy
from libs.runtime.log import get_logger
from libs.sip import events as sip
from libs.sip.digest import Login
from libs.sip.errors import NoCommonCodec, SdpError
from libs.sip.registration import Registered, RegistrationFailed, Unregistered
from libs.sip.sdp import (
    TELEPHONE_EVENT_PT,
    Direction,
    LocalMedia,
    Negotiated,
    SessionDescription,
    make_offer,
    negotiate,
)
from services.sip_gateway.call import STATUS_OF, SipCall
from services.sip_gateway.rtp_ports import NoRtpPort, PortPool
from services.sip_gateway.rtp_session import MediaFormat, RtpSession, RtpStart
from services.sip_gateway.settings import Settings
from services.sip_gateway.ticker import Ticker
from services.sip_gateway.transport import Local, SipTransport
from services.sip_gateway.trunk import Account, Trunk

log = get_logger()

LATE_OFFER_LAW = Law.PCMA  # an INVITE without SDP: one codec, so that the agent's session knows it before the ACK
UNSPECIFIED = ("0.0.0.0", "::")
END_REASONS = {
    sip.EndCause.REMOTE_BYE: Reason.CALLER_HUNG_UP,
    sip.EndCause.LOCAL_BYE: Reason.NO_COMMON_CODEC,  # not by us, whose leg has ended then: the ACK's answer was bad
    sip.EndCause.NO_ACK: Reason.NO_ACK,
    sip.EndCause.TRANSACTION_TIMEOUT: Reason.CALLER_HUNG_UP,
}


class _Live:
    """A call while it lasts."""

    def __init__(self, shell: LegShell, sip_call: SipCall) -> None:
        self.shell = shell
        self.sip = sip_call
        self.task: asyncio.Task[None] | None = None
        self.resumed_at = 0.0  # when a hold ended: before it the caller owed us no RTP


@dataclass(frozen=True, slots=True)
class _Arrival:
    """An INVITE, its numbers normalised, its route looked up."""

    local: Local
    event: sip.IncomingCall
    caller: str
    callee: str
    route: RouteConfig | None


@dataclass(frozen=True, slots=True)
class _Media:
    """What offer and answer settled, for the RTP session."""

    sdp: str
    format: MediaFormat
    remote: tuple[str, int]
    may_send: bool
    is_held: bool = False


class _Refused(Exception):
    """The call gets no leg."""

    def __init__(self, termination: Termination) -> None:
        super().__init__(termination.detail)
        self.termination = termination


def _agree(arrival: _Arrival, port: int) -> _Media:
    local = LocalMedia(arrival.local.host, port, session_id=secrets.randbits(31))
    offer = arrival.event.offer
    if offer is None:  # RFC 3261 §13.2.1: we offer in the 200, the answer comes in the ACK
        local = LocalMedia(local.host, port, (LATE_OFFER_LAW.encoding_name,), local.session_id)
        late = MediaFormat(LATE_OFFER_LAW, LATE_OFFER_LAW.payload_type, TELEPHONE_EVENT_PT)
        return _Media(make_offer(local).serialize(), late, ("127.0.0.1", 9), may_send=False)
    try:
        media = negotiate(offer, local)
    except NoCommonCodec as error:
        raise _Refused(Termination.of(Reason.NO_COMMON_CODEC, str(error))) from None
    except SdpError as error:
        raise _Refused(Termination.of(Reason.MALFORMED_OFFER, str(error))) from None
    return _settled(media)


def _settled(media: Negotiated) -> _Media:
    """What a negotiation means for RTP. Anything but both ways is a hold (RFC 3264 §8.4), and so is no address."""
    nowhere = media.remote_host in UNSPECIFIED  # the hold of RFC 2543
    settled = MediaFormat.of(media)
    remote = (media.remote_host, media.remote_port)
    is_held = nowhere or media.direction is not Direction.SENDRECV
    return _Media(media.answer.serialize(), settled, remote, media.direction.sends and not nowhere, is_held)


class SipGateway:
    """`on_event` is the transport's callback; `run` serves until cancelled."""

    def __init__(self, settings: Settings, bus: Bus, legs: CallLegs, config: ConfigCopy) -> None:
        self._settings = settings
        self._legs = legs
        self._config = config
        self._send_frame = bus.send_frame
        self._ports = PortPool(settings.rtp_ports)
        self._live: dict[str, _Live] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._loop = asyncio.get_running_loop()
        self.ticker = Ticker(self._ticked, self._media_failed)
        self.transport = SipTransport(
            settings.sip_listen_host, settings.sip_public_host, settings.sip_allowed_sources, self.on_event
        )
        self.trunk = self._trunk(settings)
        self.counters: Counter[str] = Counter()
        self.media: Counter[str] = Counter()
        """Media statistics of all calls that ended; frames that came after `call.ended` are in it too."""

    def _trunk(self, settings: Settings) -> Trunk | None:
        """The provider's account, if there is one; it also answers when a call's BYE is challenged."""
        server, username, password = settings.sip_server, settings.sip_username, settings.sip_password
        if not (server and username and password):
            return None
        secret = password.get_secret_value()
        self.transport.credentials = lambda realm: Login(username, secret)
        return Trunk(Account(server, settings.sip_port or 5060, username, secret), self.transport)

    async def run(self) -> None:
        """Serve calls; each is a task of one group."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._tasks.create_task(self._watch_silence())
        finally:
            self._ports.close()

    def _ticked(self, lateness_s: float, now: float) -> None:
        self._legs.roster.ticked(lateness_s, now)

    def _media_failed(self, rtp: RtpSession) -> None:
        for live in list(self._live.values()):
            if live.sip.rtp is rtp:
                self._end(live, Termination.of(Reason.INTERNAL_ERROR, "a defect in the gateway's media; see its log"))

    def _end(self, live: _Live, why: Termination) -> None:
        """End a call from a loop that serves all of them: a defect in this call's leg costs only this call."""
        try:
            live.shell.end(why)
        except Exception:  # top of one call's share of a common loop; its task cleans up
            self.counters["defects"] += 1
            log.exception("a call could not be ended in order", dialog=live.sip.dialog)
            if live.task is not None:
                live.task.cancel()

    # -- from SIP ---------------------------------------------------------------------------------------------

    def on_event(self, local: Local, event: sip.Action) -> None:
        """What the SIP core reports."""
        if isinstance(event, sip.IncomingCall):
            self._incoming(local, event)
            return
        if isinstance(event, sip.InviteRefused):
            self._refused_by_core(event)
            return
        if isinstance(event, Registered | RegistrationFailed | Unregistered):
            if self.trunk is not None:
                self.trunk.on_event(event)
            return
        live = self._live.get(getattr(event, "dialog", ""))
        if live is None:
            return
        match event:
            case sip.Cancelled():
                live.shell.caller_gone(Reason.CALLER_CANCELLED, event.reason)
            case sip.Ended():
                reason = END_REASONS.get(event.cause)
                if reason is not None:
                    live.shell.caller_gone(reason, event.reason)
            case sip.DtmfInfo():
                live.shell.dtmf(event.digit)
            case sip.SessionChanged():
                self._session_changed(live, event.negotiated)
            case sip.Confirmed() if event.answer is not None:
                self._late_answer(live, event.answer)
            case _:
                pass

    def _incoming(self, local: Local, event: sip.IncomingCall) -> None:
        """An INVITE with a new dialog: find the agent, agree on media, offer the call."""
        caller, callee, route = self._routed(event)
        arrival = _Arrival(local, event, caller, callee, route)
        try:
            self._accept(arrival)
        except _Refused as refused:
            self._refuse(arrival, refused.termination)

    def _routed(self, event: sip.IncomingCall | sip.InviteRefused) -> tuple[str, str, RouteConfig | None]:
        """Caller, callee and the route that serves it."""
        self.counters["invites"] += 1
        country = self._settings.default_country
        caller = normalise(event.from_uri.user, country)
        called = event.request_uri.user
        if called and called == self._settings.sip_username:
            called = event.to_uri.user  # a trunk rings our contact; the number that was dialled stands in To
        callee = normalise(called, country)
        return caller, callee, self._config.route(callee) or self._config.route(called)

    def _refused_by_core(self, event: sip.InviteRefused) -> None:
        """The SIP core could make nothing of the offer, and has said so."""
        reason = Reason.NO_COMMON_CODEC if event.status == 488 else Reason.MALFORMED_OFFER
        self._record(*self._routed(event), Termination.of(reason, event.reason))

    def _record(self, caller: str, callee: str, route: RouteConfig | None, why: Termination) -> None:
        """Every attempt leaves a record, refused ones included."""
        self.counters[f"refused_{why.reason}"] += 1
        log.warning("call refused", caller=caller, callee=callee, reason=why.reason, detail=why.detail)
        attempt = RefusedAttempt(
            org=route.org if route else DEFAULT_ORG, entrance="sip", caller=caller, callee=callee,
            route=route.name if route else None, agent=route.agent if route else None, termination=why,
        )  # fmt: skip
        self._legs.record_refused(attempt)

    def _refuse(self, arrival: _Arrival, why: Termination) -> None:
        self._record(arrival.caller, arrival.callee, arrival.route, why)
        status = STATUS_OF.get(why.reason, 503)
        headers = [("Retry-After", "5")] if status == 503 else []
        core = self.transport.core(arrival.local)
        actions = core.reject(arrival.event.dialog, status, self._loop.time(), headers=headers)
        self.transport.perform(arrival.local, actions)

    def _accept(self, arrival: _Arrival) -> None:
        refusal = self._legs.refusal()
        if refusal is not None:
            raise _Refused(refusal)
        route = arrival.route
        if route is None:
            raise _Refused(Termination.of(Reason.NO_ROUTE, f"no route serves {arrival.callee}"))
        agent = self._config.agent(route.org, route.agent)
        if agent is None:
            detail = f"route {route.name} names the agent {route.agent}, which is not published"
            raise _Refused(Termination.of(Reason.UNKNOWN_AGENT, detail))
        sock = self._rtp_socket(arrival.local.host)
        try:
            media = _agree(arrival, sock.getsockname()[1])
        except _Refused:
            sock.close()
            raise
        self._open(arrival, route, agent, sock, media)

    def _rtp_socket(self, local_host: str) -> socket.socket:
        host = local_host if self._settings.sip_public_host is None else "0.0.0.0"
        try:
            return self._ports.acquire(host)
        except NoRtpPort as error:
            raise _Refused(Termination.of(Reason.AT_CAPACITY, str(error))) from None
        except OSError as error:
            raise _Refused(Termination.of(Reason.INTERNAL_ERROR, f"no RTP socket on {host}: {error}")) from None

    def _open(
        self, arrival: _Arrival, route: RouteConfig, agent: AgentConfig, sock: socket.socket, media: _Media
    ) -> None:
        call = new_call_id()
        rate_hz = media.format.codec.rate_hz
        audio = CallAudio(route.org, self._legs.gw, call, self._send_frame, rate_hz=rate_hz)
        start = RtpStart(secrets.randbits(32), secrets.randbits(15), secrets.randbits(32))
        rtp = RtpSession(sock, media.format, media.remote, audio, start)
        rtp.may_send = media.may_send
        rtp.may_latch = self.transport.answers
        sip_call = SipCall(self.transport, arrival.local, arrival.event.dialog, media.sdp, rtp, audio)
        sip_call.sock = sock
        state = CallState(codec=media.format.codec.encoding_name, rate_hz=rate_hz)
        new = NewCall(call=call, org=route.org, entrance="sip", direction="inbound", caller=arrival.caller,
                      callee=arrival.callee, agent=agent, route=route.name, fallback=route.fallback,
                      state=state)  # fmt: skip
        shell = self._legs.open(new, sip_call)
        shell.leg.held = media.is_held
        rtp.on_digit = shell.dtmf
        live = self._live[arrival.event.dialog] = _Live(shell, sip_call)
        log.info("call offered", call=call, caller=new.caller, callee=new.callee, agent=agent.name, codec=state.codec)
        sip_call.ring()
        assert self._tasks is not None
        live.task = self._tasks.create_task(self._serve(live))

    async def _serve(self, live: _Live) -> None:
        sip_call = live.sip
        fallback: asyncio.Future[bytes] = self._loop.create_future()
        sip_call.on_fallback = fallback.set_result
        self.ticker.add(sip_call.rtp)
        try:
            await self._legs.serve(live.shell)
            if fallback.done():
                await self._play_fallback(sip_call, fallback.result())
        finally:
            sip_call.close()
            self.ticker.remove(sip_call.rtp)
            self.media.update(sip_call.statistics().counters())
            del self._live[sip_call.dialog]
            if sip_call.sock is not None:
                self._ports.release(sip_call.sock)

    async def _play_fallback(self, sip_call: SipCall, pcm: bytes) -> None:
        """No agent came: the route's message, then BYE."""
        tail_s = 0.2  # silence, so that no packet under way is cut off and none of the beginning comes again
        sip_call.audio.set_filler(pcm + bytes(int(16000 * 2 * tail_s)))
        sip_call.answer()
        try:
            await asyncio.sleep(len(pcm) / 16000 + tail_s)
        finally:
            sip_call.hang_up(Termination.of(Reason.FALLBACK_PLAYED))

    # -- changes within a call ----------------------------------------------------------------------------------

    def _session_changed(self, live: _Live, negotiated: Negotiated) -> None:
        media = _settled(negotiated)
        live.sip.rtp.redirect(media.remote, may_send=media.may_send, media=media.format)
        if live.shell.leg.held and not media.is_held:
            live.resumed_at = self._loop.time()
        live.shell.set_held(media.is_held)

    def _late_answer(self, live: _Live, answer: SessionDescription) -> None:
        """The ACK brought the answer to our offer: where to send. The codec was the only one offered."""
        media = next((m for m in answer.media if m.kind == "audio" and m.port), None)
        if media is None:
            live.shell.end(Termination.of(Reason.NO_COMMON_CODEC, "the ACK's answer refused our audio"))
            return
        may_send = answer.direction(media).receives
        live.sip.rtp.redirect((answer.media_host(media), media.port), may_send=may_send)

    async def _watch_silence(self) -> None:
        """A caller who vanished without BYE: no RTP for `rtp_timeout_s`, unless the call is on hold."""
        limit = self._settings.rtp_timeout_s
        while True:
            await asyncio.sleep(1)
            now = self._loop.time()
            for live in list(self._live.values()):
                leg = live.shell.leg
                if leg.answered_at is None or leg.held:
                    continue
                heard_at = live.sip.rtp.received_at or leg.answered_at
                if now - max(heard_at, leg.answered_at, live.resumed_at) > limit:
                    self._end(live, Termination.of(Reason.RTP_TIMEOUT, f"no RTP for {limit:g} s"))
