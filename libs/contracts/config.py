"""Configuration documents, published to KV `config` (from YAML with `callbus apply`, or from the console).

Keys: `agent.<org>.<name>`, `route.<org>.<name>`, `org.<name>`. Unknown fields are an error in YAML
(`callbus apply` validates strictly) and ignored on the bus.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from libs.contracts.ids import check_token
from libs.contracts.model import Message

DEFAULT_ORG = "default"


class TurnTaking(Message):
    """When the caller's turn begins and ends. The threshold is server VAD's, 0 to 1."""

    mode: Literal["server_vad", "semantic_vad"] = "server_vad"
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    prefix_padding_ms: Annotated[int, Field(ge=0, le=2000)] = 300
    silence_ms: Annotated[int, Field(ge=100, le=10_000)] = 500
    idle_timeout_ms: Annotated[int, Field(ge=5000, le=30_000)] | None = None
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    interruptible: bool = True
    noise_reduction: Literal["near_field", "far_field"] | None = "near_field"


class Transcription(Message):
    """How the caller's words become text; a failure is never fatal."""

    model: str | None = None
    language: str | None = None


class Limits(Message):
    """Time limits. A call ends politely at `max_duration_s`."""

    max_duration_s: Annotated[float, Field(gt=0, le=7200)] = 1800
    ready_timeout_s: Annotated[float, Field(gt=0, le=30)] = 5
    tool_timeout_s: Annotated[float, Field(gt=0, le=60)] = 8


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
    backend: Literal["realtime", "live", "pipeline", "scripted"] = "realtime"
    model: str | None = None
    voice: str | None = None
    languages: tuple[str, ...] = ("de",)
    prompt: str = ""
    greeting: str | None = None
    goodbye: str | None = None
    tools: tuple[str, ...] = ()
    turn_taking: TurnTaking = TurnTaking()
    transcription: Transcription = Transcription()
    reasoning_effort: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=4096)] = 2048
    recording: Literal["off", "announce", "on"] = "off"
    budget: Budget = Budget()
    limits: Limits = Limits()
    backend_options: dict[str, Any] = {}

    @field_validator("org", "name")
    @classmethod
    def _token(cls, value: str) -> str:
        return check_token(value, "name")

    @property
    def key(self) -> str:
        """Where it stands in KV `config`."""
        return f"agent.{self.org}.{self.name}"


class Fallback(Message):
    """What the caller gets when no worker can take the call."""

    kind: Literal["reject", "message"] = "reject"
    status: Annotated[int, Field(ge=400, le=699)] = 503
    message_ulaw_b64: str | None = None  # u-law, 8 kHz; `callbus apply` fills it from a WAV file

    @model_validator(mode="after")
    def _complete(self) -> Fallback:
        if self.kind == "message" and not self.message_ulaw_b64:
            raise ValueError("a fallback of kind 'message' needs a WAV file")
        if self.message_ulaw_b64:
            try:
                base64.b64decode(self.message_ulaw_b64, validate=True)
            except ValueError:
                raise ValueError("message_ulaw_b64 is not base64") from None
        return self


class RouteConfig(Message):
    """Which agent answers which number or SIP user. Of several that match, `route_for` tells which one wins."""

    kind: Literal["route"] = "route"
    org: str = DEFAULT_ORG
    name: str
    match: tuple[str, ...]  # called numbers (E.164) or SIP users; `*` at the end stands for any rest
    agent: str
    precedence: int = 0
    fallback: Fallback = Fallback()

    @field_validator("org", "name", "agent")
    @classmethod
    def _token(cls, value: str) -> str:
        return check_token(value, "name")

    @property
    def key(self) -> str:
        """Where it stands in KV `config`."""
        return f"route.{self.org}.{self.name}"

    def specificity(self, callee: str) -> int:
        """How exactly this route names a called number or user; -1 when it does not serve it.

        A whole name counts for more than a pattern of the same length.
        """
        fitting = (
            2 * len(pattern.removesuffix("*")) + (not pattern.endswith("*"))
            for pattern in self.match
            if (callee.startswith(pattern[:-1]) if pattern.endswith("*") else callee == pattern)
        )
        return max(fitting, default=-1)

    def matches(self, callee: str) -> bool:
        """Tell whether this route serves a called number or user."""
        return self.specificity(callee) >= 0


class OrgConfig(Message):
    """An organisation: the tenant that agents, routes and calls belong to."""

    kind: Literal["organisation"] = "organisation"
    name: str
    title: str = ""
    country: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] = "DE"
    max_calls: Annotated[int, Field(ge=1)] | None = None

    @field_validator("name")
    @classmethod
    def _token(cls, value: str) -> str:
        return check_token(value, "name")

    @property
    def key(self) -> str:
        """Where it stands in KV `config`."""
        return f"org.{self.name}"


ConfigDocument = Annotated[AgentConfig | RouteConfig | OrgConfig, Field(discriminator="kind")]


def route_for(routes: list[RouteConfig], callee: str) -> RouteConfig | None:
    """The route that serves `callee`: highest precedence, then most specific match, then name."""

    def rank(route: RouteConfig) -> tuple[int, int, str]:
        return (-route.precedence, -route.specificity(callee), route.name)

    fitting = [route for route in routes if route.matches(callee)]
    return min(fitting, key=rank, default=None)
