"""NATS around one leg: performs its actions, feeds it replies, commands and time. One TaskGroup per call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import nats.errors

from libs.audio.tone import waiting_tone
from libs.call_leg import actions as do
from libs.call_leg.agent_line import AgentLine
from libs.call_leg.announcement import Announcement
from libs.call_leg.audience import Audience
from libs.call_leg.command_desk import CommandDesk
from libs.call_leg.context import LegContext
from libs.call_leg.instruments import answered
from libs.call_leg.journal import CallJournal
from libs.call_leg.leg import Leg, LegConfig
from libs.call_leg.phase import Phase
from libs.call_leg.ports import Entrance, NewCall, TransferTarget
from libs.call_leg.roster import Gone
from libs.call_leg.search import LATE_S, OFFER_TIMEOUT_S
from libs.call_leg.state import description, entry_of, resume_of, session_state
from libs.contracts import subjects
from libs.contracts.commands import Command, CommandReply, DtmfPressed, LegCommand, SayNow, StateChanged
from libs.contracts.heartbeat import CallEntry
from libs.contracts.offer import CallState, Offer, Release
from libs.contracts.recording import RecordRequest
from libs.contracts.termination import Reason, Termination
from libs.runtime.log import get_logger

log = get_logger()


class LegShell:
    """One call at a gateway, from `run()` to its end. `libs.call_leg.ports` tells what the entrance calls when."""

    def __init__(self, context: LegContext, new: NewCall, entrance: Entrance) -> None:
        self._gw = context.gw
        self._bus = context.bus
        self._journal = CallJournal(new, context.gw, context.outbox)
        self._copy = context.copy
        self._usd_per_day = context.usd_per_day
        self.new = new
        self.entrance = entrance
        self.audio = entrance.audio
        agent = new.agent
        config = LegConfig(
            new.call,
            ready_timeout_s=agent.limits.ready_timeout_s,
            max_duration_s=agent.limits.max_duration_s,
            fallback_status=new.fallback.status,
            outbound=new.direction == "outbound",
            ring_timeout_s=new.ring_timeout_s,
            needs_person=new.needs_person,
            person_timeout_s=new.person_timeout_s,
            answer_delay_s=new.answer_delay_s,
        )
        self.leg = Leg(config, context.roster, lambda: self.audio.playout.played)
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._offers: set[asyncio.Task[None]] = set()
        self._tasks: asyncio.TaskGroup | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._todo: deque[do.Action] = deque()
        self._is_performing = False
        self._commands = CommandDesk(self)
        self._pacing: Any = "paced"
        self._offered_at = datetime.now(UTC)
        self._codec: str = new.state.codec
        self._is_starting_transfer = False
        self._line = AgentLine(context.bus, subjects.control(new.org, new.call, "agent"))
        self.audience = Audience(context.bus, self.audio, self._journal, self._record_request, self._tell_state)
        self._announcement = Announcement(self.audio, self._ask_to_announce, self._announced)

    # -- life -----------------------------------------------------------------------------------------------

    def announce(self) -> None:
        """Let the stream know of the call, before anything else of it can be told."""
        self._journal.offered()

    async def run(self) -> None:
        """Serve the call until it has ended; then everything that belongs to it is closed."""
        new = self.new
        subscription = await self._bus.control.subscribe(
            subjects.control(new.org, new.call, "leg"), cb=self._commands.received
        )
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._line.tasks = self.audience.tasks = self._tasks
                if self.leg.phase is Phase.NEW:  # the caller may have gone while we subscribed
                    self.perform(self.leg.start(self._loop.time()))
                await self._ended.wait()
                if self._offers:  # who accepts now is told
                    await asyncio.wait(self._offers, timeout=OFFER_TIMEOUT_S)
                for offer in self._offers:
                    offer.cancel()
        finally:
            self._tasks = self._line.tasks = self.audience.tasks = None
            if self._timer is not None:
                self._timer.cancel()
            if not self._bus.control.is_closed:
                await subscription.unsubscribe()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.leg.deadline()
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        self.perform(self.leg.expire(self._loop.time()))

    # -- what happens to the call ------------------------------------------------------------------------------

    def caller_gone(self, reason: Reason, detail: str = "") -> None:
        """The caller's side ended it."""
        self.perform(self.leg.caller_gone(reason, self._loop.time(), detail))

    def ringing(self, status: int, early_media: bool = False) -> None:
        """Outbound: the callee is alerted (SIP 180, 183, or their like)."""
        self.perform(self.leg.ringing(status, early_media))

    def answered(self, codec: str, rate_hz: int) -> None:
        """Outbound: the callee picked up; `codec` and `rate_hz` are those of the line."""
        is_news = self.leg.answered_at is None
        if is_news and codec in ("PCMU", "PCMA", "G722", "L16") and rate_hz == self.new.state.rate_hz:
            self._codec = codec
        self.perform(self.leg.answered(codec, rate_hz, self._loop.time()))

    def refused(self, termination: Termination) -> None:
        """The entrance ended the call before its answer: busy, no answer, declined, the trunk failed."""
        self.perform(self.leg.end(termination, self._loop.time(), by_caller=True))

    def transfer_progress(self, status: int, detail: str = "") -> None:
        """How the transfer's target fares; `status` is SIP's, or its like."""
        if self._is_starting_transfer:  # told from within `Entrance.transfer`: not before its mode is known
            self._loop.call_soon(self.transfer_progress, status, detail)
            return
        self.perform(self.leg.transfer_progress(status, detail))

    def transfer_reached(self, target: TransferTarget) -> None:
        """The target has answered: it hears the announcement, or is joined at once; `transfer_ended` is not called."""
        self._announcement.target = target
        self.perform(self.leg.transfer_reached(self._loop.time()))

    def transfer_ended(self, ok: bool, status: int | None, detail: str = "") -> None:
        """The transfer has come to its end. Once; whatever else comes of it changes nothing."""
        if self._is_starting_transfer:
            self._loop.call_soon(self.transfer_ended, ok, status, detail)
            return
        self.perform(self.leg.transfer_ended(ok, status, self._loop.time(), detail))

    def end(self, termination: Termination) -> None:
        """We end it, for a reason of the gateway's own."""
        self.perform(self.leg.end(termination, self._loop.time()))

    def worker_gone(self, gone: Gone) -> None:
        """The roster judged a worker dead."""
        self.perform(self.leg.worker_gone(gone, self._loop.time()))

    def disowned(self, wk: str) -> None:
        """A worker's list of calls does not name this one."""
        self.perform(self.leg.disowned(wk, self._loop.time()))

    def dtmf(self, digit: str) -> None:
        """The caller pressed a key."""
        if self.leg.phase is Phase.ENDED:  # nothing follows the call's end in its stream
            return
        self._journal.pressed(digit)
        if self.leg.transfer.is_announcing:  # a key would have the agent answer the caller, and the target hear it
            return
        self._tell(DtmfPressed(epoch=self.leg.epoch, digit=digit))

    def set_held(self, held: bool) -> None:
        """The caller's side put the call on hold, or took it back."""
        self.perform(self.leg.remote_held(held))

    # -- actions --------------------------------------------------------------------------------------------------

    def perform(self, todo: list[do.Action]) -> None:
        """Do what the leg wants, in order; then set its timer anew.

        What an entrance tells from within one of its verbs (a number that cannot be dialled is refused at once) waits
        for the rest of what is being done: nothing may follow the call's end.
        """
        self._todo.extend(todo)
        if self._is_performing:
            return
        self._is_performing = True
        while self._todo:
            action = self._todo.popleft()
            try:
                _PERFORMERS[type(action)](self, action)
            except (
                Exception
            ):  # a defect in one action must not keep the others, the call's end least of all, from being done
                name = type(action).__name__
                log.exception("an action of the leg failed", action=name, call=self.new.call)
                why = Termination.of(Reason.INTERNAL_ERROR, f"{name} failed; see the gateway's log")
                self._todo.extend(self.leg.end(why, self._loop.time()))
        self._is_performing = False
        self._arm()

    def _send_offer(self, action: do.SendOffer) -> None:
        if self._tasks is not None:
            offer = self._tasks.create_task(self._offer(action))
            self._offers.add(offer)
            offer.add_done_callback(self._offers.discard)

    async def _offer(self, action: do.SendOffer) -> None:
        new, leg = self.new, self.leg
        offer = Offer(call=new.call, org=new.org, gw=self._gw, epoch=action.epoch, direction=new.direction,
                      caller=new.caller, callee=new.callee, agent=new.agent, state=self._state(),
                      resume=resume_of(leg, self._loop.time()),
                      org_usd_per_day=self._usd_per_day(new.org))  # fmt: skip
        timeout_s = action.timeout_s + LATE_S  # the leg counts; whose acceptance comes too late must learn it
        try:
            reply = await answered(self._bus.request(subjects.offer(action.wk), offer.to_json(), timeout_s))
        except nats.errors.NoRespondersError:
            todo = leg.offer_failed(action.wk, action.epoch, "nobody listens there", self._loop.time())
        except (nats.errors.Error, ValueError, OSError) as error:
            why = str(error) or type(error).__name__
            was_silent = isinstance(error, nats.errors.TimeoutError)
            todo = leg.offer_failed(action.wk, action.epoch, why, self._loop.time(), was_silent=was_silent)
        else:
            self._pacing = reply.pacing
            now = self._loop.time()
            todo = leg.offer_answered(action.wk, action.epoch, reply.accepted, reply.reason, now)
            if not reply.accepted:
                log.info("offer refused", wk=action.wk, epoch=action.epoch, why=reply.reason)
        self.perform(todo)

    def _send_release(self, action: do.SendRelease) -> None:
        playout = self.audio.playout
        played = playout.played if playout.epoch == action.epoch else self.leg.played_by_epoch.get(action.epoch)
        release = Release(call=self.new.call, epoch=action.epoch, reason=action.reason, played=played)
        self._line.send(subjects.release(action.wk), release.to_json())

    def _claimed(self, action: do.Claimed) -> None:
        self._journal.claimed(action, self.leg)

    def _start_media(self, action: do.StartMedia) -> None:
        self.audio.start(action.wk, action.epoch, action.pacing or self._pacing, self._loop.time())

    def _stop_uplink(self, _: do.StopUplink) -> None:
        self.audio.stop()

    def _end_media(self, _: do.EndMedia) -> None:
        self.audio.stop()
        self.audience.end()

    def _set_filler(self, action: do.SetFiller) -> None:
        self.audio.set_filler(waiting_tone(self.new.state.rate_hz) if action.on else b"")
        if not action.on:
            self._journal.heard_again()

    def _set_muted(self, action: do.SetMuted) -> None:
        self.audio.muted = action.muted
        self._journal.muted(action)

    def _answer(self, _: do.Answer) -> None:
        self.entrance.answer()
        self._publish_answered(do.PublishAnswered(self._codec, self.new.state.rate_hz))

    def _publish_answered(self, action: do.PublishAnswered) -> None:
        self._journal.answered(action, self.leg)
        self.audience.begin(record=self.new.agent.recording != "off")

    def _start_transfer(self, action: do.StartTransfer) -> None:
        self._is_starting_transfer = True
        try:
            mode = self.entrance.transfer(action.command)
        finally:
            self._is_starting_transfer = False
        self.perform(self.leg.transfer_began(mode))

    def _ask_to_announce(self, text: str) -> None:
        if self._tasks is not None:
            self._tasks.create_task(self._announce(SayNow(epoch=self.leg.epoch, text=text)))

    async def _announce(self, wanted: SayNow) -> None:
        """A session that cannot speak now is not waited for; one that does not answer has the leg's time limit."""
        reply = await self._line.ask(wanted)
        if reply is not None and not reply.ok:
            log.info("nothing is announced", why=reply.error)
            self._announced()

    def _announced(self) -> None:
        self.perform(self.leg.announced(self._loop.time()))

    def _hold_caller(self, action: do.HoldCaller) -> None:
        self.audio.held = action.held
        self.entrance.hold(action.held)

    def _send_digits(self, action: do.SendDigits) -> None:
        self.entrance.send_dtmf(action.digits)
        self._journal.sent_digits(action)

    def _say_text(self, action: do.SayText) -> None:
        self._tell(SayNow(epoch=self.leg.epoch, text=action.text))

    def _reject(self, action: do.Reject) -> None:
        self.entrance.reject(self.new.fallback, action.termination)

    def _hang_up(self, action: do.HangUpCaller) -> None:
        self.entrance.hang_up(action.termination)

    def _ended_now(self, action: do.PublishEnded) -> None:
        try:
            self._journal.ended(action, self.entrance.statistics())
        finally:
            self._ended.set()

    def _write_entry(self, _: do.WriteEntry) -> None:
        self._copy.put(self.entry())

    def _drop_entry(self, _: do.DropEntry) -> None:
        self._copy.drop(self.new.call)

    def _tell_state(self, _: do.TellAgent | None = None) -> None:
        self._tell(StateChanged(epoch=self.leg.epoch, state=self._state()))

    # -- small parts -------------------------------------------------------------------------------------------------

    def entry(self) -> CallEntry:
        """This call for KV `calls`."""
        return entry_of(self.new, self.leg, self._gw, self._offered_at)

    def _state(self) -> CallState:
        return session_state(self.new, self.leg, self._codec, self.audience)

    def details(self) -> dict[str, Any]:
        """What `describe` tells."""
        media, now = self.entrance.statistics(), self._loop.time()
        return description(self.new, self.leg, self._gw, self._codec, media, now) | {
            "recording": self.audience.is_recording
        }

    def line(self) -> dict[str, Any]:
        """What whoever hears or takes over the call must know of its audio."""
        return {"gw": self._gw, "codec": self._codec, "rate_hz": self.new.state.rate_hz}

    def obey(self, command: LegCommand) -> CommandReply:
        """Let the leg do it, or say why not."""
        reply, todo = self.leg.command(command, self._loop.time())
        self.perform(todo)
        return reply

    def _record_request(self) -> RecordRequest:
        new, answered_at = self.new, self.audience.answered_at or datetime.now(UTC)
        return RecordRequest(
            call=new.call, org=new.org, gw=self._gw, rate_hz=new.state.rate_hz, answered_at=answered_at
        )

    def _tell(self, command: Command) -> None:
        if self.leg.wk is not None:
            self._line.tell(command)


_PERFORMERS: dict[type, Callable[[LegShell, Any], None]] = {
    do.SendOffer: LegShell._send_offer,
    do.SendRelease: LegShell._send_release,
    do.Claimed: LegShell._claimed,
    do.Lost: lambda shell, action: shell._journal.lost(action),
    do.StartMedia: LegShell._start_media,
    do.StopUplink: LegShell._stop_uplink,
    do.EndMedia: LegShell._end_media,
    do.SetFiller: LegShell._set_filler,
    do.SetMuted: LegShell._set_muted,
    do.TellAgent: LegShell._tell_state,
    do.SayText: LegShell._say_text,
    do.PublishWaiting: lambda shell, action: shell._journal.waiting(action),
    do.Dial: lambda shell, _: shell.entrance.dial(),
    do.PublishRinging: lambda shell, action: shell._journal.ringing(action),
    do.PublishAnswered: LegShell._publish_answered,
    do.StartTransfer: LegShell._start_transfer,
    do.CancelTransfer: lambda shell, _: shell.entrance.cancel_transfer(),
    do.Announce: lambda shell, action: shell._announcement.begin(action.text),
    do.HideRest: lambda shell, _: shell._announcement.given_up(),
    do.JoinTarget: lambda shell, _: shell._announcement.join(),
    do.PublishTransfer: lambda shell, action: shell._journal.transfer(action),
    do.PublishHeld: lambda shell, action: shell._journal.held(action),
    do.HoldCaller: LegShell._hold_caller,
    do.SendDigits: LegShell._send_digits,
    do.TakenOver: lambda shell, action: shell._journal.taken_over(action),
    do.Answer: LegShell._answer,
    do.Reject: LegShell._reject,
    do.HangUpCaller: LegShell._hang_up,
    do.PublishEnded: LegShell._ended_now,
    do.WriteEntry: LegShell._write_entry,
    do.DropEntry: LegShell._drop_entry,
}
