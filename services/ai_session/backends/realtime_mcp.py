"""Tools of MCP servers, which the Realtime server calls by itself: what it tells of them, as events of our port. Pure.

A call is an item of a response (`mcp_call`). Its result comes with the item, when that is done, or not at all but for
`response.mcp_call.completed`; whichever is first is the end. An answer that uses the result may come in the same
response, in one that the server begins, or only when it is asked for: what is due is told by `AnswerDue`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec

from services.ai_session.backends.port import BackendEvent, ServerToolBegan, ServerToolEnded, Trouble

LISTING_FAILED = "mcp_list_tools_failed"


class McpItem(msgspec.Struct):
    """The fields of an item that concern MCP."""

    type: str | None = None
    id: str | None = None
    name: str | None = None
    arguments: str | None = None
    server_label: str | None = None
    output: Any = None
    error: Any = None


@dataclass(frozen=True, slots=True)
class AnswerDue:
    """A result is there, and no words that use it."""


@dataclass(frozen=True, slots=True)
class ApprovalAsked:
    """The server wants a call approved; there is nobody who could."""

    request: str


McpEvent = BackendEvent | AnswerDue | ApprovalAsked


@dataclass(slots=True)
class _Call:
    name: str
    completed: bool = False


class McpCalls:
    """One per connection."""

    def __init__(self) -> None:
        self._open: dict[str, _Call] = {}
        self._known: set[str] = set()  # items that were told already
        self._labels: dict[str, str] = {}  # of listings

    def item(self, item: McpItem, response: str = "") -> list[McpEvent]:
        """An item of the conversation or of a response: new, changed or done; seen more than once."""
        if item.id is None:
            return []
        match item.type:
            case "mcp_list_tools":
                self._labels[item.id] = item.server_label or ""
            case "mcp_approval_request" if item.id not in self._known:
                self._known.add(item.id)
                detail = f"{_name(item)} was not called: the server wants its calls approved"
                return [ApprovalAsked(item.id), Trouble("mcp_approval_refused", detail)]
            case "mcp_call":
                return self._call(item, item.id, response)
        return []

    def _call(self, item: McpItem, call: str, response: str) -> list[McpEvent]:
        events: list[McpEvent] = []
        if call not in self._known:
            if not item.arguments and item.output is None and item.error is None:
                return []  # only announced: its arguments are still being written
            self._known.add(call)
            self._open[call] = _Call(_name(item))
            events.append(ServerToolBegan(response, call, _name(item), item.arguments or "{}"))
        if call in self._open and (item.output is not None or item.error is not None):
            events += self._end(call, item.output, item.error)
        return events

    def completed(self, call: str) -> None:
        """The call is over; its result comes with its item."""
        if call in self._open:
            self._open[call].completed = True

    def failed(self, call: str) -> list[McpEvent]:
        """The call failed; its item may say why, later."""
        return self._end(call, None, "the call failed") if call in self._open else []

    def listing_failed(self, listing: str) -> list[McpEvent]:
        """The tools of a server are not known: the model does without them."""
        label = self._labels.get(listing)
        whose = f"the MCP server {label!r}" if label else "an MCP server"
        return [Trouble(LISTING_FAILED, f"{whose} did not tell its tools")]

    def response_done(self, kinds: list[str | None]) -> list[McpEvent]:
        """A response with items of these types is over."""
        events: list[McpEvent] = []
        for call in [call for call, open_call in self._open.items() if open_call.completed]:
            events += self._end(call, None, None)
        called = [number for number, kind in enumerate(kinds) if kind == "mcp_call"]
        spoke = bool(called) and "message" in kinds[called[-1] :]
        told: list[McpEvent] = [event for event in events if not isinstance(event, AnswerDue)]
        return [*told, AnswerDue()] if called and not spoke and not self._open else told

    def _end(self, call: str, output: Any, error: Any) -> list[McpEvent]:
        name = self._open.pop(call).name
        if error is None:
            return [ServerToolEnded(call, name, True, _read(output)), AnswerDue()]
        detail = str(error.get("message") or error.get("type")) if isinstance(error, dict) else str(error)
        ended = ServerToolEnded(call, name, False, {"error": detail})
        return [ended, Trouble("mcp_call_failed", f"{name}: {detail}"), AnswerDue()]


def _name(item: McpItem) -> str:
    """A tool's name, unique among the servers, in the letters that a tool's name may have."""
    return f"{item.server_label or 'mcp'}__{item.name or 'tool'}"


def _read(output: Any) -> Any:
    try:
        return json.loads(output) if isinstance(output, str) else output
    except ValueError:
        return output
