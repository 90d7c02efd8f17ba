"""What was said in a call, rebuilt from its events for a model session that knows nothing of it (R8).

The same code serves a worker that takes a call over and a session that lost its model connection. Pure:
events in stream order and `played` by epoch in; the conversation, and how to go on, out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from libs.contracts.events import (
    AgentText,
    AgentTurn,
    CallerSpoke,
    CallerTurn,
    CallTakenOver,
    DtmfReceived,
    Event,
    ToolCalled,
    ToolReturned,
)
from services.ai_session.phrases import Phrases

RESULT_UNKNOWN = "The result was lost in a technical fault. It is unknown whether this was done: check or ask again."


@dataclass(frozen=True, slots=True)
class Said:
    """Words of the caller (`user`) or of the agent (`assistant`), as far as they were heard."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True)
class CalledTool:
    """A tool call of the model; `arguments` is JSON text."""

    tool_call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What the model was told in return, JSON text or a sentence."""

    tool_call_id: str
    output: str


HistoryItem = Said | CalledTool | ToolOutput


class GoOn(Enum):
    """What the new session does first."""

    GREET = "greet"  # nothing was heard yet
    LISTEN = "listen"  # the agent had said its part: the caller's turn
    ANSWER = "answer"  # the caller, or a tool, waits for an answer
    CONTINUE = "continue"  # the agent was cut off in the middle
    ASK_TO_REPEAT = "ask_to_repeat"  # the caller spoke, and nobody knows what
    COME_BACK = "come_back"  # a person had the call, and nobody knows what was said


@dataclass(frozen=True, slots=True)
class Conversation:
    """A rebuilt conversation."""

    items: tuple[HistoryItem, ...] = ()
    go_on: GoOn = GoOn.GREET


@dataclass(slots=True)
class _AgentItem:
    """One item of the agent: its sentences, or its finished turn, which wins."""

    heard: list[str] = field(default_factory=list)
    cut: bool = True
    turn: AgentTurn | None = None

    @property
    def text(self) -> str:
        return self.turn.heard_text if self.turn is not None else " ".join(self.heard)


@dataclass(slots=True)
class _Keys:
    """Keys that the caller pressed with nothing in between."""

    digits: str = ""


_Entry = _AgentItem | _Keys | CallerSpoke | CallerTurn | ToolCalled | ToolReturned | CallTakenOver


def rebuild(events: Iterable[Event], played: Mapping[int, int]) -> Conversation:
    """Rebuild the conversation; a sentence counts as heard when it began below `played` of its epoch."""
    entries: dict[str, _Entry] = {}  # by what the entry is about; dicts keep the order of first mention
    for event in events:
        _note(entries, event, played)
    items: list[HistoryItem] = []
    returned = {entry.tool_call_id for entry in entries.values() if isinstance(entry, ToolReturned)}
    for entry in entries.values():
        items += _items(entry, returned)
    return Conversation(tuple(items), _how_to_go_on(list(entries.values())))


def _note(  # noqa: PLR0912  one flat dispatch
    entries: dict[str, _Entry], event: Event, played: Mapping[int, int]
) -> None:
    match event:
        case CallerSpoke():
            entries.setdefault(f"caller:{event.epoch}:{event.item}", event)
        case CallerTurn():
            key = f"caller:{event.epoch}:{event.item}"
            entries[key] = event
        case AgentText(local=True) | AgentTurn(local=True):
            pass  # a filler is no part of the conversation
        case AgentText() | AgentTurn():
            key = f"agent:{event.epoch}:{event.item}"
            entry = entries.get(key)
            if not isinstance(entry, _AgentItem):
                entry = entries[key] = _AgentItem()
            if isinstance(event, AgentTurn):
                entry.turn, entry.cut = event, event.interrupted
            elif event.from_sample < played.get(event.epoch or 0, 0):
                entry.heard.append(event.text.strip())
        case DtmfReceived():
            last = next(reversed(entries.values()), None)
            if not isinstance(last, _Keys):
                last = entries[f"keys:{event.event_id}"] = _Keys()
            last.digits += event.digit
        case ToolCalled():
            entries.setdefault(f"call:{event.tool_call_id}", event)
        case ToolReturned():
            entries.setdefault(f"result:{event.tool_call_id}", event)
        case CallTakenOver():
            entries[f"person:{event.epoch}"] = event
        case _:
            pass


def _items(entry: _Entry, returned: set[str]) -> list[HistoryItem]:
    match entry:
        case _AgentItem():
            return [Said("assistant", entry.text)] if entry.text else []
        case CallerTurn():
            return [Said("user", entry.text)] if entry.text else []
        case _Keys():
            return [Said("user", Phrases.keys(entry.digits))]
        case ToolCalled():
            arguments = json.dumps(entry.arguments, ensure_ascii=False)
            called = CalledTool(entry.tool_call_id, entry.name, arguments)
            lost = [] if entry.tool_call_id in returned else [ToolOutput(entry.tool_call_id, RESULT_UNKNOWN)]
            return [called, *lost]
        case ToolReturned():
            return [ToolOutput(entry.tool_call_id, render(entry.output))]
        case CallTakenOver():
            return [Said("user", Phrases.PERSON_SPOKE)]
        case CallerSpoke():
            return []


def render(output: object) -> str:
    """A tool's output as the model reads it."""
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False, default=str)


def _how_to_go_on(entries: list[_Entry]) -> GoOn:
    """Decided by the last thing that happened; sentences that nobody heard did not happen."""
    unheard = False
    for entry in reversed(entries):
        match entry:
            case _AgentItem():
                if entry.text:
                    return GoOn.CONTINUE if entry.cut or unheard else GoOn.LISTEN
                unheard = True
            case CallerTurn():
                return GoOn.ANSWER if entry.text else GoOn.ASK_TO_REPEAT
            case CallerSpoke():
                return GoOn.ASK_TO_REPEAT
            case ToolCalled() | ToolReturned() | _Keys():
                return GoOn.ANSWER
            case CallTakenOver():
                return GoOn.COME_BACK
    return GoOn.GREET
