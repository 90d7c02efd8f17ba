"""A voice agent: what it is told, how it sounds, when it speaks, what it may do and cost."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from libs.contracts.ids import check_token
from libs.contracts.model import Message
from libs.contracts.transfers import Transfers

DEFAULT_ORG = "default"
Backend = Literal["realtime", "live", "pipeline", "scripted"]

_MODES = {
    "realtime": ("server_vad", "semantic_vad"),
    "pipeline": ("energy", "neural"),
    "live": (),
    "scripted": ("server_vad", "semantic_vad", "energy", "neural"),
}
_SILENCE_MS = {"pipeline": 1000}
_THRESHOLD = {"server_vad": 0.5, "neural": 0.5, "energy": -40.0}


class TurnTaking(Message):
    """When the caller's turn begins and ends, and what an interruption is.

    `mode`: `server_vad` and `semantic_vad` are the Realtime API's, `energy` and `neural` run in the worker for the
    pipeline; None takes the backend's first one. `threshold` is a probability from 0 to 1 for `server_vad` and
    `neural`, and a level in dBFS, below 0, for `energy`. `AgentConfig.turns` has every field filled in.

    `barge_in`: `server` leaves interruptions to the model's server; `local` decides in the worker: the agent's voice
    stops at once, and goes on where it stopped if what was heard was shorter than `barge_in_min_ms` or only one of
    `back_channels`. The pipeline always decides locally.
    """

    mode: Literal["server_vad", "semantic_vad", "energy", "neural"] | None = None
    threshold: Annotated[float, Field(ge=-96, le=1)] | None = None
    prefix_padding_ms: Annotated[int, Field(ge=0, le=2000)] = 300
    silence_ms: Annotated[int, Field(ge=100, le=10_000)] | None = None  # None: 500, with the pipeline 1000
    idle_timeout_ms: Annotated[int, Field(ge=5000, le=30_000)] | None = None
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    min_speech_ms: Annotated[int, Field(ge=0, le=2000)] = 120  # energy, neural: what is shorter is no utterance
    interruptible: bool = True
    barge_in: Literal["server", "local"] = "server"
    barge_in_min_ms: Annotated[int, Field(ge=0, le=3000)] = 300
    back_channels: tuple[str, ...] = (
        "mhm",
        "hm",
        "aha",
        "ja",
        "okay",
        "ok",
        "gut",
        "genau",
        "mh",
        "hmm",
        "yes",
        "right",
    )
    noise_reduction: Literal["near_field", "far_field"] | None = "near_field"
    noise_reduction_strength: Annotated[float, Field(ge=0, le=1)] | None = None


class Transcription(Message):
    """How the caller's words become text; a failure is never fatal."""

    model: str | None = None
    language: str | None = None
    prompt: str | None = None
    keywords: tuple[str, ...] = ()


class Speech(Message):
    """Who lends the agent a voice where its model has none: the pipeline's answers, fillers, announcements.

    None takes what fits the backend: with `realtime` the same model's voice, else the worker's default.
    """

    provider: Literal["openai", "realtime", "elevenlabs", "local"] | None = None
    model: str | None = None
    voice: str | None = None  # None: the agent's `voice`, else the provider's default
    instructions: str | None = None  # how to speak, where the provider takes that


class Idle(Message):
    """What the agent does when nobody says anything; with `after_s` None it waits for ever."""

    after_s: Annotated[float, Field(ge=3, le=120)] | None = None
    text: str = "Sind Sie noch da?"
    prompts: Annotated[int, Field(ge=0, le=10)] = 2  # so often, then goodbye and the end


class Fillers(Message):
    """What is said while a tool takes long, or the provider makes us wait; no texts, no fillers."""

    texts: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = ()
    after_ms: Annotated[int, Field(ge=300, le=20_000)] = 1500
    every_ms: Annotated[int, Field(ge=2000, le=60_000)] = 8000


class AnsweringMachine(Message):
    """What to do when a machine takes an outbound call: nothing special, hang up, or leave `message` after its tone."""

    then: Literal["ignore", "hang_up", "leave_message"] = "ignore"
    message: Annotated[str, Field(max_length=1000)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> AnsweringMachine:
        if self.then == "leave_message" and not self.message:
            raise ValueError("answering_machine.then 'leave_message' needs a message")
        return self


class McpServer(Message):
    """An MCP server whose tools the Realtime API calls by itself. A token is named, never written here: MCP_TOKENS."""

    label: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    url: Annotated[str, Field(pattern=r"^https?://")]
    token: str | None = None  # a name in MCP_TOKENS
    allowed_tools: tuple[str, ...] = ()  # none: all
    description: str = ""


class Limits(Message):
    """Time limits. A call ends politely at `max_duration_s`."""

    max_duration_s: Annotated[float, Field(gt=0, le=7200)] = 1800
    ready_timeout_s: Annotated[float, Field(gt=0, le=30)] = 5
    tool_timeout_s: Annotated[float, Field(gt=0, le=60)] = 8
    history_tokens: Annotated[int, Field(ge=500, le=1_000_000)] = 16_000  # of the conversation that the pipeline sends
    truncation_ratio: Annotated[float, Field(gt=0, le=1)] = 0.8  # realtime: what stays when the context is full


class Budget(Message):
    """What a call may cost before it is ended politely."""

    per_call_usd: Annotated[float, Field(gt=0)] | None = None


class AgentConfig(Message):
    """A voice agent: what it is told, how it sounds, what it may do."""

    kind: Literal["agent"] = "agent"
    org: str = DEFAULT_ORG
    name: str
    version: int = 1
    description: str = ""
    backend: Backend = "realtime"
    model: str | None = None
    voice: str | None = None
    speed: Annotated[float, Field(ge=0.25, le=1.5)] | None = None
    languages: tuple[str, ...] = ("de",)  # several: the agent answers in the caller's
    prompt: str = ""
    greeting: str | None = None
    goodbye: str | None = None
    tools: tuple[str, ...] = ()
    transfers: Transfers = Transfers()  # of the tool transfer_call
    mcp: tuple[McpServer, ...] = ()
    turn_taking: TurnTaking = TurnTaking()
    transcription: Transcription = Transcription()
    speech: Speech = Speech()
    idle: Idle = Idle()
    fillers: Fillers = Fillers()
    answering_machine: AnsweringMachine = AnsweringMachine()
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=4096)] = 2048
    recording: Literal["off", "announce", "on"] = "off"  # announce: the agent says so before its greeting
    recording_notice: str = "Dieses Gespräch wird aufgezeichnet."
    budget: Budget = Budget()
    limits: Limits = Limits()
    backend_options: dict[str, Any] = {}

    @field_validator("org", "name")
    @classmethod
    def _token(cls, value: str) -> str:
        return check_token(value, "name")

    @model_validator(mode="after")
    def _turns_fit_backend(self) -> AgentConfig:
        turns, modes = self.turn_taking, _MODES[self.backend]
        if turns.mode is not None and turns.mode not in modes:
            usable = f"use {' or '.join(modes)}" if modes else "leave it out, the model owns its turns"
            raise ValueError(f"turn_taking.mode {turns.mode!r} does not go with backend {self.backend}: {usable}")
        if turns.threshold is not None and modes:
            _check_unit(turns.mode or modes[0], turns.threshold)
        if turns.idle_timeout_ms is not None and (self.turns.mode, self.turns.barge_in) != ("server_vad", "server"):
            mode = (
                "barge_in 'local'" if self.turns.mode == "server_vad" else self.turns.mode or f"backend {self.backend}"
            )
            raise ValueError(f"turn_taking.idle_timeout_ms does nothing with {mode}: use idle.after_s")
        if self.mcp and self.backend != "realtime":
            raise ValueError(
                f"mcp is for backend realtime; with {self.backend} its tools have to be offered on the bus and "
                "named in tools"
            )
        return self

    @property
    def opening(self) -> str | None:
        """Its first words: that the call is recorded, where the agent announces it, then the greeting."""
        words = (self.recording_notice if self.recording == "announce" else None, self.greeting)
        return " ".join(filter(None, words)) or None

    @property
    def turns(self) -> TurnTaking:
        """`turn_taking` with the backend's defaults filled in; `mode` stays None with `live`, which has none."""
        turns, modes = self.turn_taking, _MODES[self.backend]
        mode = turns.mode or (modes[0] if modes else None)
        return turns.model_copy(
            update={
                "mode": mode,
                "threshold": turns.threshold if turns.threshold is not None else _THRESHOLD.get(mode or ""),
                "silence_ms": turns.silence_ms or _SILENCE_MS.get(self.backend, 500),
                "barge_in": "local" if self.backend == "pipeline" else turns.barge_in,
            }
        )

    @property
    def key(self) -> str:
        """Where it stands in KV `config`."""
        return f"agent.{self.org}.{self.name}"


def _check_unit(mode: str, threshold: float) -> None:
    if mode == "energy" and threshold > -1:
        raise ValueError(f"threshold {threshold:g} is not a level in dBFS, which energy detection takes: -40, say")
    if mode != "energy" and threshold < 0:
        raise ValueError(f"threshold {threshold:g} looks like dBFS; {mode} takes a probability from 0 to 1: 0.5, say")
