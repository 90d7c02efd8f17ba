"""Configuration documents, published to KV `config` (from YAML with `callbus apply`, or from the console).

Keys: `agent.<org>.<name>`, `route.<org>.<name>`, `tool.<org>.<name>`, `mcp.<org>.<name>`,
`org.<name>`. Unknown fields are an error in YAML
(`callbus apply` validates strictly) and ignored on the bus.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from libs.contracts import number_patterns
from libs.contracts.agent import DEFAULT_ORG, AgentConfig
from libs.contracts.external_tools import HttpTool, McpTools
from libs.contracts.ids import check_token
from libs.contracts.model import Message
from libs.contracts.opening_hours import OpeningHours


class Fallback(Message):
    """What the caller gets when no agent can take the call.

    - `reject`: the call is refused with `status` (SIP).
    - `message`: a recorded sentence, then the end.
    - `transfer`: the caller goes to `number`. SIP answers 302 with the number as Contact, before the call is answered;
      Twilio dials it (`<Dial>`). An entrance that can do neither (the browser), and any call that was answered
      before (it lost its last worker), rejects instead.
    - `voicemail`: the message and a tone, then up to `max_recording_s` of what the caller says, kept as a recording.
      Without a recorder it is the message and the tone.
    """

    kind: Literal["reject", "message", "transfer", "voicemail"] = "reject"
    status: Annotated[int, Field(ge=400, le=699)] = 503
    message_ulaw_b64: str | None = None  # u-law, 8 kHz; `callbus apply` fills it from a WAV file
    number: str | None = None  # E.164
    max_recording_s: Annotated[int, Field(ge=5, le=600)] = 120

    @property
    def has_message(self) -> bool:
        """Whether the caller hears something."""
        return self.kind in ("message", "voicemail") and bool(self.message_ulaw_b64)

    @field_validator("number")
    @classmethod
    def _e164(cls, value: str | None) -> str | None:
        if value is not None and number_patterns.E164.fullmatch(value) is None:
            raise ValueError('is a number in E.164, like "+493012345678"')
        return value

    @model_validator(mode="after")
    def _complete(self) -> Fallback:
        if self.kind in ("message", "voicemail") and not self.message_ulaw_b64:
            raise ValueError(f"a fallback of kind '{self.kind}' needs a WAV file")
        if self.kind == "transfer" and self.number is None:
            raise ValueError("a fallback of kind 'transfer' needs a number (E.164, like \"+493012345678\")")
        if self.message_ulaw_b64:
            try:
                base64.b64decode(self.message_ulaw_b64, validate=True)
            except ValueError:
                raise ValueError("message_ulaw_b64 is not base64") from None
        return self


class RouteConfig(Message):
    """Which agent answers which dialled number, at which hours, and what the caller gets otherwise.

    Of several routes that match, `RouteTable` tells which one wins.
    """

    kind: Literal["route"] = "route"
    org: str = DEFAULT_ORG
    name: str
    match: tuple[str, ...]  # dialled numbers (E.164) or SIP users: libs/contracts/number_patterns.py has the forms
    entrance: Literal["any", "sip", "twilio", "browser"] = "any"
    trunk: str | None = None  # calls of this trunk only
    agent: str
    precedence: int = 0
    hours: OpeningHours | None = None  # None: always open
    answer: Literal["auto", "manual"] = "auto"  # manual: rings until a person accepts or declines
    answer_delay_ms: Annotated[int, Field(ge=0, le=30_000)] = 0  # rings at least so long
    person_timeout_s: Annotated[float, Field(gt=0, le=300)] = 60
    fallback: Fallback = Fallback()
    after_hours: Fallback | None = None  # None: as `fallback` says

    @field_validator("org", "name", "agent", "trunk")
    @classmethod
    def _token(cls, value: str | None) -> str | None:
        return None if value is None else check_token(value, "name")

    @field_validator("match")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            number_patterns.check(pattern)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> RouteConfig:
        if self.trunk is not None and self.entrance not in ("any", "sip"):
            raise ValueError(f"trunk {self.trunk!r} is one of the entrance sip; this route serves {self.entrance} only")
        if self.after_hours is not None and self.hours is None:
            raise ValueError("after_hours without hours: this route is always open")
        return self

    @property
    def key(self) -> str:
        """Where it stands in KV `config`."""
        return f"route.{self.org}.{self.name}"

    def specificity(self, callee: str) -> tuple[int, int] | None:
        """How exactly this route names a dialled number or user; None when it does not serve it."""
        fitting = (number_patterns.specificity(pattern, callee) for pattern in self.match)
        return max((each for each in fitting if each is not None), default=None)

    @property
    def rivalry(self) -> tuple[int, str, str | None]:
        """What decides between two routes besides their patterns; the same of both: only their names do."""
        return self.precedence, self.entrance, self.trunk

    def serves(self, entrance: str, trunk: str | None) -> bool:
        """Tell whether calls from this entrance, and this trunk of it, take this route at all."""
        return self.entrance in ("any", entrance) and self.trunk in (None, trunk)


class OrgConfig(Message):
    """An organisation: the tenant that agents, routes and calls belong to."""

    kind: Literal["organisation"] = "organisation"
    name: str
    title: str = ""
    country: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] = "DE"
    max_calls: Annotated[int, Field(ge=1, le=10_000)] | None = None  # at the same time, over all gateways
    attempts_per_minute: Annotated[int, Field(ge=1, le=3000)] | None = None  # calls let in within any 60 s
    max_usd_per_day: Annotated[float, Field(gt=0)] | None = None  # for models; then calls end politely (UTC days)

    @field_validator("name")
    @classmethod
    def _token(cls, value: str) -> str:
        return check_token(value, "name")

    @property
    def key(self) -> str:
        """Where it stands in KV `config`."""
        return f"org.{self.name}"


AnyDocument = AgentConfig | RouteConfig | OrgConfig | HttpTool | McpTools
ConfigDocument = Annotated[AnyDocument, Field(discriminator="kind")]


class RouteTable:
    """All routes, ready for the question that each call asks.

    Of the routes that serve a call, the first in this order wins: the highest `precedence`; the most specific
    pattern (exact, then regular expression, then the longest prefix); one that names the trunk; one that names the
    entrance; the first name, then organisation, of the alphabet. Opening hours do not choose the route: what happens
    outside of them stands in the route itself.
    """

    def __init__(self, routes: Iterable[RouteConfig]) -> None:
        self._exact: dict[str, list[RouteConfig]] = {}
        self._patterns: list[RouteConfig] = []
        for route in routes:
            for pattern in route.match:
                if not pattern.startswith("~") and not pattern.endswith("*"):
                    self._exact.setdefault(pattern, []).append(route)
            if any(pattern.startswith("~") or pattern.endswith("*") for pattern in route.match):
                self._patterns.append(route)

    def find(self, callee: str, entrance: str = "sip", trunk: str | None = None) -> RouteConfig | None:
        """The route that serves a call, or None."""
        best: tuple[tuple[int, tuple[int, int], bool, bool], RouteConfig] | None = None
        for route in (*self._exact.get(callee, ()), *self._patterns):
            if not route.serves(entrance, trunk) or (specificity := route.specificity(callee)) is None:
                continue
            rank = (route.precedence, specificity, route.trunk is not None, route.entrance != "any")
            if best is None or rank > best[0] or (rank == best[0] and _alphabet(route) < _alphabet(best[1])):
                best = rank, route
        return None if best is None else best[1]


def _alphabet(route: RouteConfig) -> tuple[str, str]:
    return route.name, route.org


def route_for(routes: Iterable[RouteConfig], callee: str) -> RouteConfig | None:
    """The route that serves a number dialled over SIP, for those who ask once; see `RouteTable`."""
    return RouteTable(routes).find(callee)
