"""The application between Twilio and call legs: who calls whom, what Twilio is told to do, which stream is whose."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any

from libs.call_leg.admission import Arrival, Refused
from libs.call_leg.admission_shell import Admission
from libs.call_leg.audio import CallAudio
from libs.call_leg.fences import NotAllowedError, OutboundFence
from libs.call_leg.gateway import CallLegs
from libs.call_leg.last_words import LastWords
from libs.call_leg.numbers import normalise
from libs.call_leg.originate import Placement
from libs.call_leg.ports import NewCall
from libs.contracts.config import Fallback
from libs.contracts.ids import new_call_id
from libs.contracts.offer import CallState
from libs.contracts.termination import Reason, Termination
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger
from services.twilio_gateway import twiml
from services.twilio_gateway.call import RATE_HZ, Live, Next, NoAgent, TwilioCall
from services.twilio_gateway.callers import party
from services.twilio_gateway.farewells import KEPT_S, Caller, Farewells, Kept
from services.twilio_gateway.outcomes import end_of_attempt, end_of_request
from services.twilio_gateway.rest import TwilioApi, TwilioError, insist
from services.twilio_gateway.settings import Settings
from services.twilio_gateway.streams import Streams
from services.twilio_gateway.ticker import Ticked, Ticker
from services.twilio_gateway.transfers import Transfers

log = get_logger()

Form = Mapping[str, str]
NO_FALLBACK = Fallback()
TRUNK = "twilio"
OVER = ("completed", "busy", "no-answer", "failed", "canceled")  # values of CallStatus


class TwilioGateway:
    """Its coroutines and methods answer the web server; `run` serves the calls until cancelled."""

    def __init__(self, settings: Settings, bus: Bus, legs: CallLegs, admission: Admission, api: TwilioApi) -> None:
        self._settings = settings
        self._legs = legs
        self._admission = admission
        self._api = api
        self._send_frame = bus.send_frame
        self._loop = asyncio.get_running_loop()
        self._tasks: asyncio.TaskGroup | None = None
        self._live: dict[str, Live] = {}  # by our call id
        self._by_sid: dict[str, Live] = {}
        self._arriving: dict[str, asyncio.Future[Live | str]] = {}  # by CallSid, until admitted or refused
        self._given_up: Kept[bool] = Kept()  # outbound calls that ended here before their answer
        self.streams = Streams(self._knows, self._started)
        self.last_words = LastWords(bus, legs.gw)
        self.farewells = Farewells(settings, self.last_words, self._spawn)
        self.farewells.open, self.farewells.connect, self.farewells.left = self._made, self._connect, self._left
        self._fence = OutboundFence(settings.outbound_rules)
        self.transfers = Transfers(settings, self._fence, self._live.get, self.after)
        self.ticker = Ticker(self._ticked, self._media_failed)
        self.counters: Counter[str] = Counter()
        self.media: Counter[str] = Counter()
        """Media statistics of all calls that ended."""
        self.streamed: Counter[str] = Counter()
        """What their streams have counted: messages, gaps, marks, clears."""

    async def run(self) -> None:
        """Serve calls; each is a task of one group."""
        async with asyncio.TaskGroup() as self._tasks:
            await asyncio.Event().wait()

    @property
    def is_busy(self) -> bool:
        """Whether any call lasts, or has not quite left."""
        return bool(self._live) or self.farewells.is_busy

    async def leave(self, timeout_s: float, linger_s: float) -> None:
        """At the end: let calls that were ended leave, and answer what Twilio asks when their streams are closed."""
        if not self._live:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asyncio.wait([live.left for live in self._live.values()])
        await asyncio.sleep(linger_s)

    def _ticked(self, lateness_s: float, now: float) -> None:
        self._legs.roster.ticked(lateness_s, now)

    def _media_failed(self, failed: Ticked) -> None:
        if isinstance(failed, TwilioCall):
            failed.end(Termination.of(Reason.INTERNAL_ERROR, "a defect in the gateway's media; see its log"))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._tasks is None:
            work.close()
            return
        self._tasks.create_task(self._guarded(work))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:  # the top of a call's task: a defect there costs that call, and no other
            self.counters["defects"] += 1
            log.exception("a call's task failed")

    def _url(self, path: str) -> str:
        return f"{self._settings.public_url}{path}"

    # -- inbound -------------------------------------------------------------------------------------------------

    async def voice(self, form: Form) -> str:
        """A number of ours is called: TwiML once the agent is ready, so that the caller hears ringing until then."""
        sid = form.get("CallSid", "")
        live = self._by_sid.get(sid)
        if live is None:  # else Twilio repeats a request whose answer it did not get
            if (leaving := self.farewells.find(sid)) is not None:
                return self._connect(leaving, form.get("To", ""))
            accepted = await self._arrived(sid, form)
            if isinstance(accepted, str):
                return accepted
            live = accepted
        try:
            async with asyncio.timeout(self._settings.twilio_ring_s):
                verdict = await asyncio.shield(live.call.verdict)
        except TimeoutError:
            verdict = live.call.rang_enough()  # Twilio waits 15 s for us: it answers, the caller waits with a tone
        if verdict is None or live.call.parting is not None:
            return self._connect_to_agent(live)
        return self.farewells.refusal(verdict)

    async def _arrived(self, sid: str, form: Form) -> Live | str:
        """One call for each CallSid, however often and fast Twilio asks: admission takes its time."""
        if (arriving := self._arriving.get(sid)) is not None:
            return await asyncio.shield(arriving)
        arriving = self._arriving[sid] = self._loop.create_future()
        try:
            accepted = await self._accept(sid, form)
            arriving.set_result(accepted)
            return accepted
        finally:
            arriving.cancel()  # where it has no result: the repeated requests fail with this one
            del self._arriving[sid]

    async def _accept(self, sid: str, form: Form) -> Live | str:
        """The call; or the TwiML for one that was refused."""
        arrival = Arrival(new_call_id(), "twilio", party(form.get("From", "")), party(form.get("To", "")),
                          country=self._settings.default_country)  # fmt: skip
        admitted = await self._admission.admit(arrival)
        if isinstance(admitted, Refused):
            self._admission.record(arrival, admitted)
            self.counters["refused"] += 1
            end = admitted.termination
            log.info("call refused", caller=admitted.caller, callee=admitted.callee, why=end.reason, detail=end.detail)
            no_agent = NoAgent(admitted.fallback or NO_FALLBACK, end)
            if not self.farewells.takes_message(no_agent):
                return self.farewells.refusal(no_agent)
            caller = Caller(admitted.call, admitted.org, admitted.callee, sid)
            return self.farewells.take_message(caller, no_agent.fallback)
        route = admitted.route
        new = NewCall(
            call=admitted.call, org=admitted.org, entrance="twilio", direction="inbound", caller=admitted.caller,
            callee=admitted.callee, agent=admitted.agent, route=route.name, fallback=route.fallback,
            state=CallState(codec="PCMU", rate_hz=RATE_HZ), needs_person=route.answer == "manual",
            person_timeout_s=route.person_timeout_s, answer_delay_s=route.answer_delay_ms / 1000,
        )  # fmt: skip
        return self._open(new, sid)

    def _open(self, new: NewCall, sid: str) -> Live:
        call = self._made(new.org, new.call)
        call.may_reach = self._may_reach
        call.is_outbound = new.direction == "outbound"
        live = Live(self._legs.open(new, call), call, self._loop.create_future())
        call.shell = live.shell
        call.complete = lambda: self._complete(live)
        call.update = lambda: self._update(live)
        self._live[new.call] = live
        self._knows(call, sid)
        self.counters[new.direction] += 1
        log.info("call offered", call=new.call, caller=new.caller, callee=new.callee, agent=new.agent.name, sid=sid)
        self._spawn(self._serve(live))
        return live

    def _made(self, org: str, call_id: str) -> TwilioCall:
        audio = CallAudio(org, self._legs.gw, call_id, self._send_frame, rate_hz=RATE_HZ)
        call = TwilioCall(call_id, audio, self._spawn, self.last_words)
        self.ticker.add(call)
        return call

    def _may_reach(self, target: str) -> str | None:
        """Why nobody is transferred there; None when it is allowed. An agent's word opens no costly numbers."""
        try:
            self._fence.number(target)
        except NotAllowedError as objection:
            return str(objection)
        return None

    def _knows(self, call: TwilioCall, sid: str) -> None:
        call.call_sid = sid
        live = self._live.get(call.call)
        if sid and live is not None:
            self._by_sid[sid] = live

    def _started(self, call: TwilioCall) -> None:
        """Its stream has started."""
        live = self._live.get(call.call)
        if live is not None:
            self._answered(live)

    async def _serve(self, live: Live) -> None:
        call = live.call
        try:
            await self._legs.serve(live.shell)
            await call.finish()
        finally:
            live.left.set_result(None)
            self._admission.release(live.shell.new.org, call.call)
            self.farewells.part(call)
            if call.is_outbound and not call.is_answered:
                self._given_up.keep(call.call, True, live.shell.new.ring_timeout_s + KEPT_S)
            del self._live[call.call]
            if self._by_sid.get(call.call_sid) is live:
                del self._by_sid[call.call_sid]
            self._left(call)

    def _left(self, call: TwilioCall) -> None:
        self.ticker.remove(call)
        self.streamed.update(call.totals())
        self.media.update(call.statistics().counters())
        self.streams.forget(call)

    # -- what Twilio is to do --------------------------------------------------------------------------------------

    def _connect_to_agent(self, live: Live, ringing_s: float = 0) -> str:
        new = live.shell.new
        return self._connect(live.call, new.callee, new.agent.name, ringing_s)

    def _connect(self, call: TwilioCall, number: str, agent: str = "", ringing_s: float = 0) -> str:
        if not ringing_s:
            call.expect_line()
        parameters = {"token": self.streams.ticket(call, ringing_s), "number": number}
        if agent:
            parameters["agent"] = agent
        return twiml.connect(f"{self._settings.stream_url}/media", parameters, self._url(f"/calls/{call.call}/after"))

    def after(self, call: str) -> str:
        """A stream has ended: what the call does next."""
        live = self._live.get(call)
        if live is None:
            return self.farewells.after(call, None)
        if live.call.next is Next.HANG_UP or live.call.unheard is not None:
            return self.farewells.after(call, live.call)
        if live.call.next is Next.DIAL:
            return self.transfers.dial(live)
        return self._connect_to_agent(live)

    # -- outbound, and the course of a call ----------------------------------------------------------------------

    def fences(self) -> dict[str, OutboundFence]:
        """Our one trunk, where a number of ours is named as its caller id."""
        return {TRUNK: self._fence} if self._settings.twilio_from else {}

    async def place(self, placement: Placement) -> Termination | None:
        """Begin an outbound call; its number is dialled once the agent is ready."""
        request, ours = placement.request, self._settings.twilio_from
        caller = ours[0] if request.caller is None else normalise(request.caller, self._settings.default_country)
        if caller not in ours:
            return Termination.of(Reason.NUMBER_NOT_ALLOWED, f"{caller} is none of TWILIO_FROM ({', '.join(ours)})")
        new = NewCall(
            call=placement.call, org=placement.org, entrance="twilio", direction="outbound", caller=caller,
            callee=placement.number, agent=placement.agent, route=None, fallback=NO_FALLBACK,
            state=CallState(codec="PCMU", rate_hz=RATE_HZ), ring_timeout_s=request.ring_timeout_s,
        )  # fmt: skip
        live = self._open(new, "")
        live.call.place = lambda: self._place(live)
        return None

    async def _place(self, live: Live) -> None:
        new, call = live.shell.new, live.call
        document = self._connect_to_agent(live, ringing_s=new.ring_timeout_s)
        try:
            sid = await self._api.create(
                new.callee, new.caller, document, self._url(f"/calls/{new.call}/status"), int(new.ring_timeout_s)
            )
        except TwilioError as error:
            if error.status or not call.call_sid:
                live.shell.refused(end_of_request(error))
                return
            sid = call.call_sid  # the answer did not come, and a status callback did: the number is being called
        call.call_sid = sid
        if call.next is Next.HANG_UP or new.call not in self._live:  # given up while the request was under way
            await self._complete(live)
        else:
            self._knows(call, sid)

    def status(self, call: str, form: Form) -> None:
        """The course of an outbound call (`StatusCallback`)."""
        live, sid = self._live.get(call), form.get("CallSid", "")
        if live is not None:
            if sid and not live.call.call_sid:  # faster than the answer to our request
                self._knows(live.call, sid)
            self._status(live, form)
        elif sid and form.get("CallStatus") not in OVER and self._given_up.pop(call, False):
            # what placed it was answered too late, or what ended it failed: nobody is to find a dead line
            self.counters["late_calls_ended"] += 1
            self._spawn(self._end_at_twilio(sid))

    def number_status(self, form: Form) -> None:
        """The number's own status callback: how we hear of a caller who gives up while it rings."""
        sid = form.get("CallSid", "")
        live, leaving = self._by_sid.get(sid), self.farewells.find(sid)
        if live is not None:
            self._status(live, form)
        elif leaving is not None and form.get("CallStatus") in OVER:
            leaving.gone()

    def _status(self, live: Live, form: Form) -> None:
        status, call = form.get("CallStatus", ""), live.call
        if status in OVER:
            if status == "completed" or not call.is_outbound:
                call.gone()
            else:
                call.next = Next.HANG_UP
                live.shell.refused(end_of_attempt(status, form.get("SipResponseCode", "")))
        elif call.is_outbound and status == "ringing":
            live.shell.ringing(180, False)
        elif call.is_outbound and status == "in-progress":
            self._answered(live)

    def _answered(self, live: Live) -> None:
        if live.call.is_outbound and not live.call.is_answered:
            live.call.answered()
            live.shell.answered("PCMU", RATE_HZ)

    async def _complete(self, live: Live) -> None:
        if not live.call.call_sid:
            return  # the request to place it is under way; `_place` sees to it
        await self._end_at_twilio(live.call.call_sid)

    async def _end_at_twilio(self, sid: str) -> None:
        if (error := await insist(lambda: self._api.complete(sid))) is not None:
            log.info("not hung up", sid=sid, problem=str(error))

    async def _update(self, live: Live) -> None:
        """The call leaves whatever it does for what is to come next."""
        call = live.call

        async def instruct() -> None:
            if call.next is not Next.CONNECT or call.line is None:  # else it is back already
                await self._api.update(call.call_sid, self.after(call.call))

        error = await insist(instruct)
        if error is None:
            return
        log.info("call not changed", call=call.call, problem=str(error))
        if error.may_pass:
            live.shell.end(Termination.of(Reason.TRUNK_FAILED, str(error)))
        else:
            call.gone("the call has ended at Twilio")
