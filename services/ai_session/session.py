"""One call on this worker, from the accepted offer to its end: opening, tools, reconnects, deadlines.

The session's task ends by being cancelled: by the worker on a release, by itself through `end`. Children
(tools, commands, a reconnect) live in the session's TaskGroup and end with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
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
from libs.contracts.events import DtmfReceived, SessionTrouble
from libs.contracts.frame import AudioFrame
from libs.contracts.offer import CallState, Offer
from libs.contracts.termination import Reason
from libs.contracts.wire import agent_command_decoder
from libs.runtime.log import bound, get_logger
from services.ai_session.actions import Fail, HandOver, HangUp, NoteTrouble, RunTool, Why
from services.ai_session.backends.factory import BackendPlan
from services.ai_session.backends.port import BackendError, BackendEvent, Lost, SpeechStopped
from services.ai_session.bridge import Bridge, Escalation
from services.ai_session.history import Conversation, GoOn
from services.ai_session.journal import Journal
from services.ai_session.leg_link import LegLink
from services.ai_session.live_text import LiveTranscript
from services.ai_session.model_link import ModelLink
from services.ai_session.outstanding import Outstanding
from services.ai_session.renewal import Renewal
from services.ai_session.server_tools import ServerTools
from services.ai_session.settlement import Settlement
from services.ai_session.surroundings import Surroundings
from services.ai_session.tool_runs import ToolRuns
from services.ai_session.tools import ToolCaller

__all__ = ["Session", "Surroundings"]

log = get_logger()

NO_UPLINK_S = 2.0  # R2
LINK_LOSS_S = 10.0  # R3
AFTER_FAILURE_S = 2.0

_REASONS = {
    "refused": Reason.MODEL_REFUSED,
    "unreachable": Reason.MODEL_UNREACHABLE,
    "failed": Reason.MODEL_FAILED,
}
_REASON_TO_HANG_UP = {
    Why.MAX_DURATION: Reason.MAX_DURATION,
    Why.IDLE: Reason.CALLER_SILENT,
    Why.MACHINE: Reason.ANSWERING_MACHINE,
}


class Session:
    """The shell of one call and epoch. `uplink`, `tick`, `drain` and `end` are called by the worker."""

    def __init__(self, offer: Offer, plan: BackendPlan, around: Surroundings) -> None:
        self.offer = offer
        self._around = around
        self._journal = Journal(offer, around.outbox, around.budgets.add, around.ping_s)
        downlink = subjects.audio(offer.org, offer.gw, around.bus.process_id, offer.call, "dn")
        self.bridge = Bridge(
            offer,
            plan.capabilities,
            self._journal,
            lambda data: around.bus.send_frame(downlink, data),
            self._escalate,
            around.limits.of(plan.limit),
        )
        self._live = LiveTranscript(offer, around.bus.send_frame)
        self._caller = ToolCaller(offer, around.bus, around.tools)
        self._leg = LegLink(offer, around.bus)
        self._model = ModelLink(offer, plan, around.tools, self.bridge, self._on_event)
        self._outstanding = Outstanding()
        self._settlement = Settlement(self.bridge, self._model, self._outstanding)
        self._tools = ToolRuns(self._caller, self._journal, self.bridge, self._model, self._settlement, around.counters)
        self._renewal = Renewal(
            plan.session_max_s, self._model, self.bridge, self._outstanding, self._journal, around.counters
        )
        self._server_tools = ServerTools(self._journal, around.counters)
        self._loop = asyncio.get_running_loop()
        self.bridge.last_up_at = self._loop.time()
        self._group: asyncio.TaskGroup | None = None
        self._task: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        self._link_lost_at: float | None = None
        self._reconnecting = False
        self._ready = False  # the model's session is open, and the leg wants it
        self._go_on: GoOn | None = None  # how to begin once the call is answered
        self._drain_patience_s: float | None = None
        self._broken = self._failing = False
        self._day_is_spent = ""
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
                if not (self._reconnecting or self._settlement.is_running):
                    self._renewal.tick(now, self._spawn)
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

    def day_is_spent(self, sentence: str) -> None:
        """Nothing is left of the organisation's budget: say goodbye. May be called again and again."""
        if self._ready and self.bridge.state.answered and not self._settlement.is_running:
            now, self._day_is_spent = self._loop.time(), sentence
            self.bridge.do(self.bridge.turn.end_politely(Why.BUDGET, now), now)

    def drain(self, patience_s: float) -> None:
        """The worker shuts down: hand this call over at its next pause, or when patience ends."""
        self._drain_patience_s = patience_s
        if self._ready:
            now = self._loop.time()
            self.bridge.do(self.bridge.turn.drain(patience_s, now), now)

    def release(self, played: int | None) -> None:
        """The call is over. Nothing is said or heard any more, but what the model still owes is stored, briefly."""
        try:
            self._tools.of_call.call_over()
            self._settle(played)
        except Exception as error:  # noqa: BLE001  see uplink
            self._break(error)

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
            except Exception as error:  # the top of a call task: this call is given back, the others go on
                problems = error.exceptions if isinstance(error, BaseExceptionGroup) else (error,)
                log.exception("the session broke", problem="; ".join(map(repr, problems)))
                self.ended_by = "internal_error"
                await self._leg.ask(Failed(epoch=self.offer.epoch, reason=Reason.INTERNAL_ERROR, detail=str(error)))
            finally:
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
            await self._model.close()
            if self.ended_by == "no_uplink":  # harmless when nobody listens; a leg that does can act
                detail = f"no audio of the caller arrived for {NO_UPLINK_S:g} s"
                await self._leg.ask(Failed(epoch=self.offer.epoch, reason=Reason.INTERNAL_ERROR, detail=detail))
            if not self._around.bus.control.is_closed:
                await subscription.unsubscribe()

    def _begin(self, conversation: Conversation) -> None:
        now = self._loop.time()
        self._ready = True
        self._go_on = conversation.go_on
        if self.bridge.state.answered:
            self._talk(now)
        self.bridge.do(self.bridge.turn.spent(self._model.spent_usd, now), now)
        if self._drain_patience_s is not None:
            self.drain(self._drain_patience_s)

    def _talk(self, now: float) -> None:
        """Caller and agent hear each other from now on."""
        resume, turn = self.offer.resume, self.bridge.turn
        go_on, self._go_on = self._go_on, None
        if go_on is None:
            return
        talked_s = resume.talk_ms / 1000 if resume is not None else 0.0
        if self.bridge.state.transfer == "failed":  # while nobody had the call (R8): this comes before all else
            self.bridge.do([*turn.begin(GoOn.LISTEN, talked_s, now), *turn.transfer_failed(now)], now)
        else:
            self.bridge.do(turn.begin(go_on, talked_s, now), now)

    def _state_changed(self, state: CallState, now: float) -> None:
        before = self.bridge.state
        self.bridge.set_state(state)
        if not self._ready:
            return
        if self._go_on is not None:
            if state.answered:
                self._talk(now)
        elif state.transfer == "failed" != before.transfer and not self._tools.of_call.transfer_failed():
            self.bridge.do(self.bridge.turn.transfer_failed(now), now)

    async def _open_in_time(self) -> Conversation | None:
        limit_s = self.offer.agent.limits.ready_timeout_s
        try:
            async with asyncio.timeout(limit_s * 0.95):  # the gateway counts the same seconds
                return await self._model.open(self._around.bus, self._caller)
        except BackendError as error:
            reason, detail = _REASONS[error.kind], str(error)
        except TimeoutError:
            reason, detail = Reason.MODEL_UNREACHABLE, f"the model session was not open after {limit_s:g} s"
        await self._fail(reason, detail)
        return None

    async def _report_ready(self) -> bool:
        objection = await self._leg.insist(Ready(epoch=self.offer.epoch))
        if objection is not None:
            log.info("the leg does not want this session", answer=objection)
            self.end("not_wanted")
        return objection is None

    # -- the model's events ---------------------------------------------------------------------------

    def _on_event(self, event: BackendEvent) -> None:
        """An event of the present model connection."""
        try:
            if isinstance(event, SpeechStopped):
                self._journal.meter.endpointed(self.bridge.endpointing.silence_s())
            self._outstanding.note(event)
            self._server_tools.note(event, self._loop.time())
            self._live.note(event, watched=self.bridge.state.watched)
            if self._settlement.is_running:
                self._settlement.take(event, self._loop.time())
            else:
                self.bridge.on_event(event, self._loop.time())
        except Exception as error:  # noqa: BLE001  see uplink
            self._break(error)

    def _settle(self, played: int | None) -> None:
        is_served = self._ready and not self._reconnecting and not self._failing
        if self._settlement.begin(played, is_served=is_served, now=self._loop.time()):
            self._spawn(self._linger())
        else:
            self.end("released")

    async def _linger(self) -> None:
        await self._settlement.wait()
        self.end("released")

    # -- what needs waiting ---------------------------------------------------------------------------

    def _escalate(self, what: Escalation) -> None:
        if self._settlement.is_running:
            return
        match what:
            case RunTool():
                self._spawn(self._tools.run(what))
            case HandOver():
                log.info("asking for another worker")
                self._spawn(self._leg.tell(HandOverCommand(epoch=self.offer.epoch)))  # the turn machine asks again
            case HangUp(why):
                log.info("hanging up", why=why.value)
                reason = _REASON_TO_HANG_UP.get(why, Reason.AGENT_HUNG_UP)
                detail = (self._day_is_spent or "budget of the call is spent") if why is Why.BUDGET else ""
                command = HangUpCommand(epoch=self.offer.epoch, reason=reason, detail=detail)
                self._spawn(self._leg.press(command))
            case Fail(detail, reconnect):
                if reconnect:
                    self.bridge.on_event(Lost("stalled", detail), self._loop.time())
                else:
                    self._spawn(self._fail(Reason.MODEL_FAILED, detail))
            case Lost():
                self._outstanding.note(what)  # a session that we gave up ourselves owes nothing, either
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

    async def _reconnect(self, lost: Lost) -> None:
        """The model connection is gone: open another one with the conversation so far, or give the call back."""
        bridge = self.bridge
        log.warning("the model connection was lost", code=lost.code, detail=lost.detail, retry=lost.retry)
        bridge.do([NoteTrouble(lost.code, lost.detail)], self._loop.time())
        try:
            conversation = await self._model.replace(lost, self._journal)
        except BackendError as error:
            await self._fail(Reason.MODEL_FAILED, str(error))
            return
        self._reconnecting = False
        self._around.counters["reconnected"] += 1
        if self._go_on is not None:
            self._go_on = conversation.go_on
        elif self._ready:
            now = self._loop.time()
            bridge.do(bridge.turn.begin(conversation.go_on, 0.0, now), now)

    async def _fail(self, reason: Reason, detail: str) -> None:
        """Give the call back to the gateway; it releases us, or we end by ourselves a little later."""
        if self._failing:
            return
        self._failing = True
        log.warning("the session cannot serve the call", reason=reason.value, detail=detail)
        self.bridge.counters["trouble"] += 1
        self._journal.put(SessionTrouble, code=reason.value, detail=detail, fatal=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(AFTER_FAILURE_S):
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
                self._state_changed(command.state, now)
                answer = CommandReply(ok=True)
            case DtmfPressed():
                if self.bridge.state.answered:
                    self._journal.remember(DtmfReceived, digit=command.digit)
                    self.bridge.do(self.bridge.turn.pressed(command.digit, now), now)
                answer = CommandReply(ok=True)
            case SayNow() if not self._ready or self._reconnecting or not self.bridge.state.answered:
                answer = CommandReply(ok=False, error="the model's session is not open at the moment: try again")
            case SayNow():
                self.bridge.do(self.bridge.turn.say(command.text, now), now)
                answer = CommandReply(ok=True)
        if msg.reply:
            await msg.respond(answer.to_json())


async def _fail_with(error: Exception) -> None:
    raise error
