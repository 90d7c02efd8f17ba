"""One call on this worker, from the accepted offer to its end: opening, tools, reconnects, deadlines.

The session's task ends by being cancelled: by the worker on a release, by itself through `end`. Children
(tools, commands, a reconnect) live in the session's TaskGroup and end with it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, assert_never

from nats.aio.msg import Msg

from libs.contracts import subjects
from libs.contracts.commands import (
    CommandReply,
    DtmfPressed,
    Failed,
    HandOver as HandOverCommand,
    HangUp as HangUpCommand,
    Ready,
    SayNow,
    StateChanged,
)
from libs.contracts.events import AgentText, AgentTurn, CallerSpoke, CallerTurn, Event, ToolCalled, ToolReturned
from libs.contracts.frame import AudioFrame
from libs.contracts.offer import Offer
from libs.contracts.termination import Reason
from libs.contracts.wire import agent_command_decoder
from libs.runtime.bus import Bus
from libs.runtime.log import bound, get_logger
from services.ai_session.actions import Fail, HandOver, HangUp, NoteTrouble, RunTool, Why
from services.ai_session.backends.factory import BackendPlan
from services.ai_session.backends.port import BackendError, BackendEvent, Lost, Opening, SpeechBackend
from services.ai_session.bridge import Bridge, Escalation
from services.ai_session.history import Conversation, rebuild, render
from services.ai_session.journal import Journal, Outbox
from services.ai_session.leg_link import LegLink
from services.ai_session.resume import read_events
from services.ai_session.tools import HANG_UP, ToolCaller, ToolDirectory, parse_arguments

log = get_logger()

NO_UPLINK_S = 2.0  # R2
LINK_LOSS_S = 10.0  # R3
RECONNECT_ATTEMPTS = 2
RECONNECT_TIMEOUT_S = 4.0
STEADY_S = 10.0  # a connection that lasted this long was well; losses after shorter times are counted together
LOSSES_IN_A_ROW = 3
TAIL_S = 2.0  # how long received speech may go on playing before a lost connection is replaced
AFTER_FAILURE_S = 2.0

_REASONS = {
    "refused": Reason.MODEL_REFUSED,
    "unreachable": Reason.MODEL_UNREACHABLE,
    "failed": Reason.MODEL_FAILED,
}
_CONVERSATION = (CallerSpoke, CallerTurn, AgentText, AgentTurn, ToolCalled, ToolReturned)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all sessions of a worker share."""

    bus: Bus
    outbox: Outbox
    tools: ToolDirectory
    counters: Counter[str]


class Session:
    """The shell of one call and epoch. `uplink`, `tick`, `drain` and `end` are called by the worker."""

    def __init__(self, offer: Offer, plan: BackendPlan, around: Surroundings) -> None:
        self.offer = offer
        self._plan = plan
        self._around = around
        self._journal = Journal(offer, around.outbox)
        downlink = subjects.audio(offer.org, offer.gw, around.bus.process_id, offer.call, "dn")
        self.bridge = Bridge(
            offer, plan.capabilities, self._journal, lambda data: around.bus.send_frame(downlink, data), self._escalate
        )
        self._caller = ToolCaller(offer, around.bus, around.tools)
        self._leg = LegLink(offer, around.bus)
        self._past: list[Event] = []
        self._instructions = ""
        self._backend: SpeechBackend | None = None
        self._loop = asyncio.get_running_loop()
        self.bridge.last_up_at = self._loop.time()
        self._group: asyncio.TaskGroup | None = None
        self._task: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        self._link_lost_at: float | None = None
        self._reconnecting = False
        self._connected_at = 0.0
        self._losses_in_a_row = 0
        self._ready = False
        self._drain_patience_s: float | None = None
        self._broken = False
        self.ended_by = ""

    # -- called by the worker -------------------------------------------------------------------------

    def claim(self) -> None:
        """Prove the new epoch to the gateway at once."""
        self.bridge.claim(self._loop.time())

    def uplink(self, frame: AudioFrame, now: float) -> None:
        """One frame of the caller."""
        try:
            self.bridge.uplink(frame, now)
        except Exception as error:  # noqa: BLE001  a defect ends this call, not the worker's other ones
            self._break(error)

    def tick(self, now: float, late_s: float) -> None:
        """About ten times a second. `late_s`: a late ticker has not read its sockets and judges nobody (R3)."""
        if self._ready:
            try:
                self.bridge.tick(now)
            except Exception as error:  # noqa: BLE001  see uplink
                self._break(error)
        up_at = self._around.bus.media_link.up_at
        if up_at is None:
            self._link_lost_at = self._link_lost_at or now
            if now - self._link_lost_at > LINK_LOSS_S:
                self.end("link_lost")
            return
        self._link_lost_at = None
        if late_s < 0.1 and now - max(self.bridge.last_up_at, up_at) > NO_UPLINK_S:
            self.end("no_uplink")

    def drain(self, patience_s: float) -> None:
        """The worker shuts down: hand this call over at its next pause, or when patience ends."""
        self._drain_patience_s = patience_s
        if self._ready:
            now = self._loop.time()
            self.bridge.do(self.bridge.turn.drain(patience_s, now), now)

    def end(self, cause: str) -> None:
        """End the session silently; the first cause stands."""
        if not self.ended_by:
            self.ended_by = cause
            self._over.set()  # asyncio.wait_for loses a cancellation that meets its result (before 3.12)
            if self._task is not None:
                self._task.cancel()

    # -- the call's task -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the call until it is released or ends itself; never raises but for the worker's own cancellation."""
        self._task = asyncio.current_task()
        with bound(call=self.offer.call, epoch=self.offer.epoch):
            try:
                if not self.ended_by:
                    await self._serve()
            except asyncio.CancelledError:
                if not self.ended_by:
                    raise
            except Exception as error:
                problems = error.exceptions if isinstance(error, BaseExceptionGroup) else (error,)
                log.exception("the session broke", problem="; ".join(map(repr, problems)))
                self.ended_by = "internal_error"
                await self._leg.ask(Failed(epoch=self.offer.epoch, reason=Reason.INTERNAL_ERROR, detail=str(error)))
            finally:
                self._count()
                log.info("session ended", cause=self.ended_by or "cancelled", **self.bridge.verdict())

    async def _serve(self) -> None:
        offer = self.offer
        log.info(
            "session begins", agent=offer.agent.name, backend=offer.agent.backend, resumed=offer.resume is not None
        )
        subject = subjects.control(offer.org, offer.call, "agent")
        subscription = await self._around.bus.control.subscribe(subject, cb=self._on_command)
        try:
            async with asyncio.TaskGroup() as self._group:
                conversation = await self._open_in_time()
                if conversation is not None and await self._report_ready():
                    self._begin(conversation)
                await self._over.wait()
                raise asyncio.CancelledError  # the children end, too
        finally:
            self.bridge.attach(None)
            if self._backend is not None:
                await self._backend.close()
            if not self._around.bus.control.is_closed:
                await subscription.unsubscribe()

    def _begin(self, conversation: Conversation) -> None:
        resume, now = self.offer.resume, self._loop.time()
        self._ready = True
        talked_s = resume.talk_ms / 1000 if resume is not None else 0.0
        self.bridge.do(self.bridge.turn.begin(conversation.go_on, talked_s, now), now)
        if self._drain_patience_s is not None:
            self.drain(self._drain_patience_s)

    async def _open_in_time(self) -> Conversation | None:
        limit_s = self.offer.agent.limits.ready_timeout_s
        try:
            async with asyncio.timeout(limit_s * 0.95):  # the gateway counts the same seconds
                return await self._open_first()
        except BackendError as error:
            reason, detail = _REASONS[error.kind], str(error)
        except TimeoutError:
            reason, detail = Reason.MODEL_UNREACHABLE, f"the model session was not open after {limit_s:g} s"
        await self._fail(reason, detail)
        return None

    async def _open_first(self) -> Conversation:
        offer = self.offer
        conversation = Conversation()
        async with asyncio.TaskGroup() as both:
            filling = both.create_task(self._caller.fill(offer.agent.prompt))
            if offer.resume is not None:
                self._past = await read_events(self._around.bus.js, offer.org, offer.call)
                conversation = rebuild(self._past, offer.resume.played)
                log.info("conversation rebuilt", items=len(conversation.items), go_on=conversation.go_on.value)
        self._instructions = filling.result()
        try:
            await self._open_backend(conversation)
        except BackendError as error:
            if not error.retry:
                raise
            log.warning("the model session did not open, trying once more", problem=str(error))
            await self._open_backend(conversation)
        return conversation

    async def _open_backend(self, conversation: Conversation) -> None:
        descriptions = await self._around.tools.descriptions(self.offer.agent.tools)
        backend: SpeechBackend | None = None

        def emit(event: BackendEvent) -> None:
            if backend is not self._backend:  # a predecessor's late event concerns nobody
                return
            try:
                self.bridge.on_event(event, self._loop.time())
            except Exception as error:  # noqa: BLE001  see uplink
                self._break(error)

        backend = self._plan.make(emit)
        self._backend = backend
        try:
            await backend.open(Opening(self._instructions, descriptions, conversation.items))
        except BaseException:
            await backend.close()
            raise
        self.bridge.attach(backend)
        self._connected_at = self._loop.time()

    async def _report_ready(self) -> bool:
        objection = await self._leg.insist(Ready(epoch=self.offer.epoch))
        if objection is not None:
            log.info("the leg does not want this session", answer=objection)
            self.end("not_wanted")
        return objection is None

    # -- what needs waiting ---------------------------------------------------------------------------

    def _escalate(self, what: Escalation) -> None:
        match what:
            case RunTool():
                self._spawn(self._run_tool(what))
            case HandOver():
                log.info("handing the call over")
                self._spawn(self._leg.tell(HandOverCommand(epoch=self.offer.epoch)))
            case HangUp(why):
                log.info("hanging up", why=why.value)
                reason = Reason.MAX_DURATION if why is Why.MAX_DURATION else Reason.AGENT_HUNG_UP
                detail = "budget of the call is spent" if why is Why.BUDGET else ""
                command = HangUpCommand(epoch=self.offer.epoch, reason=reason, detail=detail)
                self._spawn(self._leg.tell(command))
            case Fail(detail, reconnect):
                if reconnect:
                    self.bridge.on_event(Lost("stalled", detail), self._loop.time())
                else:
                    self._spawn(self._fail(Reason.MODEL_FAILED, detail))
            case Lost():
                if not self._reconnecting:
                    self._reconnecting = True
                    self._spawn(self._reconnect(what))
            case _:
                assert_never(what)

    def _break(self, error: Exception) -> None:
        """A defect in the hot path: let the call's task fail with it, once."""
        if not self._broken:
            self._broken = True
            self._spawn(_fail_with(error))

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        if self._group is not None and not self.ended_by:
            self._group.create_task(work)
        else:
            work.close()

    async def _run_tool(self, request: RunTool) -> None:
        """Call one tool and hand its output to the model; tools of one response run side by side."""
        began, asked_by = self._loop.time(), self._backend
        arguments = parse_arguments(request.arguments)
        self._journal.put(ToolCalled, tool_call_id=request.tool_call_id, name=request.name, arguments=arguments or {})
        ends_call = request.name == HANG_UP.name and HANG_UP.name in self.offer.agent.tools
        ok, output = True, None
        if arguments is None:
            ok, output = False, {"error": "The arguments were not a JSON object. Call the tool again, correctly."}
        elif not ends_call:
            reply = await self._caller.call(request.tool_call_id, request.name, arguments)
            ok, output = reply.ok, reply.output if reply.ok else {"error": reply.error}
        now = self._loop.time()
        took_ms = (now - began) * 1000
        self._around.counters["tool_calls" if ok else "tool_failures"] += 1
        self._journal.put(
            ToolReturned, tool_call_id=request.tool_call_id, name=request.name, ok=ok, output=output, took_ms=took_ms
        )
        self.bridge.tool_done(now)
        if ends_call:
            self.bridge.do(self.bridge.turn.end_politely(Why.AGENT, now), now)
        elif asked_by is not None and asked_by is self._backend:  # a new connection was told "unknown" in its replay
            asked_by.tool_result(request.tool_call_id, render(output))

    async def _reconnect(self, lost: Lost) -> None:
        """The model connection is gone: open another one with the conversation so far, or give the call back."""
        bridge = self.bridge
        log.warning("the model connection was lost", code=lost.code, detail=lost.detail, retry=lost.retry)
        bridge.do([NoteTrouble(lost.code, lost.detail)], self._loop.time())
        if self._backend is not None:
            await self._backend.close()
        await self._let_tail_play()
        problem = lost.detail or f"the model connection was lost ({lost.code})"
        conversation = self._so_far()
        for _ in range(RECONNECT_ATTEMPTS if lost.retry and self._may_reconnect() else 0):
            try:
                async with asyncio.timeout(RECONNECT_TIMEOUT_S):
                    await self._open_backend(conversation)
            except (BackendError, TimeoutError) as error:
                problem = str(error) or f"the model session was not open after {RECONNECT_TIMEOUT_S:g} s"
                continue
            self._reconnecting = False
            self._around.counters["reconnected"] += 1
            if self._ready:
                now = self._loop.time()
                bridge.do(bridge.turn.begin(conversation.go_on, 0.0, now), now)
            return
        await self._fail(Reason.MODEL_FAILED, problem)

    def _may_reconnect(self) -> bool:
        """A server that takes every connection and drops it at once is not asked forever."""
        if self._loop.time() - self._connected_at >= STEADY_S:
            self._losses_in_a_row = 0
        self._losses_in_a_row += 1
        return self._losses_in_a_row < LOSSES_IN_A_ROW

    async def _let_tail_play(self) -> None:
        """What was received may be heard to its end, if that is near; else it is cut, so that the ledger is exact."""
        bridge = self.bridge
        for limit_s in (TAIL_S, 1.0):
            if not bridge.playout.busy:
                return
            bridge.drained.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    await bridge.drained.wait()
                    return
            bridge.flush()

    def _so_far(self) -> Conversation:
        events = [*self._past, *(event for event in self._journal.events if isinstance(event, _CONVERSATION))]
        played = dict(self.offer.resume.played) if self.offer.resume is not None else {}
        return rebuild(events, played | {self.offer.epoch: self.bridge.playout.played})

    async def _fail(self, reason: Reason, detail: str) -> None:
        """Give the call back to the gateway; it releases us, or we end by ourselves a little later."""
        log.warning("the session cannot serve the call", reason=reason.value, detail=detail)
        self.bridge.do([NoteTrouble(reason.value, detail)], self._loop.time())
        await self._leg.tell(Failed(epoch=self.offer.epoch, reason=reason, detail=detail))
        await asyncio.sleep(AFTER_FAILURE_S)
        self.end(reason.value)

    # -- commands --------------------------------------------------------------------------------------

    async def _on_command(self, msg: Msg) -> None:
        """A command of the gateway to the session (R7)."""
        now = self._loop.time()
        command = agent_command_decoder().decode(msg.data)
        match command:
            case None:
                answer = CommandReply(ok=False, error="this command is not understood here")
            case _ if command.epoch is not None and command.epoch != self.offer.epoch:
                answer = CommandReply(ok=False, error=f"epoch {command.epoch} is not served here")
            case StateChanged():
                answer = CommandReply(ok=True)
            case DtmfPressed():
                self.bridge.do(self.bridge.turn.pressed(command.digit, now), now)
                answer = CommandReply(ok=True)
            case SayNow():
                self.bridge.do(self.bridge.turn.say(command.text, now), now)
                answer = CommandReply(ok=True)
        if msg.reply:
            await msg.respond(answer.to_json())

    def _count(self) -> None:
        self._around.counters.update(self.bridge.verdict())
        self._around.counters["sessions"] += 1


async def _fail_with(error: Exception) -> None:
    raise error
