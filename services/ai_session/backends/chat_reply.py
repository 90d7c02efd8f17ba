"""Puts the chunks of a streamed chat completion together, whoever's server wrote them. Pure.

Chunks are taken as plain JSON. Reference: the API's "Chat Completions", streaming events. Servers that call themselves
compatible differ, and all of these are taken: no usage, usage in every chunk; tool calls without ids, without indices,
whole in one delta, several with the same index, arguments as an object; `stop` although tools were called; no finish
reason at all; thoughts in `<think>`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from services.ai_session.backends.sentences import ThoughtFilter
from services.ai_session.costs import tokens_of_text


class BrokenReplyError(ValueError):
    """The stream cannot be understood, or reports an error; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class CallWritten:
    """A tool call as the model wrote it: `arguments` is JSON text, valid or not."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ReplyWritten:
    """A complete answer."""

    text: str  # what of it was not handed out by `push`
    calls: tuple[CallWritten, ...]
    status: Literal["completed", "incomplete"]
    detail: str = ""


@dataclass(slots=True)
class _Call:
    index: int | None
    wire_id: str
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class ChatReply:
    """One streamed answer."""

    def __init__(self) -> None:
        self._thoughts = ThoughtFilter()
        self._calls: list[_Call] = []
        self._finish = ""
        self.characters = 0  # of everything the model wrote, for an estimate where the server tells no usage
        self.usage: dict[str, int] = {}

    @property
    def has_begun(self) -> bool:
        """The model has written something."""
        return bool(self.characters or self._calls)

    def push(self, chunk: object) -> str:
        """Take a chunk; the text in it that is meant to be heard.

        Raises:
            BrokenReplyError: it is no chunk of a chat completion.
        """
        if not isinstance(chunk, Mapping):
            raise BrokenReplyError(f"the chat endpoint sent {type(chunk).__name__} instead of an object")
        if chunk.get("error"):
            raise BrokenReplyError(f"the chat endpoint reports an error: {_sentence(chunk['error'])}")
        if usage := tokens_of_text(chunk.get("usage")):
            self.usage = usage
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
            return ""
        choice = choices[0]
        self._finish = choice.get("finish_reason") or self._finish
        delta = choice.get("delta") or choice.get("message")  # a whole message: servers that do not stream
        if not isinstance(delta, Mapping):
            return ""
        for call in delta.get("tool_calls") or ():
            if isinstance(call, Mapping):
                self._take_call(call)
        text = "".join(part for name in ("content", "refusal") if isinstance(part := delta.get(name), str))
        self.characters += len(text)
        return self._thoughts.push(text) if text else ""

    def _take_call(self, delta: Mapping[str, Any]) -> None:
        function = delta.get("function")
        function = function if isinstance(function, Mapping) else {}
        index, wire_id = delta.get("index"), str(delta.get("id") or "")
        name, arguments = function.get("name") or "", function.get("arguments")
        call = self._call_for(index if isinstance(index, int) else None, wire_id, bool(name))
        if not call.name:  # some servers repeat it in every delta
            call.name = str(name)
        if arguments is not None:
            written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            call.arguments.append(written)
            self.characters += len(written)

    def _call_for(self, index: int | None, wire_id: str, has_name: bool) -> _Call:
        """Which call a delta goes on with; a new one when it names another id, or begins a call anew."""
        for call in reversed(self._calls):
            if index is not None and call.index is not None and call.index != index:
                continue
            if wire_id and call.wire_id and call.wire_id != wire_id:
                continue
            starts_anew = has_name and not wire_id and bool(call.arguments) and _is_json(call)
            if not starts_anew:
                return call
        self._calls.append(_Call(index, wire_id))
        return self._calls[-1]

    def end(self) -> ReplyWritten:
        """The stream is over.

        Raises:
            BrokenReplyError: nothing was in it.
        """
        rest = self._thoughts.end()
        if not self._finish and not self.characters and not self._calls:
            raise BrokenReplyError("the chat endpoint ended its answer before it began")
        calls = tuple(CallWritten(call.name, "".join(call.arguments) or "{}") for call in self._calls if call.name)
        match self._finish:
            case "length":  # calls that were cut off are not made
                return ReplyWritten(rest, (), "incomplete", "max_output_tokens")
            case "content_filter":
                return ReplyWritten(rest, (), "incomplete", "content_filter")
        return ReplyWritten(rest, calls, "completed")


def _is_json(call: _Call) -> bool:
    try:
        json.loads("".join(call.arguments))
    except ValueError:
        return False
    return True


def _sentence(error: object) -> str:
    return str(error.get("message") or error) if isinstance(error, Mapping) else str(error)
