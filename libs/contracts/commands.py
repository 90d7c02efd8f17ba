"""What is asked of a call: commands to the leg (by anyone with the right) and to the session (by the gateway).

Request-reply; the answer is a `CommandReply`. A worker's command carries the epoch it was given, and a
stale one is refused (R7); a person's carries none.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from libs.contracts.model import Message
from libs.contracts.offer import CallState
from libs.contracts.termination import Reason


class Command(Message):
    """Fields of every command. `epoch` is None when a person or a service outside the call asks."""

    epoch: int | None = None


class Ready(Command):
    """The worker's model session is open: the gateway may answer (step 2)."""

    kind: Literal["ready"] = "ready"


class Failed(Command):
    """The worker cannot serve the call, now or any more; the gateway tries the next one."""

    kind: Literal["failed"] = "failed"
    reason: Reason
    detail: str = ""


class HandOver(Command):
    """The worker drains and wants the call taken over, at a pause (R9)."""

    kind: Literal["hand_over"] = "hand_over"


class HangUp(Command):
    """End the call."""

    kind: Literal["hang_up"] = "hang_up"
    reason: Reason = Reason.OPERATOR_HUNG_UP
    detail: str = ""


class Mute(Command):
    """Silence the agent towards the caller, or let it speak again; the session goes on.

    It is the AI agent that is muted, whichever worker serves it, never a person: a take-over ends the muting, and while
    a person has the call muting is refused. `hold` is what silences whoever has the call.
    """

    kind: Literal["mute"] = "mute"
    muted: bool


class Transfer(Command):
    """Connect the other side with somebody else. The gateway does it (R8); its course comes as `call.transfer` events.

    `refer`: the other side is asked to call the target itself (SIP REFER, blind); `bridge`: the gateway calls the
    target, says `announcement` to it and joins the two; `auto`: what the trunk can. A failure returns to the agent.
    """

    kind: Literal["transfer"] = "transfer"
    target: str = Field(min_length=1, max_length=200)
    mode: Literal["auto", "refer", "bridge"] = "auto"
    announcement: str | None = Field(None, max_length=500)


class SendDtmf(Command):
    """Send tones to the caller's side."""

    kind: Literal["send_dtmf"] = "send_dtmf"
    digits: str = Field(pattern=r"^[0-9A-D*#]{1,32}$")


class Hold(Command):
    """Put the caller on hold, or take them back."""

    kind: Literal["hold"] = "hold"
    held: bool


class Say(Command):
    """Let the agent say this."""

    kind: Literal["say"] = "say"
    text: str = Field(min_length=1, max_length=2000)


class Record(Command):
    """Start or stop the recording."""

    kind: Literal["record"] = "record"
    on: bool


class Listen(Command):
    """Hear the call for `lease_s` seconds more: while anybody listens, the gateway publishes `out` frames.

    A tap, or the recorder that was asked to record (`libs.contracts.recording`). The reply's details are `rate_hz`,
    `phase` and `recording`; a recorder goes on as long as that is true. Listening starts after `by` has subscribed to
    the call's audio.
    """

    kind: Literal["listen"] = "listen"
    by: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    is_recorder: bool = False
    lease_s: float = Field(10.0, gt=0, le=60)


class TakeOver(Command):
    """A person takes the call from the agent.

    `by` stands where a worker's id stands: its owner sends worker heartbeats with capacity 0 in this name, gets the
    caller's frames and sends its own as any worker does, without pacing. The reply's details are `epoch`, `gw`,
    `codec`, `rate_hz`. `hand_over` with that epoch gives the call back to an agent, `hang_up` ends it.
    """

    kind: Literal["take_over"] = "take_over"
    by: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")


class Accept(Command):
    """Let a call ring through to its agent that waits for a person's word (`answer: manual`)."""

    kind: Literal["accept"] = "accept"


class Decline(Command):
    """Refuse a call that waits for a person's word."""

    kind: Literal["decline"] = "decline"
    detail: str = ""


class Describe(Command):
    """Tell the call's present state; the reply's details are phase, epoch, owner, codec and media statistics."""

    kind: Literal["describe"] = "describe"


LegCommand = Annotated[
    Ready
    | Failed
    | HandOver
    | HangUp
    | Mute
    | Transfer
    | SendDtmf
    | Hold
    | Say
    | Record
    | Listen
    | TakeOver
    | Accept
    | Decline
    | Describe,
    Field(discriminator="kind"),
]


class StateChanged(Command):
    """The leg's state as the session must know it (held, muted, recording)."""

    kind: Literal["state_changed"] = "state_changed"
    state: CallState


class DtmfPressed(Command):
    """The caller pressed a key."""

    kind: Literal["dtmf_pressed"] = "dtmf_pressed"
    digit: str


class SayNow(Command):
    """Somebody wants the agent to say this."""

    kind: Literal["say_now"] = "say_now"
    text: str


AgentCommand = Annotated[StateChanged | DtmfPressed | SayNow, Field(discriminator="kind")]


class CommandReply(Message):
    """Done, or one sentence saying why not and what to do."""

    ok: bool
    error: str = ""
    details: dict[str, Any] = {}
