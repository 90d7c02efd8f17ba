"""SIP_STACK=pyvoip: signalling by pyVoIP's fork `rfcvoip`, calls and media by us. See docs/pyvoip.md for what it lacks.

pyVoIP has threads, the legs have an event loop. What a thread reports comes over by `call_soon_threadsafe`; what the
leg wants done blocks (a socket, a lock held for seconds), so it goes to a small pool of threads. Between the two stands
`PyVoipCall`, the entrance of one call, which lives on the loop alone.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

from libs.audio.g711 import Law
from libs.call_leg.admission import Admitted, Arrival, Refused
from libs.call_leg.admission_shell import Admission
from libs.call_leg.audio import CallAudio
from libs.call_leg.fences import OutboundFence
from libs.call_leg.gateway import CallLegs
from libs.call_leg.originate import Originations, Placement
from libs.call_leg.ports import NewCall
from libs.contracts.commands import LegCommand, SendDtmf, Transfer
from libs.contracts.config import Fallback
from libs.contracts.ids import new_call_id
from libs.contracts.media import MediaStatistics
from libs.contracts.offer import CallState
from libs.contracts.termination import Reason, Termination
from libs.runtime.log import get_logger
from services.sip_gateway.call import STATUS_OF
from services.sip_gateway.outcomes import termination_of
from services.sip_gateway.rtp_session import MediaFormat, RtpSession, RtpStart
from services.sip_gateway.ticker import Ticker

if TYPE_CHECKING:
    from libs.call_leg.shell import LegShell
    from libs.runtime.bus import Bus
    from libs.runtime.config_copy import ConfigCopy
    from services.sip_gateway.pyvoip_phone import Account, Call, Media

log = get_logger()

THREADS = 8  # commands that block: BYE, a REGISTER, an INVITE that waits for its first response
TRUNK = "pyvoip"


class PyVoipCall:
    """Implements `libs.call_leg.ports.Entrance`. `shell` is set before anything is asked of it."""

    shell: LegShell

    def __init__(self, gateway: PyVoipGateway, audio: CallAudio) -> None:
        self._gateway = gateway
        self._loop = asyncio.get_running_loop()
        self.audio = audio
        self.call: Call | None = None
        self.number = ""
        self.rtp: RtpSession | None = None
        self._is_over = False
        self._ring_timer: asyncio.TimerHandle | None = None

    def objection(self, command: LegCommand) -> str | None:
        """pyVoIP has no REFER and sends no re-INVITE."""
        if isinstance(command, SendDtmf):
            return None
        return f"'{command.kind}' is not possible with SIP_STACK=pyvoip; the default stack can"

    def dial(self) -> None:
        """INVITE, on a thread."""
        self._gateway.dial(self)
        self._ring_timer = self._loop.call_later(self.shell.new.ring_timeout_s, self._give_up)

    def answer(self) -> None:
        """pyVoIP's callback goes on and answers."""
        if self.call is not None and self.rtp is not None:
            self.call.decide(answers=True)
            self.rtp.answered(self._loop.time())

    def _give_up(self) -> None:
        """Nobody picked up in time; pyVoIP knows no ring time-out."""
        if self.call is not None and not self._is_over and self.shell.leg.answered_at is None:
            self._is_over = True
            self._gateway.on_thread(self.call.cancel)
            why = f"nobody answered in {self.shell.new.ring_timeout_s:g} s"
            self.shell.refused(Termination.of(Reason.CALLEE_NO_ANSWER, why))

    def reject(self, fallback: Fallback, termination: Termination) -> None:
        """A final response, on a thread. Messages as fallback are left to the default stack."""
        call = self.call
        if call is not None:
            status = STATUS_OF.get(termination.reason, fallback.status)
            call.decide(answers=False)
            self._gateway.on_thread(lambda: call.refuse(status))

    def hang_up(self, termination: Termination) -> None:
        """BYE, or CANCEL while the callee's telephone rings."""
        call = self.call
        if call is not None and not self._is_over:
            self._is_over = True
            is_answered = self.shell.leg.answered_at is not None
            self._gateway.on_thread(call.hangup if is_answered else call.cancel)

    def transfer(self, command: Transfer) -> Literal["refer", "bridge", "dial"]:
        """Never asked: see `objection`."""
        return "refer"

    def cancel_transfer(self) -> None:
        """Nothing runs."""

    def send_dtmf(self, digits: str) -> None:
        """Key presses over our RTP."""
        if self.rtp is not None:
            self.rtp.send_digits(digits, self._loop.time())

    def hold(self, held: bool) -> None:
        """Never asked: see `objection`."""

    def send_now(self) -> None:
        """A talkspurt begins."""
        if self.rtp is not None:
            self.rtp.send_now(self._loop.time())

    def statistics(self) -> MediaStatistics:
        """Counters of the call so far."""
        return self.rtp.statistics() if self.rtp is not None else MediaStatistics()

    # -- from pyVoIP, on the loop ---------------------------------------------------------------------------

    def changed(self, state: str) -> None:
        """`ringing`, `answered`, `ended`."""
        assert self.call is not None
        if state == "ended":
            self._ended(self.call)
        elif self.shell.new.direction == "outbound" and state == "ringing":
            self.shell.ringing(180)
        elif self.shell.new.direction == "outbound" and state == "answered":
            self._gateway.open_media(self)
            if self.rtp is not None:
                self.rtp.answered(self._loop.time())
                self.shell.answered(self.shell.new.state.codec, 8000)

    def _ended(self, call: Call) -> None:
        if self._ring_timer is not None:
            self._ring_timer.cancel()
        if self._is_over:
            return
        self._is_over = True
        call.decide(answers=False)
        inbound, shell = self.shell.new.direction == "inbound", self.shell
        if call.ended_by_peer:
            shell.caller_gone(Reason.CALLER_HUNG_UP if inbound else Reason.CALLEE_HUNG_UP)
        elif inbound:
            shell.caller_gone(Reason.CALLER_CANCELLED)
        else:
            shell.refused(termination_of(call.status or 408, "", {}))

    def redirected(self) -> None:
        """A re-INVITE: pyVoIP answered it, our RTP follows."""
        media = self.call.media if self.call is not None else None
        if media is None or self.rtp is None:
            return
        may_send = str(media.sendrecv) in ("sendrecv", "sendonly")
        self.rtp.redirect((media.outIP, media.outPort), may_send=may_send)
        self.shell.set_held(str(media.sendrecv) != "sendrecv")


class PyVoipGateway:
    """Calls of one pyVoIP phone. `start` registers; `run` serves until cancelled."""

    def __init__(
        self, account: Account, fence: OutboundFence, bus: Bus, legs: CallLegs, config: ConfigCopy, country: str = "DE"
    ) -> None:
        self._account = account
        self._country = country
        self._bus = bus
        self._legs = legs
        self.admission = Admission(bus, legs, config)
        self.originations = Originations("sip", legs, config, self.admission, lambda: {TRUNK: fence}, self._place)
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(THREADS, "pyvoip")
        self._calls: dict[int, PyVoipCall] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._phone = self._new_phone(account)
        self.ticker = Ticker(legs.roster.ticked, self._media_failed)
        self.counters: Counter[str] = Counter()
        self.media: Counter[str] = Counter()  # of ended calls

    def _new_phone(self, account: Account):  # type: ignore[no-untyped-def]  # Phone, which needs the GPL package
        from services.sip_gateway.pyvoip_phone import Phone

        return Phone(account, self)

    async def start(self) -> None:
        """Register; pyVoIP blocks meanwhile.

        Raises:
            Exception: whatever the package raises; after three failures it gives up for good.
        """
        await self._loop.run_in_executor(self._pool, self._phone.start)
        await self.originations.start(self._bus)

    @property
    def state(self) -> str:
        """Of the registration: `registered`, `registering`, `failed` …"""
        return str(self._phone.get_status().value).lower()

    async def run(self) -> None:
        """Serve calls; each is a task of one group."""
        await self.admission.start()
        async with asyncio.TaskGroup() as self._tasks:
            await self.admission.run()

    async def stop(self) -> None:
        """Un-register, end what is left; `run` has ended before."""
        await self._loop.run_in_executor(self._pool, self._phone.stop)
        self._pool.shutdown(wait=False, cancel_futures=True)

    # -- Observer: pyVoIP's threads ----------------------------------------------------------------------------

    def arrived(self, call: Call) -> None:
        self._loop.call_soon_threadsafe(self._incoming, call)

    def changed(self, call: Call, state: str) -> None:
        self._loop.call_soon_threadsafe(self._on_state, call, state)

    def media_moved(self, call: Call) -> None:
        self._loop.call_soon_threadsafe(self._on_media, call)

    def on_thread(self, command: Callable[[], object]) -> None:
        """Do what blocks; what it raises is logged, the call's end does not depend on it."""

        def guarded() -> None:
            try:
                command()
            except Exception:  # top of a thread's work: pyVoIP raises on whatever state its call is in
                log.exception("pyVoIP could not do what was asked")

        self._pool.submit(guarded)

    # -- the loop ----------------------------------------------------------------------------------------------

    def _on_state(self, call: Call, state: str) -> None:
        entrance = self._calls.get(id(call))
        if entrance is not None:
            entrance.changed(state)

    def _on_media(self, call: Call) -> None:
        entrance = self._calls.get(id(call))
        if entrance is not None:
            entrance.redirected()

    def _media_failed(self, rtp: RtpSession) -> None:
        for entrance in list(self._calls.values()):
            if entrance.rtp is rtp:
                entrance.shell.end(Termination.of(Reason.INTERNAL_ERROR, "a defect in the gateway's media"))

    def _incoming(self, call: Call) -> None:
        from services.sip_gateway.pyvoip_phone import called_number, calling_number

        self.counters["invites"] += 1
        arrival = Arrival(new_call_id(), "sip", calling_number(call), called_number(call), TRUNK, self._country)
        assert self._tasks is not None
        self._tasks.create_task(self._admit(call, arrival))

    async def _admit(self, call: Call, arrival: Arrival) -> None:
        decided = await self.admission.admit(arrival)
        if isinstance(decided, Refused) or call.media is None or call.is_over:
            self._refuse(call, arrival, decided)
            return
        route = decided.route
        new = NewCall(call=decided.call, org=decided.org, entrance="sip", direction="inbound", caller=decided.caller,
                      callee=decided.callee, agent=decided.agent, route=route.name, fallback=route.fallback,
                      state=CallState(codec=_law(call.media).encoding_name, rate_hz=8000),
                      needs_person=route.answer == "manual", person_timeout_s=route.person_timeout_s,
                      answer_delay_s=route.answer_delay_ms / 1000)  # fmt: skip
        entrance = self.open(new)
        entrance.call = call
        self._calls[id(call)] = entrance
        self.open_media(entrance)

    def _refuse(self, call: Call, arrival: Arrival, decided: Admitted | Refused) -> None:
        if isinstance(decided, Admitted):
            self.admission.release(decided.org, decided.call)
            reason = Reason.CALLER_CANCELLED if call.is_over else Reason.NO_COMMON_CODEC
            decided = Refused(decided.call, decided.org, decided.caller, decided.callee, Termination.of(reason),
                              decided.route)  # fmt: skip
        why = decided.termination
        self.counters[f"refused_{why.reason}"] += 1
        log.warning("call refused", caller=decided.caller, callee=decided.callee, reason=why.reason, detail=why.detail)
        self.admission.record(arrival, decided)
        call.decide(answers=False)
        self.on_thread(lambda: call.refuse(STATUS_OF.get(why.reason, 503)))

    async def _place(self, placement: Placement) -> None:
        """Open the leg of an outbound call; the number is dialled when its agent is ready."""
        request = placement.request
        new = NewCall(call=placement.call, org=placement.org, entrance="sip", direction="outbound",
                      caller=self._account.username, callee=placement.number, agent=placement.agent, route=None,
                      fallback=Fallback(), state=CallState(codec="PCMU", rate_hz=8000, answered=False),
                      ring_timeout_s=request.ring_timeout_s)  # fmt: skip
        self.open(new)

    def open(self, new: NewCall) -> PyVoipCall:
        """A call's leg, its task included."""
        entrance = PyVoipCall(self, CallAudio(new.org, self._legs.gw, new.call, self._bus.send_frame))
        entrance.number = new.callee
        entrance.shell = self._legs.open(new, entrance)
        assert self._tasks is not None
        self._tasks.create_task(self._serve(entrance))
        return entrance

    def open_media(self, entrance: PyVoipCall) -> None:
        """Our RTP on the socket that was named in the session description."""
        from services.sip_gateway.pyvoip_phone import socket_of

        media = entrance.call.media if entrance.call is not None else None
        if media is None or entrance.rtp is not None:
            return
        law = _law(media)
        payload_type = media.payload_type(law.encoding_name)
        assert payload_type is not None
        settled = MediaFormat(law, payload_type, media.payload_type("telephone-event"))
        start = RtpStart(secrets.randbits(32), secrets.randbits(15), secrets.randbits(32))
        entrance.rtp = RtpSession(socket_of(media), settled, (media.outIP, media.outPort), entrance.audio, start)
        entrance.rtp.on_digit = entrance.shell.dtmf
        self.ticker.add(entrance.rtp)

    def dial(self, entrance: PyVoipCall) -> None:
        """Place the call that the leg is ready for; pyVoIP blocks until the far end says something."""
        assert self._tasks is not None
        self._tasks.create_task(self._dial(entrance))

    async def _dial(self, entrance: PyVoipCall) -> None:
        try:
            call = await self._loop.run_in_executor(self._pool, self._phone.call, entrance.number)
        except Exception as error:  # noqa: BLE001  the package has many ways to say that nobody answered
            entrance.shell.refused(Termination.of(Reason.TRUNK_FAILED, f"pyVoIP: {error}"))
            return
        entrance.call = call
        self._calls[id(call)] = entrance
        state = call.state.name.lower()  # what happened before the call had an owner here
        if state in ("ringing", "answered", "ended"):
            entrance.changed(state)

    async def _serve(self, entrance: PyVoipCall) -> None:
        try:
            await self._legs.serve(entrance.shell)
        finally:
            self.admission.release(entrance.shell.new.org, entrance.shell.new.call)
            if entrance.rtp is not None:
                self.ticker.remove(entrance.rtp)
                self.media.update(entrance.statistics().counters())
            if entrance.call is not None:
                entrance.call.decide(answers=False)
                self._calls.pop(id(entrance.call), None)
                media = entrance.call.media
                sock: socket.socket | None = media.sock if media is not None else None
                if sock is not None:
                    sock.close()


def _law(media: Media) -> Law:
    """The first law of the offer that both sides speak."""
    return next(law for name in map(str, media.assoc.values()) for law in Law if law.encoding_name == name)
