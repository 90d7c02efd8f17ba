"""What a leg wants done. Frozen, compared by value in tests, performed by the shell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from libs.contracts.termination import Reason, Termination


@dataclass(frozen=True, slots=True)
class SendOffer:
    """Offer the call to this worker, in this epoch; feed the reply back."""

    wk: str
    epoch: int
    cause: Literal["first", "failover", "drain", "retry"]


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
    """Fence to this epoch and worker, and let the uplink run (R2)."""

    wk: str
    epoch: int


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
class Answer:
    """The worker is ready: 200 OK may go out."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Refuse the unanswered call; the entrance maps the termination to its protocol, the route's fallback first."""

    status: int
    termination: Termination


@dataclass(frozen=True, slots=True)
class HangUpCaller:
    """End the answered call towards the caller."""

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
    | Answer
    | Reject
    | HangUpCaller
    | PublishEnded
    | WriteEntry
    | DropEntry
)
