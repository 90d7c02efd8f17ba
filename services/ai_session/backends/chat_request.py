"""The body of a streamed chat request, and what its server does not take of it. Pure.

Reference: the API's "Create chat completion". Servers that call themselves compatible take different fields: what one
of them refuses is left out from then on. `max_completion_tokens` is the API's name of the bound and the only one that
its reasoning models take; most other servers know `max_tokens`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from libs.contracts.tool import ToolDescription

_DISPENSABLE = ("stream_options", "reasoning_effort", "prompt_cache_key")
_BOUNDS = ("max_completion_tokens", "max_tokens")
_CALL_BEGINS = "(The call begins.)"


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What is asked for. `reasoning_effort` is None for models that do not take it."""

    model: str
    messages: Sequence[dict[str, Any]]
    tools: Sequence[dict[str, Any]]
    max_tokens: int
    reasoning_effort: str | None = None
    conversation: str = ""


@dataclass(slots=True)
class _Refused:
    """What a model's server does not take; `guessed` of it was blamed without proof."""

    names: set[str] = field(default_factory=set)
    guessed: set[str] = field(default_factory=set)
    must_begin_with_user: bool = False


class Dialect:
    """What one endpoint takes, model by model; shared by all calls. `is_openai`: it is the original."""

    def __init__(self, *, is_openai: bool) -> None:
        self._is_openai = is_openai
        self._refused: dict[str, _Refused] = {}

    def body(self, request: ChatRequest) -> dict[str, Any]:
        """The request as this endpoint takes it."""
        refused = self._refused.get(request.model) or _Refused()
        messages = _begun_by_user(request.messages) if refused.must_begin_with_user else request.messages
        body: dict[str, Any] = {"model": request.model, "messages": messages, "stream": True}
        if request.tools:
            body["tools"] = request.tools
        optional: dict[str, Any] = {"stream_options": {"include_usage": True}}
        if request.reasoning_effort is not None:
            optional["reasoning_effort"] = request.reasoning_effort
        if request.conversation:
            optional["prompt_cache_key"] = request.conversation
        body |= {name: value for name, value in optional.items() if name not in refused.names}
        modern = self._is_openai or request.reasoning_effort is not None
        bounds = _BOUNDS if modern else _BOUNDS[::-1]
        bound = next((name for name in bounds if name not in refused.names), None)
        if bound is not None:
            body[bound] = request.max_tokens
        return body

    def taken(self, body: dict[str, Any]) -> None:
        """The endpoint has taken a body: what was left out of it on a guess was rightly blamed."""
        refused = self._refused.get(body["model"])
        if refused is not None and refused.guessed:
            refused.guessed &= body.keys()

    def refused(self, body: dict[str, Any], param: str | None, message: str) -> bool:
        """The endpoint refused a body (HTTP 400 or 422); whether another attempt with less makes sense.

        A refusal that names nothing is blamed on what is new to many servers, for one attempt.
        """
        refused = self._refused.setdefault(body["model"], _Refused())
        for name in (*_DISPENSABLE, *_BOUNDS):
            if name in body and (param == name or (param or "").startswith(f"{name}.") or name in message):
                refused.names.add(name)
                return True
        if "alternate" in message and not refused.must_begin_with_user:  # the templates of Gemma and Mistral
            refused.must_begin_with_user = True
            return True
        suspects = {name for name in _DISPENSABLE if name in body}
        if param is None and suspects:
            refused.guessed |= suspects
            refused.names |= suspects
            return True
        refused.names -= refused.guessed  # it was not their fault
        refused.guessed.clear()
        return False


def _begun_by_user(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """An agent that greets speaks first, which some chat templates refuse: they let the user begin."""
    first = 1 if messages and messages[0]["role"] == "system" else 0
    if messages[first:] and messages[first]["role"] == "user":
        return list(messages)
    return [*messages[:first], {"role": "user", "content": _CALL_BEGINS}, *messages[first:]]


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
