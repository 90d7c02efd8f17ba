"""The application between SIP dialogs and call legs: who calls whom, which agent answers, what came of it."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Coroutine

from nats.aio.msg import Msg

from libs.call_leg.admission_shell import Admission
from libs.call_leg.fences import OutboundFence
from libs.call_leg.gateway import CallLegs
from libs.call_leg.last_words import LastWords
from libs.call_leg.originate import Originations, Placement
from libs.call_leg.shell import LegShell
from libs.contracts import subjects
from libs.contracts.rpc import RpcReply
from libs.contracts.termination import Reason, Termination
from libs.runtime.bus import Bus
from libs.runtime.config_copy import ConfigCopy
from libs.runtime.log import get_logger
from libs.runtime.outbox import EventOutbox
from libs.runtime.respond import respond
from libs.sip import events as sip
from libs.sip.dialog_layer import UaConfig
from libs.sip.digest import Login
from libs.sip.digest_server import DigestServer
from libs.sip.registration import Registered, RegistrationFailed, Unregistered
from services.sip_gateway.call import InboundCall, SipCall
from services.sip_gateway.exchange import Exchange
from services.sip_gateway.incoming import Incoming
from services.sip_gateway.limiter import InviteScreen, SourceLimiter, refusal
from services.sip_gateway.negotiation import Refusal
from services.sip_gateway.outbound_call import place
from services.sip_gateway.rtp_ports import PortPool
from services.sip_gateway.rtp_session import RtpSession
from services.sip_gateway.settings import Settings
from services.sip_gateway.ticker import Ticker
from services.sip_gateway.trace import SipTrace
from services.sip_gateway.transport import Local, SipTransport
from services.sip_gateway.trunk import Trunks

log = get_logger()


class _Live:
    """A call while it lasts."""

    def __init__(self, call: SipCall) -> None:
        self.call = call
        self.task: asyncio.Task[None] | None = None

    @property
    def shell(self) -> LegShell:
        return self.call.shell


class ScreenedTransport(SipTransport):
    """The transport, with a limit to the calls that one source may try."""

    screen: InviteScreen

    def _received(self, local: Local, data: bytes, source: tuple[str, int]) -> None:
        # RFC 3261 §7.5: empty lines before a message are none
        data = data.lstrip(b"\r\n") or data
        if data.startswith(b"INVITE ") and not self.screen.lets_in(data, source, self._loop.time()):
            self.counters["invites_over_limit"] += 1  # no record: that would be what the limit is there to spare
            answer = refusal(data, source)
            if answer is not None:
                destination = source if local.transport != "udp" else answer[1]
                self.perform(local, [sip.Send(answer[0], destination)])
            return
        super()._received(local, data, source)


class SipGateway:
    """`on_event` is the transport's callback; `run` serves until cancelled."""

    def __init__(
        self, settings: Settings, bus: Bus, legs: CallLegs, config: ConfigCopy, outbox: EventOutbox | None = None
    ) -> None:
        """Raises TrunksError for trunks that cannot be used."""
        self._settings = settings
        self._bus = bus
        self._legs = legs
        self._config = config
        self._live: dict[str, _Live] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._running = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._ports = PortPool(settings.rtp_ports)
        self.admission = Admission(bus, legs, config)
        self.ticker = Ticker(self._ticked, self._media_failed)
        table = settings.trunks()
        self.transport = ScreenedTransport(
            settings.sip_listen_host, settings.sip_public_host, (*settings.sip_allowed_sources, *table.sources),
            self.on_event, tls=settings.tls_files(), template=UaConfig("", 0, codecs=table.codecs),
        )  # fmt: skip
        self.transport.screen = InviteScreen(SourceLimiter(settings.sip_invites_per_second))
        self.transport.credentials, self.transport.doorkeeper = self._login, self._doorkeeper
        self.trunks = Trunks(table, self.transport)
        self.trace = SipTrace(_nowhere if outbox is None else outbox.put)
        if settings.sip_trace and outbox is not None:
            self.transport.on_message = self.trace.seen
        self._doormen = self._make_doormen()
        self.exchange = Exchange(legs.gw, self.transport, self.ticker, self._ports, self.trunks, self.trace,
                                 bus.send_frame, settings.sip_public_host)  # fmt: skip
        self.exchange.last_words = LastWords(bus, legs.gw)
        self.originations = Originations("sip", legs, config, self.admission, self._fences, self._place)
        self._incoming = Incoming(self.exchange, legs, self.admission, self._serve_inbound, self._spawn_for_call)

    @property
    def counters(self) -> Counter[str]:
        """Calls and refusals."""
        return self.exchange.counters

    @property
    def media(self) -> Counter[str]:
        """Media statistics of all calls that ended."""
        return self.exchange.media

    def _login(self, realm: str) -> Login | None:
        """For a challenge inside a call that came in: of the trunk whose name the realm has, or of the only one."""
        logins = {trunk.domain.lower(): trunk.login for trunk in self.trunks.table if trunk.login is not None}
        return next(iter(logins.values())) if len(logins) == 1 else logins.get(realm.lower())

    def _make_doormen(self) -> dict[str, DigestServer]:
        """The asking side of each trunk whose callers must say a password."""
        secret = secrets.token_bytes(32)

        def doorman(username: str, password: str) -> DigestServer:
            return DigestServer("callbus", {username: password}.get, secret, lambda: secrets.token_hex(8))

        return {
            trunk.name: doorman(trunk.challenge_username, trunk.challenge_password.get_secret_value())
            for trunk in self.trunks.table
            if trunk.challenge and trunk.challenge_password is not None
        }

    def _doorkeeper(self, source: tuple[str, int]) -> DigestServer | None:
        """Who must say a password: the sources of a trunk that asks for one."""
        if not self._doormen:
            return None
        trunk = self.trunks.table.of_source(source[0])
        return self._doormen.get(trunk.name) if trunk is not None else None

    # -- life -------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Listen, register, take requests; while `run` runs.

        Raises:
            OSError: an address is taken or not ours, or a file for TLS cannot be read.
        """
        settings = self._settings
        await self._running.wait()
        await self.transport.open(settings.sip_listen_port, settings.sip_tcp_port, settings.sip_tls_port)
        self._spawn(self.trunks.run())
        await self._take_requests()

    async def leave(self) -> None:
        """Before the drain: nobody is to ring us any more, or to have us call."""
        await self.originations.stop()
        await self.trunks.leave()

    async def run(self) -> None:
        """Serve calls; each is a task of one group."""
        try:
            await self.admission.start()
            async with asyncio.TaskGroup() as self._tasks:
                self._running.set()
                self._tasks.create_task(self.admission.run())
                self._tasks.create_task(self._watch_silence())
        finally:
            self._ports.close()

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        assert self._tasks is not None
        return self._tasks.create_task(work)

    def _spawn_for_call(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        return self._spawn(self._shielded(work))

    async def _shielded(self, work: Coroutine[None, None, None]) -> None:
        """What one call does in the group of all: its defect ends nobody else's call."""
        try:
            await work
        except Exception:  # top of one call's task; the group would cancel every other one
            self.counters["defects"] += 1
            log.exception("a call's task failed")

    def _ticked(self, lateness_s: float, now: float) -> None:
        self._legs.roster.ticked(lateness_s, now)

    def _media_failed(self, rtp: RtpSession) -> None:
        for live in list(self._live.values()):
            if live.call.rtp is rtp:
                self._end(live, Termination.of(Reason.INTERNAL_ERROR, "a defect in the gateway's media; see its log"))

    def _end(self, live: _Live, why: Termination) -> None:
        """End a call from a loop that serves all of them: a defect in this call's leg costs only this call."""
        try:
            live.shell.end(why)
        except Exception:  # top of one call's share of a common loop; its task cleans up
            self.counters["defects"] += 1
            log.exception("a call could not be ended in order", dialog=live.call.dialog)
            if live.task is not None:
                live.task.cancel()

    async def _take_requests(self) -> None:
        """`v1.<org>.originate.sip`, and `v1.rpc.sip_gateway.trunks`: every gateway tells of its trunks."""
        await self._bus.control.subscribe(subjects.rpc("sip_gateway", "trunks"), cb=self._tell_trunks)
        await self.originations.start(self._bus)

    async def _tell_trunks(self, message: Msg) -> None:
        await respond(self._bus, message, RpcReply(ok=True, data=[trunk.status() for trunk in self.trunks]))

    # -- from SIP ---------------------------------------------------------------------------------------------

    def on_event(self, local: Local, event: sip.Action) -> None:
        """What the SIP core reports."""
        match event:
            case sip.IncomingCall():
                self._incoming.invite(local, event)
            case sip.InviteRefused():
                self._incoming.refused_by_core(event)
            case Registered() | RegistrationFailed() | Unregistered():
                self.trunks.on_event(event)
            case _:
                owner = self.exchange.owners.get(getattr(event, "dialog", ""))
                if owner is not None:
                    owner.on_sip(event)

    # -- calls that we place ----------------------------------------------------------------------------------

    def _fences(self) -> dict[str, OutboundFence]:
        return {trunk.config.name: trunk.fence for trunk in self.trunks if trunk.is_usable}

    async def _place(self, placement: Placement) -> Termination | None:
        """Open the leg of an outbound call; the number is dialled when its agent is ready."""
        trunk = self.trunks.named(placement.trunk)
        assert trunk is not None  # a fence of ours
        call = placement.call
        try:
            outbound = place(self.exchange, trunk, placement)
        except Refusal as refusal:
            return refusal.termination
        outbound.shell = self._legs.open(outbound.new_call(placement), outbound)
        log.info("call placed", call=call, to=placement.number, trunk=placement.trunk, agent=placement.agent.name)
        self.serve(outbound, placement.org, call)
        return None

    # -- calls --------------------------------------------------------------------------------------------------

    def _serve_inbound(self, call: InboundCall, org: str, call_id: str) -> None:
        self.serve(call, org, call_id)

    def serve(self, call: SipCall, org: str, call_id: str) -> None:
        """Run a call that has its leg, as a task of its own."""
        live = self._live[call_id] = _Live(call)
        live.task = self._spawn_for_call(self._serve(live, org, call_id))

    async def _serve(self, live: _Live, org: str, call_id: str) -> None:
        call = live.call
        try:
            await self._legs.serve(live.shell)
            if isinstance(call, InboundCall) and call.fallback is not None:
                await call.play(call.fallback)
        finally:
            del self._live[call_id]
            self.admission.release(org, call_id)
            call.close()
            self.trace.forget(call_id, self._loop.time())

    async def _watch_silence(self) -> None:
        """A caller who vanished without BYE: no RTP for `rtp_timeout_s`, unless the call is on hold."""
        limit = self._settings.rtp_timeout_s
        while True:
            await asyncio.sleep(1)
            now = self._loop.time()
            for live in list(self._live.values()):
                leg, call = live.shell.leg, live.call
                if call.target_is_silent(now, limit):
                    self._end(live, Termination.of(Reason.TRANSFERRED, f"no RTP from the target for {limit:g} s"))
                    continue
                if leg.answered_at is None or leg.held or leg.held_by_us:
                    continue
                heard_at = call.rtp.received_at or leg.answered_at
                if now - max(heard_at, leg.answered_at, call.resumed_at) > limit:
                    self._end(live, Termination.of(Reason.RTP_TIMEOUT, f"no RTP for {limit:g} s"))


def _nowhere(event: object) -> None:
    """Where traces go without an outbox."""
