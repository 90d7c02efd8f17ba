"""One call's events as its gateway tells them to the stream, from `call.offered` to the one `call.ended`."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal

from libs.call_leg import actions as do
from libs.call_leg.instruments import TAKEN_OVER, TRANSFERS, CallClock
from libs.call_leg.leg import Leg
from libs.call_leg.ports import NewCall
from libs.contracts import events, media
from libs.runtime.log import get_logger
from libs.runtime.outbox import EventOutbox

log = get_logger()

SOURCE = "gw"


class CallJournal:
    """One per call. Nothing here waits: the outbox sends when the stream can be reached."""

    def __init__(self, new: NewCall, gw: str, outbox: EventOutbox) -> None:
        self._new = new
        self._gw = gw
        self._outbox = outbox
        self._count = 0
        self._log = log.bind(call=new.call)  # what ends a call may come from outside of its task
        self._clock = CallClock(new.direction, new.entrance, time.monotonic())

    def _event(self, kind: Callable[..., events.CallEvent], **fields: object) -> events.CallEvent:
        self._count += 1
        event_id = events.event_id(self._new.call, SOURCE, self._count)
        return kind(event_id=event_id, org=self._new.org, call=self._new.call, at=datetime.now(UTC), **fields)

    def _put(self, kind: Callable[..., events.CallEvent], **fields: object) -> None:
        self._outbox.put(self._event(kind, **fields))

    # -- who has the call -----------------------------------------------------------------------------------------

    def offered(self) -> None:
        """The call is there, and its agent is known."""
        new = self._new
        self._put(events.CallOffered, direction=new.direction, entrance=new.entrance, gw=self._gw, caller=new.caller,
                  callee=new.callee, agent=new.agent.name, route=new.route)  # fmt: skip

    def waiting(self, action: do.PublishWaiting) -> None:
        """It rings until a person accepts it."""
        self._put(events.CallWaiting, until=datetime.now(UTC) + timedelta(seconds=action.timeout_s))

    def claimed(self, action: do.Claimed, leg: Leg) -> None:
        """A worker accepted, the first one or a lost one's successor."""
        dead = leg.dead
        cause = dead.cause if dead else "first"
        self._put(events.CallClaimed, epoch=action.epoch, wk=action.wk, cause=cause,
                  previous_wk=dead.wk if dead else None,
                  previous_played=leg.played_by_epoch.get(dead.epoch) if dead else None)  # fmt: skip
        self._clock.claimed(cause, time.monotonic())
        # An uneventful call has one line at its start, one at its end.
        tell = self._log.debug if dead is None else self._log.info
        tell("claimed", wk=action.wk, epoch=action.epoch, cause=cause)

    def lost(self, action: do.Lost) -> None:
        """An owner is lost, or gave the call away."""
        self._put(events.WorkerLost, epoch=action.epoch, wk=action.wk, cause=action.cause, played=action.played,
                  detail=action.detail)  # fmt: skip
        self._clock.lost(action.cause, time.monotonic())
        self._log.warning("worker lost", wk=action.wk, epoch=action.epoch, cause=action.cause, detail=action.detail)

    def taken_over(self, action: do.TakenOver) -> None:
        """A person has the call."""
        self._put(events.CallTakenOver, epoch=action.epoch, by=action.by, previous_wk=action.previous_wk,
                  previous_played=action.previous_played)  # fmt: skip
        TAKEN_OVER.add()
        self._log.info("taken over", by=action.by, epoch=action.epoch)

    def heard_again(self) -> None:
        """The filler is over."""
        self._clock.heard_again(time.monotonic())

    # -- the other side ---------------------------------------------------------------------------------------------

    def ringing(self, action: do.PublishRinging) -> None:
        """The callee is alerted."""
        self._put(events.CallRinging, status=action.status, early_media=action.early_media)

    def answered(self, action: do.PublishAnswered, leg: Leg) -> None:
        """By us, or by the callee."""
        self._put(events.CallAnswered, codec=action.codec, rate_hz=action.rate_hz)
        self._clock.answered(time.monotonic())
        self._log.debug("answered", wk=leg.wk, epoch=leg.epoch)

    def pressed(self, digit: str) -> None:
        """The other side pressed a key."""
        self._put(events.DtmfReceived, digit=digit)

    def held(self, action: do.PublishHeld) -> None:
        """On hold, or taken back."""
        self._put(events.CallHeld, held=action.held, by=action.by)

    # -- by command -------------------------------------------------------------------------------------------------

    def muted(self, action: do.SetMuted) -> None:
        """The agent is silenced, or heard again."""
        self._put(events.CallMuted, muted=action.muted)

    def recording(self, state: Literal["started", "stopped", "lost"], by: str) -> None:
        """A recorder is there, gone, or not wanted any more."""
        self._put(events.CallRecording, state=state, by=by)
        tell = self._log.warning if state == "lost" else self._log.debug
        tell("recording", state=state, by=by)

    def sent_digits(self, action: do.SendDigits) -> None:
        """We pressed keys."""
        self._put(events.DtmfSent, digits=action.digits)

    def transfer(self, action: do.PublishTransfer) -> None:
        """A transfer's course."""
        self._put(events.CallTransfer, state=action.state, target=action.target, mode=action.mode,
                  status=action.status, detail=action.detail)  # fmt: skip
        TRANSFERS.add(action.state, action.mode)
        self._log.info("transfer", state=action.state, mode=action.mode, status=action.status, detail=action.detail)

    # -- the end ------------------------------------------------------------------------------------------------------

    def ended(self, action: do.PublishEnded, media: media.MediaStatistics) -> None:
        """The one end; only the first of several counts (R7)."""
        end = action.termination
        ended = self._event(events.CallEnded, termination=end, duration_ms=action.duration_s * 1000,
                            talk_ms=action.talk_s * 1000, media=media)  # fmt: skip
        self._outbox.put(ended, only_first=True, superseded=self._superseded)
        self._clock.ended(end.result, end.reason, action.talk_s)
        counted = {name: count for name, count in media.counters().items() if count}
        self._log.info("ended", result=end.result, reason=end.reason, detail=end.detail,
                 talk_s=round(action.talk_s, 1), media=counted)  # fmt: skip

    def _superseded(self) -> None:
        self._log.warning("somebody else ended this call before us")
