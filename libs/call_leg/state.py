"""A call's present state in three forms: for its session (R8), for KV `calls` (R4), for whoever asks `describe`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from libs.call_leg.audience import Audience
from libs.call_leg.leg import Leg
from libs.call_leg.ports import NewCall
from libs.contracts.heartbeat import CallEntry
from libs.contracts.media import MediaStatistics
from libs.contracts.offer import CallState, Resume


def session_state(new: NewCall, leg: Leg, codec: str, audience: Audience) -> CallState:
    """What travels in the offer and in `state_changed`."""
    now = {
        "codec": codec,
        "answered": leg.is_answered,
        "held": leg.held or leg.held_by_us,
        "muted": leg.muted,
        "recording": audience.is_recording,
        "watched": audience.is_watched,
        "transfer": leg.transfer.state,
    }
    return new.state.model_copy(update=now)


def resume_of(leg: Leg, now: float) -> Resume | None:
    """What the successor of a lost owner must know; None for a call that has had none."""
    if leg.dead is None:
        return None
    return Resume(
        cause=leg.dead.cause,
        previous_wk=leg.dead.wk,
        previous_epoch=leg.dead.epoch,
        played=dict(leg.played_by_epoch),
        talk_ms=0 if leg.answered_at is None else (now - leg.answered_at) * 1000,
    )


def entry_of(new: NewCall, leg: Leg, gw: str, offered_at: datetime) -> CallEntry:
    """The call's line in KV `calls`."""
    return CallEntry(call=new.call, org=new.org, gw=gw, wk=leg.wk, epoch=leg.epoch, phase=leg.phase,
                     agent=new.agent.name, caller=new.caller, callee=new.callee,
                     offered_at=offered_at.isoformat())  # fmt: skip


def description(new: NewCall, leg: Leg, gw: str, codec: str, media: MediaStatistics, now: float) -> dict[str, Any]:
    """The details of a reply to `describe`."""
    return {
        "phase": leg.phase.value,
        "epoch": leg.epoch,
        "owner": leg.wk,
        "is_person": leg.is_person,
        "gw": gw,
        "entrance": new.entrance,
        "direction": new.direction,
        "caller": new.caller,
        "callee": new.callee,
        "agent": new.agent.name,
        "codec": codec,
        "rate_hz": new.state.rate_hz,
        "held": leg.held,
        "held_by_us": leg.held_by_us,
        "muted": leg.muted,
        "transfer": leg.transfer.state,
        "started_ago_s": round(now - leg.started_at, 3),
        "answered_ago_s": None if leg.answered_at is None else round(now - leg.answered_at, 3),
        "media": media.model_dump(exclude={"schema_version"}),
    }
