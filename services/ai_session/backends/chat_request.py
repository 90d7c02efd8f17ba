"""The body of a streamed chat request, and what its server does not take of it. Pure.

Reference: the API's "Create chat completion". Servers that call themselves compatible take different fields: what one
of them refuses is left out from then on. `max_completion_tokens` is the API's name of the bound and the only one that
its reasoning models take; most other servers know `max_tokens`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from libs.contracts.tool import ToolDescription

_DISPENSABLE = ("stream_options", "reasoning_effort", "prompt_cache_key")
_BOUNDS = ("max_completion_tokens", "max_tokens")


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What is asked for. `reasoning_effort` is None for models that do not take it."""

    model: str
    messages: Sequence[dict[str, Any]]
    tools: Sequence[dict[str, Any]]
    max_tokens: int
    reasoning_effort: str | None = None
    conversation: str = ""


class Dialect:
    """What one endpoint takes; shared by all calls. `is_openai`: it is the original."""

    def __init__(self, *, is_openai: bool) -> None:
        self._is_openai = is_openai
        self._refused: set[str] = set()
        self._guessed: set[str] = set()

    def body(self, request: ChatRequest) -> dict[str, Any]:
        """The request as this endpoint takes it."""
        body: dict[str, Any] = {"model": request.model, "messages": request.messages, "stream": True}
        if request.tools:
            body["tools"] = request.tools
        optional: dict[str, Any] = {"stream_options": {"include_usage": True}}
        if request.reasoning_effort is not None:
            optional["reasoning_effort"] = request.reasoning_effort
        if request.conversation:
            optional["prompt_cache_key"] = request.conversation
        body |= {name: value for name, value in optional.items() if name not in self._refused}
        modern = self._is_openai or request.reasoning_effort is not None
        bounds = _BOUNDS if modern else _BOUNDS[::-1]
        bound = next((name for name in bounds if name not in self._refused), None)
        if bound is not None:
            body[bound] = request.max_tokens
        return body

    def refused(self, body: dict[str, Any], param: str | None, message: str) -> bool:
        """The endpoint refused a body (HTTP 400 or 422); whether another attempt with less makes sense.

        A refusal that names nothing is blamed on what is new to many servers, for one attempt.
        """
        for name in (*_DISPENSABLE, *_BOUNDS):
            if name in body and (param == name or (param or "").startswith(f"{name}.") or name in message):
                self._refused.add(name)
                return True
        if param is None and not self._guessed:
            self._guessed = {name for name in _DISPENSABLE if name in body}
            self._refused |= self._guessed
            return bool(self._guessed)
        self._refused -= self._guessed  # it was not their fault
        return False


def tool_of(description: ToolDescription) -> dict[str, Any]:
    """A tool as chat completions know it."""
    return {
        "type": "function",
        "function": {
            "name": description.name,
            "description": description.description,
            "parameters": description.parameters,
        },
    }
