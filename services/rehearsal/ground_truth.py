"""What really happened in a session, for assertions and for people: read it after the call."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from services.rehearsal.conversation import Conversation, Item
from services.rehearsal.outputs import Frame

KEPT_SESSIONS = 200


@dataclass(slots=True)
class GroundTruth:
    """The record of one session. Times are seconds since its start."""

    session_id: str
    scenario: str = ""
    model: str = ""
    input_format: str = ""
    output_format: str = ""
    appended_ms: float = 0.0
    closed: Frame | None = None
    conversation: Conversation = field(default_factory=Conversation)
    out_of_band: list[Item] = field(default_factory=list)
    responses: list[Frame] = field(default_factory=list)
    truncations: list[Frame] = field(default_factory=list)
    turns: list[Frame] = field(default_factory=list)
    client_errors: list[Frame] = field(default_factory=list)
    client_events: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def items(self) -> list[Item]:
        """Every item there ever was, the deleted and the out-of-band ones last."""
        return [*self.conversation.items, *self.conversation.removed, *self.out_of_band]

    def find(self, item_id: str) -> Item | None:
        return next((item for item in self.items() if item.id == item_id), None)

    def as_json(self) -> Frame:
        """The record as plain data."""
        return {
            "id": self.session_id,
            "scenario": self.scenario,
            "model": self.model,
            "input_format": self.input_format,
            "output_format": self.output_format,
            "appended_ms": round(self.appended_ms, 3),
            "closed": self.closed,
            "turn": self.conversation.turn,
            "items": [_item(item) for item in self.items()],
            "tool_calls": self._tool_calls(),
            "responses": self.responses,
            "truncations": self.truncations,
            "turns": self.turns,
            "client_errors": self.client_errors,
            "client_events": self.client_events,
            "notes": self.notes,
        }

    def _tool_calls(self) -> list[Frame]:
        outputs = {
            item.body["call_id"]: item.body["output"] for item in self.items() if item.kind == "function_call_output"
        }
        return [
            {
                "call_id": item.body.get("call_id"),
                "name": item.body["name"],
                "arguments": _loads(item.body["arguments"]),
                "output": _loads(outputs.get(item.body.get("call_id"))),
                "status": item.body.get("status"),
                "origin": item.origin,
            }
            for item in self.items()
            if item.kind == "function_call"
        ]


class Archive:
    """The records of the last sessions, running ones included."""

    def __init__(self, kept: int = KEPT_SESSIONS) -> None:
        self._kept = kept
        self._records: OrderedDict[str, GroundTruth] = OrderedDict()

    def add(self, truth: GroundTruth) -> None:
        self._records[truth.session_id] = truth
        while len(self._records) > self._kept:
            self._records.popitem(last=False)

    def get(self, session_id: str) -> GroundTruth | None:
        return self._records.get(session_id)

    def all(self) -> list[GroundTruth]:
        return list(self._records.values())


def _item(item: Item) -> Frame:
    return {
        "id": item.id,
        "type": item.kind,
        "role": item.role,
        "origin": item.origin,
        "text": item.text,
        "status": item.body.get("status"),
        "audio_ms": round(item.audio_ms, 3),
        "sent_ms": round(item.sent_ms, 3),
        "heard_ms": round(item.heard_ms, 3),
        "truncated_at_ms": item.truncated_at_ms,
        "deleted": item.deleted,
    }


def _loads(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text
