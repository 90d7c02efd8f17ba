"""What page and gateway tell each other as JSON text messages; audio goes in binary ones (`page_stream`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from libs.contracts.termination import Termination

# Counters and positions of the bus stay below 2**53, and what a page counts goes into records and metrics.
Count = Annotated[int, Field(ge=0, lt=1 << 31)]
Position = Annotated[int, Field(ge=0, lt=1 << 53)]


class _FromPage(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Hello(_FromPage):
    """The first message: the token says what is wanted and that it is allowed."""

    type: Literal["hello"]
    token: str = Field(max_length=2000)


class HangUpPressed(_FromPage):
    """The person hangs up."""

    type: Literal["hang_up"]


class KeyPressed(_FromPage):
    """A key of the telephone keypad; for an operator, to be sent to the caller's side."""

    type: Literal["dtmf"]
    digit: str = Field(pattern=r"^[0-9A-D*#]$")


class MutePressed(_FromPage):
    """The microphone is to count as silent, or not any more."""

    type: Literal["mute"]
    muted: bool


class PageFlushed(_FromPage):
    """The answer to `flush`: the page dropped what it held and stopped at `position`."""

    type: Literal["flushed"]
    generation: Position
    position: Position


class PageStatistics(_FromPage):
    """The page's counters since the connection began, once in a few seconds."""

    type: Literal["statistics"]
    underruns: Count = 0
    trimmed: Count = 0
    unsent: Count = 0
    buffered_ms: float = Field(0, ge=0, le=1e6)


class HandBackPressed(_FromPage):
    """Operator: give the call back to an agent."""

    type: Literal["hand_over"]


class TransferPressed(_FromPage):
    """Operator: connect the caller with somebody else."""

    type: Literal["transfer"]
    target: str = Field(min_length=1, max_length=200)


FromPage = Annotated[
    Hello | HangUpPressed | KeyPressed | MutePressed | PageFlushed | PageStatistics | HandBackPressed | TransferPressed,
    Field(discriminator="type"),
]
FROM_PAGE: TypeAdapter[FromPage] = TypeAdapter(FromPage)


class ToPage(BaseModel):
    """Ancestor of all messages to the page."""

    model_config = ConfigDict(frozen=True)


class Ringing(ToPage):
    """The call has an id and waits for its agent."""

    type: Literal["ringing"] = "ringing"
    call: str


class Answered(ToPage):
    """Both hear each other from here on. `rate_hz` is that of the binary messages."""

    type: Literal["answered"] = "answered"
    call: str
    rate_hz: int = 16000


class Flush(ToPage):
    """Drop what is not played yet, and answer with `flushed`."""

    type: Literal["flush"] = "flush"
    generation: int


class Transcript(ToPage):
    """A turn of the caller, or a sentence that the agent begins to say."""

    type: Literal["transcript"] = "transcript"
    who: Literal["caller", "agent"]
    item: str
    text: str


class NotDone(ToPage):
    """What was asked during the call cannot be done; the call goes on."""

    type: Literal["refused"] = "refused"
    what: str
    error: str


class Done(ToPage):
    """What was asked during the call was done."""

    type: Literal["done"] = "done"
    what: str


class Ended(ToPage):
    """The call's one end, or that it is in other hands (`termination` is None, `detail` says so)."""

    type: Literal["ended"] = "ended"
    termination: Termination | None
    detail: str = ""
