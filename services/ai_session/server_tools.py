"""Tools that the model's server calls by itself (MCP): on the call's record like our own.

A result that is too large for an event, or cannot be written as JSON, is recorded as a sentence that says so.
"""

from __future__ import annotations

from collections import Counter

from libs.contracts.events import ToolCalled, ToolReturned
from libs.plugins.outcome import reply_of
from services.ai_session.backends.port import BackendEvent, Lost, ServerToolBegan, ServerToolEnded
from services.ai_session.journal import Journal
from services.ai_session.tools import MOST_REPLY_BYTES, parse_arguments


class ServerTools:
    """One per session, fed with every event of the backend."""

    def __init__(self, journal: Journal, counters: Counter[str]) -> None:
        self._journal, self._counters = journal, counters
        self._began_at: dict[str, float] = {}

    def note(self, event: BackendEvent, now: float) -> None:
        """Take one event."""
        match event:
            case ServerToolBegan(_, tool_call_id, name, arguments):
                self._began_at[tool_call_id] = now
                arguments_read = parse_arguments(arguments) or {}
                self._journal.put(ToolCalled, tool_call_id=tool_call_id, name=name, arguments=arguments_read)
            case ServerToolEnded(tool_call_id, name, ok, output):
                took_ms = (now - self._began_at.pop(tool_call_id, now)) * 1000
                self._counters["tool_calls" if ok else "tool_failures"] += 1
                kept = reply_of(name, output, MOST_REPLY_BYTES)
                output = kept.output if kept.ok else {"error": kept.error}
                self._journal.put(
                    ToolReturned, tool_call_id=tool_call_id, name=name, ok=ok, output=output, took_ms=took_ms
                )
            case Lost():
                self._began_at.clear()
            case _:
                pass
