"""Why a command cannot be obeyed now, in one sentence for whoever asks (R7). A core without I/O.

What the call's state alone forbids stands here. What needs the roster as well, or is an owner's word about itself
(`ready`, `failed`, `hand_over`), the leg decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from libs.call_leg.phase import Phase
from libs.contracts.commands import (
    Accept,
    Decline,
    Failed,
    HandOver,
    Hold,
    LegCommand,
    Mute,
    Ready,
    Record,
    Say,
    SendDtmf,
    TakeOver,
    Transfer,
)

if TYPE_CHECKING:
    from libs.call_leg.leg import Leg

InCall = Transfer | SendDtmf | Hold | Say | TakeOver


def objection(leg: Leg, command: LegCommand) -> str | None:
    """None when the call's state allows it."""
    if leg.phase is Phase.ENDED:
        return "the call has ended"
    if command.epoch is None:
        if isinstance(command, Ready | Failed | HandOver):
            return f"'{command.kind}' is a worker's word and needs its epoch"
    elif command.epoch != leg.epoch or leg.wk is None:  # without an owner every epoch so far is fenced
        return f"epoch {command.epoch} is not the call's present one ({leg.epoch})"
    match command:
        case Transfer() | SendDtmf() | Hold() | Say() | TakeOver():
            return _in_call(leg, command)
        case Mute():
            return _mute(leg, command)
        case Accept() | Decline() if leg.phase is not Phase.WAITING:
            return f"the call does not wait for a person's word; it is {leg.phase}"
        case Record():
            return _record(leg)
        case _:
            return None


def _in_call(leg: Leg, command: InCall) -> str | None:
    if leg.answered_at is None:
        return "the call is not answered yet"
    if leg.phase is Phase.BRIDGED:
        return f"the call was transferred to {leg.transfer.target}; it can only be ended"
    match command:
        case SendDtmf():
            return None
        case Say():
            return _say(leg)
        case _ if leg.transfer.is_pending:
            return f"a transfer to {leg.transfer.target} is under way: wait for its end, or hang up"
        case Transfer() if leg.held_by_us:
            return "the other side is on hold: take it back first"
        case _:
            return None


def _record(leg: Leg) -> str | None:
    if leg.answered_at is None:
        return "the call is not answered yet: there is nothing to record"
    if leg.phase is Phase.BRIDGED:
        return f"the call was transferred to {leg.transfer.target}: its audio does not come here any more"
    return None


def _say(leg: Leg) -> str | None:
    if leg.is_person:
        return f"{leg.wk} has the call, not an agent"
    if leg.phase is not Phase.TALKING:
        return "no agent has the call at the moment: try again"
    if leg.held or leg.held_by_us:
        return "the call is on hold: nobody would hear it"
    if leg.muted:
        return "the agent is muted: nobody would hear it"
    return None


def _mute(leg: Leg, command: Mute) -> str | None:
    """The agent alone, and before the answer too: its first words may be unwanted."""
    if leg.phase is Phase.BRIDGED:
        return f"the call was transferred to {leg.transfer.target}: no agent is heard in it"
    if command.muted and leg.is_person:
        return f"{leg.wk} has the call, not an agent"
    return None
