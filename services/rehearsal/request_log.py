"""What HTTP requests asked and were told, for assertions and for people.

A conversation over HTTP has no id: it is the chat requests with the same ``prompt_cache_key``,
``safety_identifier`` or ``user``, or else with the same first message.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from dataclasses import asdict, dataclass, field
from typing import Any

from services.rehearsal.faults import Fault
from services.rehearsal.outputs import Frame

KEPT_REQUESTS = 2000
KEPT_CONVERSATIONS = 200


@dataclass(slots=True)
class RequestRecord:
    """One request. ``sent_bytes`` is what went out of the body, ``completed`` whether that was all of it."""

    id: str
    endpoint: str
    at: float
    model: str = ""
    status: int = 0
    scenario: str = ""
    turn: int | None = None
    asked: Frame = field(default_factory=dict)
    answer: Any = None
    usage: Frame | None = None
    sent_bytes: int = 0
    completed: bool = False
    error: str | None = None
    faults: list[str] = field(default_factory=list)

    def as_json(self) -> Frame:
        return asdict(self)


@dataclass(slots=True)
class ChatView:
    """A conversation as the chat model knows it: the messages of the last request, and its answer."""

    key: str
    scenario: str = ""
    turn: int = 0
    requests: int = 0
    standing: str = ""
    messages: list[Frame] = field(default_factory=list)
    answer: Frame | None = None
    _struck: Counter[int] = field(default_factory=Counter)

    def as_json(self) -> Frame:
        fields = {name: value for name, value in asdict(self).items() if not name.startswith("_")}
        return {**fields, "assistant": self.assistant}

    def note_instructions(self, system: str) -> None:
        """Learn what of the system message stands in every request: clients add to it for single answers."""
        if not self.standing or not system.startswith(self.standing):
            self.standing = system

    def due_faults(self, faults: list[Fault], turn: int) -> list[Fault]:
        """The scenario's faults of the chat that strike now; each as often in a conversation as it says."""
        due = []
        for index, fault in enumerate(faults):
            if fault.on == "chat" and turn >= fault.turn and self._struck[index] < fault.times:
                self._struck[index] += 1
                due.append(fault)
        return due

    @property
    def assistant(self) -> list[str]:
        """What the model believes it has said, and was heard, before its last answer."""
        return [text for m in self.messages if m["role"] == "assistant" and (text := text_of(m))]


class RequestLog:
    """The records of the last requests, oldest first, and the conversations they belong to."""

    def __init__(self) -> None:
        self._records: deque[RequestRecord] = deque(maxlen=KEPT_REQUESTS)
        self._views: OrderedDict[str, ChatView] = OrderedDict()

    def add(self, record: RequestRecord) -> None:
        self._records.append(record)

    def all(self, endpoint: str | None = None) -> list[RequestRecord]:
        return [record for record in self._records if endpoint in (None, record.endpoint)]

    def clear(self) -> None:
        self._records.clear()
        self._views.clear()

    def conversation(self, key: str) -> ChatView:
        """The view with this key, made if there is none."""
        view = self._views.setdefault(key, ChatView(key))
        self._views.move_to_end(key)
        while len(self._views) > KEPT_CONVERSATIONS:
            self._views.popitem(last=False)
        return view

    def conversations(self) -> list[ChatView]:
        return list(self._views.values())


def text_of(message: Frame) -> str:
    """The words of a chat message, whichever form its content has."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content or [] if isinstance(part.get("text"), str))
