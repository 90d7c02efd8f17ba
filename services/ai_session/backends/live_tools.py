"""Tool calls of the chat model that a Live session delegates to. A core without I/O.

A delegated response may call several tools. It goes on (`response.create`) when it is over and all outputs are in.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class FunctionCalled:
    """The chat model calls a tool; `arguments` is JSON text as it wrote it."""

    tool_call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ResponseOver:
    """A response of the chat model is over, and cost `tokens`; `failed` says why it is of no use."""

    response: str
    model: str
    tokens: dict[str, int] = field(default_factory=dict)
    failed: str = ""


class LiveTools:
    """The tools of one connection that run at present."""

    def __init__(self) -> None:
        self._running: set[str] = set()
        self._open = False  # the chat model's response is not over
        self._due = False  # an output was handed in that nothing has answered

    @property
    def is_busy(self) -> bool:
        """Somebody works on an answer: a tool, or the chat model."""
        return bool(self._running) or self._open or self._due

    def delegated(self) -> None:
        """The chat model is at work."""
        self._open = True

    def called(self, tool_call_id: str) -> None:
        """It calls a tool."""
        self._running.add(tool_call_id)
        self._open = True

    def over(self) -> bool:
        """Its response is over; whether to ask for the next one."""
        self._open = False
        return self._next()

    def returned(self, tool_call_id: str) -> bool:
        """A tool's output was handed in; whether to ask for the next response."""
        self._running.discard(tool_call_id)
        self._due = True
        return self._next()

    def _next(self) -> bool:
        if self._open or self._running or not self._due:
            return False
        self._due = False
        return True
