"""Reading JSON messages from the bus: unknown kinds are skipped and counted, bad ones too; nothing raises.

One `Decoder` per process and message union; `counters` feeds a metric.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from libs.contracts.commands import AgentCommand, LegCommand
from libs.contracts.config import ConfigDocument
from libs.contracts.events import Event

T = TypeVar("T")


class Decoder(Generic[T]):
    """Turns bytes into messages of a union discriminated by `kind`."""

    def __init__(self, adapter: TypeAdapter[T]) -> None:
        self._adapter = adapter
        self.counters: Counter[str] = Counter()

    def decode(self, data: bytes) -> T | None:
        """The message, or None for one that is not understood (counted as `unknown_kind` or `malformed`)."""
        try:
            return self._adapter.validate_json(data)
        except ValidationError as error:
            unknown = any(detail["type"] == "union_tag_invalid" for detail in error.errors(include_url=False))
            self.counters["unknown_kind" if unknown else "malformed"] += 1
            return None


def kind_of(data: bytes) -> str:
    """The `kind` of a message that could not be decoded, for a log line; empty when it has none."""
    try:
        kind = json.loads(data).get("kind", "")
    except (ValueError, AttributeError):
        return ""
    return str(kind)[:64]


_EVENTS: TypeAdapter[Event] = TypeAdapter(Event)
_LEG_COMMANDS: TypeAdapter[LegCommand] = TypeAdapter(LegCommand)
_AGENT_COMMANDS: TypeAdapter[AgentCommand] = TypeAdapter(AgentCommand)
_CONFIG: TypeAdapter[ConfigDocument] = TypeAdapter(ConfigDocument)


def event_decoder() -> Decoder[Event]:
    """For the event stream."""
    return Decoder(_EVENTS)


def leg_command_decoder() -> Decoder[LegCommand]:
    """For commands to a leg."""
    return Decoder(_LEG_COMMANDS)


def agent_command_decoder() -> Decoder[AgentCommand]:
    """For commands to a session."""
    return Decoder(_AGENT_COMMANDS)


def config_decoder() -> Decoder[ConfigDocument]:
    """For documents in KV `config`."""
    return Decoder(_CONFIG)
