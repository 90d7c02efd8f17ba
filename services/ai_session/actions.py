"""What the turn machine asks its shell to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from services.ai_session.latency import TurnLatency
from services.ai_session.phrases import Wish


class Why(Enum):
    """Why the agent ends the call."""

    MAX_DURATION = "max_duration"
    BUDGET = "budget"
    AGENT = "agent"
    IDLE = "idle"
    MACHINE = "machine"


@dataclass(frozen=True, slots=True)
class StartResponse:
    """Let the agent speak: these words, to these instructions, or its own answer."""

    wish: Wish


@dataclass(frozen=True, slots=True)
class PlayLocal:
    """Say something that the worker has ready, if it has; the model knows nothing of it."""

    response: str
    text: str


@dataclass(frozen=True, slots=True)
class CancelResponse:
    """Stop a response under way."""

    response: str


@dataclass(frozen=True, slots=True)
class FlushPlayout:
    """Drop everything unplayed."""


@dataclass(frozen=True, slots=True)
class ParkPlayout:
    """Stop the voice, and keep what is not heard yet."""


@dataclass(frozen=True, slots=True)
class ResumePlayout:
    """Let the voice go on where it was stopped."""


@dataclass(frozen=True, slots=True)
class Truncate:
    """Cut the model's memory of a part to what was heard."""

    item: str
    content_index: int
    audio_end_ms: int


@dataclass(frozen=True, slots=True)
class DeleteItem:
    """Make the model forget an item."""

    item: str


@dataclass(frozen=True, slots=True)
class RunTool:
    """Call a tool; `arguments` is JSON text as the model wrote it."""

    tool_call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class PublishCallerSpoke:
    """The caller began a turn."""

    item: str


@dataclass(frozen=True, slots=True)
class PublishCallerTurn:
    """What the caller said."""

    item: str
    text: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class PublishAgentTurn:
    """What the agent said, and what of it was heard."""

    item: str
    response: str
    text: str
    heard_text: str
    interrupted: bool
    audio_ms: float
    heard_ms: float
    from_sample: int
    local: bool = False  # the model knows nothing of it


@dataclass(frozen=True, slots=True)
class PublishLatency:
    """How long the caller waited for an answer."""

    latency: TurnLatency


@dataclass(frozen=True, slots=True)
class NoteTrouble:
    """The model session had an error that the call survives."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Fail:
    """The session is of no use any more: reconnect to the model, or give the call back."""

    detail: str
    reconnect: bool = False


@dataclass(frozen=True, slots=True)
class HangUp:
    """End the call."""

    why: Why


@dataclass(frozen=True, slots=True)
class HandOver:
    """Ask the gateway to give the call to another worker."""


Action = (
    StartResponse
    | PlayLocal
    | CancelResponse
    | FlushPlayout
    | ParkPlayout
    | ResumePlayout
    | Truncate
    | DeleteItem
    | RunTool
    | PublishCallerSpoke
    | PublishCallerTurn
    | PublishAgentTurn
    | PublishLatency
    | NoteTrouble
    | Fail
    | HangUp
    | HandOver
)
