"""NATS around one leg: performs its actions, feeds it replies, commands and time. One TaskGroup per call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import nats.errors
from nats.aio.msg import Msg

from libs.audio.tone import waiting_tone
from libs.call_leg import actions as do
from libs.call_leg.kv_copy import CallsCopy
from libs.call_leg.leg import OFFER_TIMEOUT_S, Leg, LegConfig, Phase
from libs.call_leg.ports import Entrance, NewCall
from libs.call_leg.roster import Gone, Roster
from libs.contracts import events, subjects, wire
from libs.contracts.commands import (
    CommandReply,
    Describe,
    DtmfPressed,
    Hold,
    LegCommand,
    SayNow,
    SendDtmf,
    StateChanged,
    TakeOver,
    Transfer,
)
from libs.contracts.heartbeat import CallEntry
from libs.contracts.offer import CallState, Offer, OfferReply, Release, Resume
from libs.contracts.termination import Reason, Termination
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger
from libs.runtime.outbox import EventOutbox

log = get_logger()

SOURCE = "gw"


@dataclass(frozen=True, slots=True)
class LegContext:
    """What all legs of a gateway share."""

    gw: str
    bus: Bus
    outbox: EventOutbox
    copy: CallsCopy
    roster: Roster


class LegShell:
    """One call at a gateway, from `run()` to its end. `libs.call_leg.ports` tells what the entrance calls when."""

    def __init__(self, context: LegContext, new: NewCall, entrance: Entrance) -> None:
        self._gw = context.gw
        self._bus = context.bus
        self._outbox = context.outbox
        self._copy = context.copy
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
        self._tasks: asyncio.TaskGroup | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._events = 0
        self._decoder = wire.leg_command_decoder()
        self._pacing: Any = "paced"
        self._offered_at = datetime.now(UTC)
        self._codec: str = new.state.codec
        self._is_starting_transfer = False

    # -- life -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the call until it has ended; then everything that belongs to it is closed."""
        new = self.new
        self.publish(events.CallOffered, direction=new.direction, entrance=new.entrance, gw=self._gw,
                     caller=new.caller, callee=new.callee, agent=new.agent.name, route=new.route)  # fmt: skip
        subscription = await self._bus.control.subscribe(
            subjects.control(new.org, new.call, "leg"), cb=self._on_command
        )
        try:
            async with asyncio.TaskGroup() as self._tasks:
                if self.leg.phase is Phase.NEW:  # the caller may have gone while we subscribed
                    self.perform(self.leg.start(self._loop.time()))
                await self._ended.wait()
        finally:
            self._tasks = None
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
        if codec in ("PCMU", "PCMA", "G722", "L16") and rate_hz == self.new.state.rate_hz:
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
        self.publish(events.DtmfReceived, digit=digit)
        self._tell(DtmfPressed(epoch=self.leg.epoch, digit=digit).to_json())

    def set_held(self, held: bool) -> None:
        """The caller's side put the call on hold, or took it back."""
        self.perform(self.leg.remote_held(held))

    async def _on_command(self, msg: Msg) -> None:
        command = self._decoder.decode(msg.data)
        if command is None:
            reply = CommandReply(ok=False, error=f"command {wire.kind_of(msg.data)!r} was not understood")
        else:
            reply = self._obey(command)
            if not reply.ok:
                log.info("command refused", command=command.kind, why=reply.error)
        if msg.reply:
            await msg.respond(reply.to_json())

    def _obey(self, command: LegCommand) -> CommandReply:
        if isinstance(command, Transfer | SendDtmf | Hold):
            objection = self.entrance.objection(command)
            if objection is not None:
                return CommandReply(ok=False, error=objection)
        reply, todo = self.leg.command(command, self._loop.time())
        self.perform(todo)
        if reply.ok and isinstance(command, Describe):
            return CommandReply(ok=True, details=self._description())
        if reply.ok and isinstance(command, TakeOver):
            line = {"gw": self._gw, "codec": self._codec, "rate_hz": self.new.state.rate_hz}
            return CommandReply(ok=True, details=reply.details | line)
        return reply

    def _description(self) -> dict[str, Any]:
        new, leg, now = self.new, self.leg, self._loop.time()
        return {
            "phase": leg.phase.value,
            "epoch": leg.epoch,
            "owner": leg.wk,
            "is_person": leg.is_person,
            "gw": self._gw,
            "entrance": new.entrance,
            "direction": new.direction,
            "caller": new.caller,
            "callee": new.callee,
            "agent": new.agent.name,
            "codec": self._codec,
            "rate_hz": new.state.rate_hz,
            "held": leg.held,
            "held_by_us": leg.held_by_us,
            "muted": leg.muted,
            "transfer": leg.transfer.state,
            "started_ago_s": round(now - leg.started_at, 3),
            "answered_ago_s": None if leg.answered_at is None else round(now - leg.answered_at, 3),
            "media": self.entrance.statistics().model_dump(exclude={"schema_version"}),
        }

    # -- actions --------------------------------------------------------------------------------------------------

    def perform(self, todo: list[do.Action]) -> None:
        """Do what the leg wants, in order; then set its timer anew."""
        failed = ""
        for action in todo:
            try:
                _PERFORMERS[type(action)](self, action)
            except (
                Exception
            ):  # a defect in one action must not keep the others, the call's end least of all, from being done
                failed = type(action).__name__
                log.exception("an action of the leg failed", action=failed, call=self.new.call)
        self._arm()
        if failed and self.leg.phase is not Phase.ENDED:
            self.end(Termination.of(Reason.INTERNAL_ERROR, f"{failed} failed; see the gateway's log"))

    def _send_offer(self, action: do.SendOffer) -> None:
        if self._tasks is not None:
            self._tasks.create_task(self._offer(action))

    async def _offer(self, action: do.SendOffer) -> None:
        new, leg = self.new, self.leg
        resume = None
        if leg.dead is not None:
            resume = Resume(
                cause=leg.dead.cause,
                previous_wk=leg.dead.wk,
                previous_epoch=leg.dead.epoch,
                played=dict(leg.played_by_epoch),
                talk_ms=0 if leg.answered_at is None else (self._loop.time() - leg.answered_at) * 1000,
            )
        offer = Offer(call=new.call, org=new.org, gw=self._gw, epoch=action.epoch, direction=new.direction,
                      caller=new.caller, callee=new.callee, agent=new.agent, state=self._state(),
                      resume=resume)  # fmt: skip
        try:
            data = await self._bus.request(subjects.offer(action.wk), offer.to_json(), OFFER_TIMEOUT_S)
            reply = OfferReply.model_validate_json(data)
        except nats.errors.NoRespondersError:
            todo = leg.offer_failed(action.wk, action.epoch, "nobody listens there", self._loop.time())
        except (nats.errors.Error, ValueError, OSError) as error:
            why = str(error) or type(error).__name__
            todo = leg.offer_failed(action.wk, action.epoch, why, self._loop.time())
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
        self._send(subjects.release(action.wk), release.to_json())

    def _claimed(self, action: do.Claimed) -> None:
        dead = self.leg.dead
        cause = dead.cause if dead else "first"
        self.publish(events.CallClaimed, epoch=action.epoch, wk=action.wk, cause=cause,
                     previous_wk=dead.wk if dead else None,
                     previous_played=self.leg.played_by_epoch.get(dead.epoch) if dead else None)  # fmt: skip
        log.info("claimed", wk=action.wk, epoch=action.epoch, cause=cause)

    def _lost(self, action: do.Lost) -> None:
        self.publish(events.WorkerLost, epoch=action.epoch, wk=action.wk, cause=action.cause,
                     played=action.played, detail=action.detail)  # fmt: skip
        log.warning("worker lost", wk=action.wk, epoch=action.epoch, cause=action.cause, detail=action.detail)

    def _start_media(self, action: do.StartMedia) -> None:
        self.audio.start(action.wk, action.epoch, action.pacing or self._pacing, self._loop.time())

    def _stop_uplink(self, _: do.StopUplink) -> None:
        self.audio.stop()

    def _end_media(self, _: do.EndMedia) -> None:
        self.audio.stop()

    def _set_filler(self, action: do.SetFiller) -> None:
        self.audio.set_filler(waiting_tone(self.new.state.rate_hz) if action.on else b"")

    def _set_muted(self, action: do.SetMuted) -> None:
        self.audio.muted = action.muted
        self.publish(events.CallMuted, muted=action.muted)

    def _answer(self, _: do.Answer) -> None:
        self.entrance.answer()
        self._publish_answered(do.PublishAnswered(self._codec, self.new.state.rate_hz))

    def _publish_answered(self, action: do.PublishAnswered) -> None:
        self.publish(events.CallAnswered, codec=action.codec, rate_hz=action.rate_hz)
        log.info("answered", wk=self.leg.wk, epoch=self.leg.epoch)

    def _publish_waiting(self, action: do.PublishWaiting) -> None:
        self.publish(events.CallWaiting, until=datetime.now(UTC) + timedelta(seconds=action.timeout_s))

    def _dial(self, _: do.Dial) -> None:
        self.entrance.dial()

    def _publish_ringing(self, action: do.PublishRinging) -> None:
        self.publish(events.CallRinging, status=action.status, early_media=action.early_media)

    def _start_transfer(self, action: do.StartTransfer) -> None:
        self._is_starting_transfer = True
        try:
            mode = self.entrance.transfer(action.command)
        finally:
            self._is_starting_transfer = False
        self.perform(self.leg.transfer_began(mode))

    def _cancel_transfer(self, _: do.CancelTransfer) -> None:
        self.entrance.cancel_transfer()

    def _publish_transfer(self, action: do.PublishTransfer) -> None:
        self.publish(events.CallTransfer, state=action.state, target=action.target, mode=action.mode,
                     status=action.status, detail=action.detail)  # fmt: skip
        log.info("transfer", state=action.state, mode=action.mode, status=action.status, detail=action.detail)

    def _publish_held(self, action: do.PublishHeld) -> None:
        self.publish(events.CallHeld, held=action.held, by=action.by)

    def _hold_caller(self, action: do.HoldCaller) -> None:
        self.entrance.hold(action.held)

    def _send_digits(self, action: do.SendDigits) -> None:
        self.entrance.send_dtmf(action.digits)
        self.publish(events.DtmfSent, digits=action.digits)

    def _say_text(self, action: do.SayText) -> None:
        self._tell(SayNow(epoch=self.leg.epoch, text=action.text).to_json())

    def _taken_over(self, action: do.TakenOver) -> None:
        self.publish(events.CallTakenOver, epoch=action.epoch, by=action.by, previous_wk=action.previous_wk,
                     previous_played=action.previous_played)  # fmt: skip
        log.info("taken over", by=action.by, epoch=action.epoch)

    def _reject(self, action: do.Reject) -> None:
        self.entrance.reject(self.new.fallback, action.termination)

    def _hang_up(self, action: do.HangUpCaller) -> None:
        self.entrance.hang_up(action.termination)

    def _ended_now(self, action: do.PublishEnded) -> None:
        media = self.entrance.statistics()
        ended = self._event(events.CallEnded, termination=action.termination, duration_ms=action.duration_s * 1000,
                            talk_ms=action.talk_s * 1000, media=media)  # fmt: skip
        self._outbox.put(ended, only_first=True, superseded=self._superseded)
        end = action.termination
        log.info("ended", result=end.result, reason=end.reason, detail=end.detail,
                 talk_s=round(action.talk_s, 1), media=media.model_dump())  # fmt: skip
        self._ended.set()

    def _superseded(self) -> None:
        log.warning("somebody else ended this call before us", call=self.new.call)

    def _write_entry(self, _: do.WriteEntry) -> None:
        self._copy.put(self.entry())

    def _drop_entry(self, _: do.DropEntry) -> None:
        self._copy.drop(self.new.call)

    def _tell_state(self, _: do.TellAgent | None = None) -> None:
        self._tell(StateChanged(epoch=self.leg.epoch, state=self._state()).to_json())

    # -- small parts -------------------------------------------------------------------------------------------------

    def entry(self) -> CallEntry:
        """This call for KV `calls`."""
        new, leg = self.new, self.leg
        return CallEntry(call=new.call, org=new.org, gw=self._gw, wk=leg.wk, epoch=leg.epoch, phase=leg.phase,
                         agent=new.agent.name, caller=new.caller, callee=new.callee,
                         offered_at=self._offered_at.isoformat())  # fmt: skip

    def _state(self) -> CallState:
        leg = self.leg
        now = {
            "codec": self._codec,
            "answered": leg.is_answered,
            "held": leg.held or leg.held_by_us,
            "muted": leg.muted,
            "transfer": leg.transfer.state,
        }
        return self.new.state.model_copy(update=now)

    def _tell(self, payload: bytes) -> None:
        if self.leg.wk is not None:
            self._send(subjects.control(self.new.org, self.new.call, "agent"), payload)

    def _send(self, subject: str, payload: bytes) -> None:
        if self._tasks is not None and not self._bus.control.is_closed:
            self._tasks.create_task(self._publish(subject, payload))

    async def _publish(self, subject: str, payload: bytes) -> None:
        try:
            await self._bus.control.publish(subject, payload)
        except nats.errors.Error as error:  # R2 ends a session that misses this
            log.warning("not sent", subject=subject, problem=str(error) or type(error).__name__)

    def publish(self, kind: Callable[..., events.CallEvent], **fields: object) -> None:
        """Put an event of this call into the stream."""
        self._outbox.put(self._event(kind, **fields))

    def _event(self, kind: Callable[..., events.CallEvent], **fields: object) -> events.CallEvent:
        self._events += 1
        event_id = events.event_id(self.new.call, SOURCE, self._events)
        return kind(event_id=event_id, org=self.new.org, call=self.new.call, at=datetime.now(UTC), **fields)


_PERFORMERS: dict[type, Callable[[LegShell, Any], None]] = {
    do.SendOffer: LegShell._send_offer,
    do.SendRelease: LegShell._send_release,
    do.Claimed: LegShell._claimed,
    do.Lost: LegShell._lost,
    do.StartMedia: LegShell._start_media,
    do.StopUplink: LegShell._stop_uplink,
    do.EndMedia: LegShell._end_media,
    do.SetFiller: LegShell._set_filler,
    do.SetMuted: LegShell._set_muted,
    do.TellAgent: LegShell._tell_state,
    do.SayText: LegShell._say_text,
    do.PublishWaiting: LegShell._publish_waiting,
    do.Dial: LegShell._dial,
    do.PublishRinging: LegShell._publish_ringing,
    do.PublishAnswered: LegShell._publish_answered,
    do.StartTransfer: LegShell._start_transfer,
    do.CancelTransfer: LegShell._cancel_transfer,
    do.PublishTransfer: LegShell._publish_transfer,
    do.PublishHeld: LegShell._publish_held,
    do.HoldCaller: LegShell._hold_caller,
    do.SendDigits: LegShell._send_digits,
    do.TakenOver: LegShell._taken_over,
    do.Answer: LegShell._answer,
    do.Reject: LegShell._reject,
    do.HangUpCaller: LegShell._hang_up,
    do.PublishEnded: LegShell._ended_now,
    do.WriteEntry: LegShell._write_entry,
    do.DropEntry: LegShell._drop_entry,
}
