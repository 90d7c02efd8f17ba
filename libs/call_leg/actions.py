"""What a leg wants done. Frozen, compared by value in tests, performed by the shell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from libs.call_leg.search import OFFER_TIMEOUT_S
from libs.contracts.commands import Transfer
from libs.contracts.termination import Reason, Termination

TransferMode = Literal["refer", "bridge", "dial"]


@dataclass(frozen=True, slots=True)
class SendOffer:
    """Offer the call to this worker, in this epoch; feed the reply back."""

    wk: str
    epoch: int
    cause: Literal["first", "failover", "drain", "retry"]
    timeout_s: float = OFFER_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class SendRelease:
    """Tell a worker that the call is not its own (any more). It may be lost: then the missing uplink tells (R2)."""

    wk: str
    epoch: int
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """Publish that a worker accepted."""

    wk: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Lost:
    """Publish that an owner was lost, and how far its audio was played."""

    wk: str
    epoch: int
    cause: Literal["gone", "silent", "failed", "released", "drain"]
    detail: str = ""
    played: int = 0


@dataclass(frozen=True, slots=True)
class StartMedia:
    """Fence to this epoch and worker, and let the uplink run (R2). `pacing` None: as the acceptance said."""

    wk: str
    epoch: int
    pacing: Literal["continuous"] | None = None


@dataclass(frozen=True, slots=True)
class StopUplink:
    """Nobody owns the call: no frames up, none accepted down."""


@dataclass(frozen=True, slots=True)
class EndMedia:
    """Close the call's audio."""


@dataclass(frozen=True, slots=True)
class SetFiller:
    """Let the caller hear that somebody is there, or stop it."""

    on: bool


@dataclass(frozen=True, slots=True)
class SetMuted:
    """Silence the agent at the caller's ear, or not."""

    muted: bool


@dataclass(frozen=True, slots=True)
class TellAgent:
    """Send the leg's state to the session (`state_changed`)."""


@dataclass(frozen=True, slots=True)
class SayText:
    """Let the session say this (`say_now`)."""

    text: str


@dataclass(frozen=True, slots=True)
class PublishWaiting:
    """The call rings until a person accepts it, at most so long."""

    timeout_s: float


@dataclass(frozen=True, slots=True)
class Dial:
    """Outbound: the worker is ready, the number may be called."""


@dataclass(frozen=True, slots=True)
class PublishRinging:
    """Outbound: the callee is alerted."""

    status: int
    early_media: bool


@dataclass(frozen=True, slots=True)
class PublishAnswered:
    """Outbound: the callee picked up."""

    codec: str
    rate_hz: int


@dataclass(frozen=True, slots=True)
class StartTransfer:
    """Let the entrance begin; feed the means that it chose to `Leg.transfer_began`."""

    command: Transfer


@dataclass(frozen=True, slots=True)
class CancelTransfer:
    """Let the entrance give up what it began."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Let the target, which has answered, hear the agent say this; feed the end of it to `Leg.announced`."""

    text: str


@dataclass(frozen=True, slots=True)
class HideRest:
    """What the agent still says was meant for a target that has left: the caller does not hear it."""


@dataclass(frozen=True, slots=True)
class JoinTarget:
    """Let the target and the other side hear each other."""


@dataclass(frozen=True, slots=True)
class PublishTransfer:
    """The transfer's course, for the event stream."""

    state: Literal["requested", "ringing", "done", "failed"]
    target: str
    mode: TransferMode
    status: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class PublishHeld:
    """The call was put on hold or taken back."""

    held: bool
    by: Literal["remote", "command"]


@dataclass(frozen=True, slots=True)
class HoldCaller:
    """Put the other side on hold, or take it back."""

    held: bool


@dataclass(frozen=True, slots=True)
class SendDigits:
    """Press these keys towards the other side, and publish it."""

    digits: str


@dataclass(frozen=True, slots=True)
class TakenOver:
    """Publish that a person took the call, from whom, and how far that one's audio was played."""

    by: str
    epoch: int
    previous_wk: str | None = None
    previous_played: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The worker is ready: 200 OK may go out."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Refuse the unanswered call; the entrance maps the termination to its protocol, the route's fallback first."""

    status: int
    termination: Termination


@dataclass(frozen=True, slots=True)
class HangUpCaller:
    """End the call towards the other side: an answered one, or an outbound one at any time."""

    termination: Termination


@dataclass(frozen=True, slots=True)
class PublishEnded:
    """The call's one end, for the event stream."""

    termination: Termination
    duration_s: float
    talk_s: float


@dataclass(frozen=True, slots=True)
class WriteEntry:
    """Copy the call's state to KV `calls`, whenever that succeeds."""


@dataclass(frozen=True, slots=True)
class DropEntry:
    """Remove the call from KV `calls`."""


Action = (
    SendOffer
    | SendRelease
    | Claimed
    | Lost
    | StartMedia
    | StopUplink
    | EndMedia
    | SetFiller
    | SetMuted
    | TellAgent
    | SayText
    | PublishWaiting
    | Dial
    | PublishRinging
    | PublishAnswered
    | StartTransfer
    | CancelTransfer
    | Announce
    | HideRest
    | JoinTarget
    | PublishTransfer
    | PublishHeld
    | HoldCaller
    | SendDigits
    | TakenOver
    | Answer
    | Reject
    | HangUpCaller
    | PublishEnded
    | WriteEntry
    | DropEntry
)
