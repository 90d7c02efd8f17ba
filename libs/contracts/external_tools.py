"""Tools that a document declares instead of a program: an HTTP request, the tools of an MCP server.

Keys in KV `config`: `tool.<org>.<name>`, `mcp.<org>.<name>`. Secrets stand in neither: `{secret:NAME}` and `token` name
an entry of the setting TOOL_SECRETS of the service that carries them out. `acme.crm` is one of organisation `acme`:
documents of others cannot name it, and so not send it where they like.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from libs.contracts.agent import DEFAULT_ORG
from libs.contracts.ids import check_token
from libs.contracts.model import Message

PLACEHOLDER = re.compile(r"\{([A-Za-z0-9_.:-]+)\}")
OF_THE_CALL = ("call.id", "call.org", "call.caller", "call.agent", "call.tool_call_id")
SECRET = "secret:"
MOST_RESULT_BYTES = 65_536


class ToolResponse(Message):
    """What of the answer the model is told.

    `pointer`: a JSON pointer (RFC 6901) to the part that matters; empty: all of it. `template`: a sentence with
    `{field}` of that part instead of JSON, `{a.b}` for fields within; a text answer is `{text}`.
    """

    pointer: str = Field("", pattern=r"^(/.*)?$", max_length=200)
    template: Annotated[str, Field(max_length=2000)] | None = None
    most_bytes: Annotated[int, Field(ge=100, le=MOST_RESULT_BYTES)] = 8192


class HttpTool(Message):
    """One HTTP request as a tool.

    `{NAME}` stands for a parameter in `url` (escaped; not in its host), `query`, `headers` and `body`; `{call.caller}`,
    `{call.id}`, `{call.org}`, `{call.agent}`, `{call.tool_call_id}` for the call's; `{secret:NAME}` for a secret, in
    headers and query only. A value of `query` or `body` that is one placeholder is left out when its parameter is.
    """

    kind: Literal["tool"] = "tool"
    org: str = DEFAULT_ORG
    name: str
    description: Annotated[str, Field(min_length=1, max_length=1000)]
    parameters: dict[str, Any] = {"type": "object", "properties": {}}
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    url: Annotated[str, Field(max_length=2000)]
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    body: Any = None  # sent as JSON
    timeout_ms: Annotated[int, Field(ge=100, le=30_000)] = 5000
    allowed_status: tuple[Annotated[int, Field(ge=200, le=599)], ...] = (200, 201, 202, 204)
    response: ToolResponse = ToolResponse()
    idempotent: bool | None = None  # None: GET is, the others are not

    @field_validator("org", "name")
    @classmethod
    def _token(cls, value: str) -> str:
        return check_token(value, "name")

    @field_validator("url")
    @classmethod
    def _absolute(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError("is an absolute http or https URL")
        if PLACEHOLDER.search(parts.netloc):
            raise ValueError("its host is fixed: a placeholder may stand after it only")
        if "@" in parts.netloc:
            raise ValueError("holds a password; use a header with {secret:NAME}")
        return value

    @field_validator("parameters")
    @classmethod
    def _object(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value.get("type") != "object" or not isinstance(value.get("properties", {}), dict):
            raise ValueError("is a JSON Schema of type object with properties")
        for reference in ("$ref", "$dynamicRef"):
            if reference in str(value):
                raise ValueError(f"has a {reference}: write it out, models do not follow it")
        return value

    @model_validator(mode="after")
    def _known_names(self) -> HttpTool:
        known = {*self.parameters.get("properties", {}), *OF_THE_CALL}
        places: tuple[tuple[str, Any, bool], ...] = (
            ("url", self.url, False),
            ("query", self.query, True),
            ("headers", self.headers, True),
            ("body", self.body, False),
        )
        for place, value, may_hold_secrets in places:
            for name in names_in(value):
                if name.startswith(SECRET) and not may_hold_secrets:
                    raise ValueError(f"{place} holds {{{name}}}: secrets stand in headers or query")
                if not name.startswith(SECRET) and name not in known:
                    raise ValueError(f"{place} holds {{{name}}}, which is none of its parameters")
        return self

    @property
    def is_idempotent(self) -> bool:
        """Whether the request may be sent again."""
        return self.method == "GET" if self.idempotent is None else self.idempotent

    @property
    def key(self) -> str:
        """Where it stands in KV `config`."""
        return f"tool.{self.org}.{self.name}"


class McpTools(Message):
    """An MCP server (streamable HTTP) whose tools are offered to all backends, as `<name>_<tool>`."""

    kind: Literal["mcp"] = "mcp"
    org: str = DEFAULT_ORG
    name: Annotated[str, Field(max_length=32)]
    url: Annotated[str, Field(pattern=r"^https?://", max_length=2000)]
    token: str | None = None  # a name in TOOL_SECRETS, sent as bearer
    allowed_tools: tuple[str, ...] = ()  # none: all
    timeout_ms: Annotated[int, Field(ge=100, le=30_000)] = 8000
    most_bytes: Annotated[int, Field(ge=100, le=MOST_RESULT_BYTES)] = 8192

    @field_validator("org", "name")
    @classmethod
    def _token(cls, value: str) -> str:
        return check_token(value, "name")

    @property
    def key(self) -> str:
        """Where it stands in KV `config`."""
        return f"mcp.{self.org}.{self.name}"


def secrets_of(org: str, secrets: Mapping[str, str]) -> dict[str, str]:
    """The secrets that an organisation's documents may name: its own, and those of nobody in particular."""
    return {name: secret for name, secret in secrets.items() if name.rpartition(".")[0] in ("", org)}


def names_in(value: Any) -> Iterator[str]:
    """All placeholders of a text, or of the texts in a JSON value."""
    if isinstance(value, str):
        yield from PLACEHOLDER.findall(value)
    elif isinstance(value, dict):
        for entry in value.values():
            yield from names_in(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from names_in(entry)
