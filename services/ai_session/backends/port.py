"""The port to a speech model: what a session asks of a backend, and the events a backend emits.

Audio on this port is PCM16LE, mono, at the call's rate; what the model wants on its wire is the
adapter's business. A backend object serves one connection of one call and is then thrown away: state
is new for every call and every reconnect.

Events are handed to a synchronous `emit` in the order they arrived. An adapter attaches `emit` before
its session opens and never waits for whoever listens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from libs.contracts.tool import ToolDescription
from services.ai_session.history import HistoryItem
from services.ai_session.phrases import Wish


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend does by itself."""

    server_turns: bool = True  # it detects the caller's turns and answers them
    server_interrupts: bool = True  # it cancels its own response when the caller speaks
    truncate: bool = True  # its memory of an item can be cut to what was heard
    continuous_output: bool = False  # audio comes at real-time pace: no lead, no ledger
    answers: bool = True  # it answers a turn by itself; else the session asks it to, once it has heard what was said
    needs_transcript: bool = False  # when asked: its answer is made from the caller's words, not from their sound
    owns_turns: bool = False  # it yields to the caller by itself, or talks on: nothing of it is cut off here


class BackendError(Exception):
    """The session could not be opened. `retry` says whether another attempt may succeed."""

    def __init__(self, kind: Literal["refused", "unreachable", "failed"], sentence: str, *, retry: bool) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.retry = retry


# -- events ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The caller began to speak; `item` will hold the turn."""

    item: str


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """The caller's turn is over."""

    item: str


@dataclass(frozen=True, slots=True)
class SpeechDiscarded:
    """What began as speech was none: too short, or without a voice. No turn comes of it."""

    item: str


@dataclass(frozen=True, slots=True)
class CallerTextDelta:
    """Words of a turn as they are recognised, before its final transcript; for those who watch, nothing else."""

    item: str
    text: str


@dataclass(frozen=True, slots=True)
class CallerTranscript:
    """The final transcript of a turn; `failed` when the provider gave none."""

    item: str
    text: str
    failed: bool = False
    language: str | None = None  # ISO 639-1, where the provider tells


@dataclass(frozen=True, slots=True)
class ResponseStarted:
    """The model works on a response; `asked` when we asked for it, not the backend's turn detection."""

    response: str
    asked: bool = False


@dataclass(frozen=True, slots=True)
class AudioDelta:
    """Reply audio of one content part, faster than real time and in any length of whole samples."""

    response: str
    item: str
    content_index: int
    pcm: bytes


@dataclass(frozen=True, slots=True)
class ContinuousAudio:
    """Audio at real-time pace of a backend with continuous output; goes out as it is."""

    pcm: bytes


@dataclass(frozen=True, slots=True)
class AudioEnded:
    """No more audio comes for this content part."""

    response: str
    item: str
    content_index: int


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Transcript of reply audio."""

    response: str
    item: str
    content_index: int
    text: str


@dataclass(frozen=True, slots=True)
class TextEnded:
    """The transcript of one content part is complete: `text` is all of it."""

    response: str
    item: str
    content_index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolRequested:
    """The model calls a tool; `arguments` is JSON text as the model wrote it, valid or not."""

    response: str
    tool_call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ServerToolBegan:
    """The backend's server calls a tool by itself (MCP); nobody is asked for a result."""

    response: str
    tool_call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ServerToolEnded:
    """What a tool returned that the backend's server called by itself."""

    tool_call_id: str
    name: str
    ok: bool
    output: Any = None


@dataclass(frozen=True, slots=True)
class ResponseEnded:
    """A response is over; its audio may still be playing."""

    response: str
    status: Literal["completed", "cancelled", "failed", "incomplete"]
    detail: str = ""
    items: tuple[str, ...] = ()  # its messages, so that unheard ones can be deleted


@dataclass(frozen=True, slots=True)
class UsageCounted:
    """What a response or a transcription cost."""

    source: Literal["response", "transcription", "speech", "session"]
    model: str
    reference: str
    tokens: dict[str, int] = field(default_factory=dict)
    seconds: float | None = None
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class LimitUsedUp:
    """Nothing is left of one of the provider's rate limits for `reset_s` seconds: what is asked for now is refused."""

    reset_s: float


@dataclass(frozen=True, slots=True)
class SessionExpires:
    """The server ends this session `in_s` seconds from now; told once, when it is open."""

    in_s: float


@dataclass(frozen=True, slots=True)
class Trouble:
    """An error that the session survived."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is gone or useless; the backend emits nothing after this."""

    code: str
    detail: str
    retry: bool = True


BackendEvent = (
    SpeechStarted
    | SpeechStopped
    | SpeechDiscarded
    | CallerTextDelta
    | CallerTranscript
    | ResponseStarted
    | AudioDelta
    | ContinuousAudio
    | AudioEnded
    | TextDelta
    | TextEnded
    | ToolRequested
    | ServerToolBegan
    | ServerToolEnded
    | ResponseEnded
    | UsageCounted
    | LimitUsedUp
    | SessionExpires
    | Trouble
    | Lost
)
Emit = Callable[[BackendEvent], None]


@dataclass(frozen=True, slots=True)
class Opening:
    """What a session starts with."""

    instructions: str
    tools: Sequence[ToolDescription] = ()
    history: Sequence[HistoryItem] = ()
    urgent: bool = False  # a caller is waiting in the middle of a call: a connection kept ready may be used


class SpeechBackend(Protocol):
    """One connection to one speech model. All methods but `open` and `close` return at once."""

    @property
    def capabilities(self) -> Capabilities:
        """What it does by itself; fixed."""
        ...

    async def open(self, opening: Opening) -> None:
        """Open the session, configure it and replay the history.

        Raises:
            BackendError: it could not be opened.
        """
        ...

    def feed(self, pcm: bytes) -> bool:
        """Take 20 ms of the caller's audio; False when the connection is behind and took nothing."""
        ...

    def start_response(self, wish: Wish) -> None:
        """Let the model speak as soon as it has no response under way."""
        ...

    def cancel_response(self, response: str) -> None:
        """Stop a response; harmless when it is over."""
        ...

    def truncate(self, item: str, content_index: int, audio_end_ms: int) -> None:
        """Cut the model's memory of an item to what was heard."""
        ...

    def delete_item(self, item: str) -> None:
        """Make the model forget an item of which nothing was heard."""
        ...

    def tool_result(self, tool_call_id: str, output: str) -> None:
        """Hand in a tool's output; the model goes on when all of a response are in."""
        ...

    def tick(self, now: float) -> None:
        """Time passes; called about ten times a second."""
        ...

    async def close(self) -> None:
        """Close the connection; safe to call in any state."""
        ...
