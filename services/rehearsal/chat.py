"""What the chat model answers: messages in, the scenario's next act out. No I/O.

The messages become the items of a conversation, and ``director`` decides as it does for a Realtime session.
Two things are different. The whole history comes with every request, so that every message is a replayed one;
and a client may have forgotten the beginning of it, so that the caller's turn is found by what was said last,
and only counted where no turn of the scenario says that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from services.rehearsal.chat_request import ChatRequest
from services.rehearsal.conversation import Conversation, Item
from services.rehearsal.director import CallTool, Request, Say, direct
from services.rehearsal.outputs import Frame
from services.rehearsal.request_log import text_of
from services.rehearsal.scenario import Scenario
from services.rehearsal.speech_text import normalised

_CHARACTERS_PER_TOKEN = 4
_TOKENS_PER_MESSAGE = 4
_CACHED_FROM, _CACHED_STEP = 1024, 128  # tokens: prompt caching of the API


@dataclass(frozen=True, slots=True)
class Answer:
    """A chat completion's content. ``calls`` are ids and calls."""

    text: str
    calls: tuple[tuple[str, CallTool], ...] = ()
    finish_reason: str = "stop"

    @property
    def message(self) -> Frame:
        """The answer as the message that a client adds to its history."""
        message: Frame = {"role": "assistant", "content": self.text or None, "refusal": None}
        if self.calls:
            message["tool_calls"] = [
                {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call_id, call in self.calls
            ]
        return message

    @property
    def tokens(self) -> int:
        """What the answer counts as."""
        characters = len(self.text) + sum(len(call.name) + len(call.arguments) for _, call in self.calls)
        return max(1, -(-characters // _CHARACTERS_PER_TOKEN))

    def cut(self, most_tokens: int | None) -> Answer:
        """The answer within ``max_completion_tokens``."""
        if most_tokens is None or self.tokens <= most_tokens:
            return self
        return Answer(self.text[: most_tokens * _CHARACTERS_PER_TOKEN], finish_reason="length")


def conversation_of(messages: list[Frame]) -> Conversation:
    """The messages as items; what was said and done, not who wrote the instructions."""
    conversation = Conversation()
    for number, message in enumerate(messages):
        match message["role"]:
            case "user":
                _add(conversation, f"m{number}", {"type": "message", "role": "user"}, text_of(message))
            case "assistant":
                if text := text_of(message):
                    _add(conversation, f"m{number}", {"type": "message", "role": "assistant"}, text)
                for index, call in enumerate(message.get("tool_calls") or []):
                    function = call["function"]
                    body = {"type": "function_call", "call_id": call["id"], **function, "status": "completed"}
                    _add(conversation, f"m{number}.{index}", body, "")
            case "tool":
                body = {"type": "function_call_output", "call_id": message["tool_call_id"]}
                _add(conversation, f"m{number}", {**body, "output": text_of(message)}, "")
    return conversation


def _add(conversation: Conversation, item_id: str, body: Frame, text: str) -> None:
    conversation.add(Item(id=item_id, body=body, origin="client", text=text))


def turn_of(scenario: Scenario, messages: list[Frame]) -> int:
    """The caller's turn that the messages have come to."""
    said = [text_of(message) for message in messages if message["role"] == "user"]
    counted = len(said)
    if not said:
        return 0
    # Clients join turns that nobody answered, a line each; the last one is the one to answer.
    last = {normalised(said[-1]), normalised(said[-1].rpartition("\n")[2])}
    if normalised(scenario.transcript(counted)) in last:
        return counted
    for number, turn in enumerate(scenario.turns, start=1):
        if normalised(turn.caller) in last:
            return number
    return counted


def standing_instructions(messages: list[Frame]) -> str:
    """All system messages: somewhere among them is the scenario's name."""
    return "\n".join(text_of(m) for m in messages if m["role"] in ("system", "developer"))


def instructions_now(messages: list[Frame], standing: str) -> str:
    """What the request wants of this one answer.

    That is what the first system message says beyond what is ``standing`` in it, and the system messages after
    everything else.
    """
    first = text_of(messages[0]) if messages[0]["role"] in ("system", "developer") else ""
    added = first.removeprefix(standing).strip() if standing and first.startswith(standing) else ""
    last: list[str] = [added] if added else []
    for message in reversed(messages[1:]):
        if message["role"] not in ("system", "developer"):
            break
        last.append(text_of(message))
    return "\n".join(reversed(last))


def answer(scenario: Scenario, request: ChatRequest, call_ids: Iterator[str], *, standing: str = "") -> Answer:
    """The scenario's next act. ``standing`` is what earlier requests of the conversation had for a system message."""
    tools = frozenset() if request.tool_choice == "none" else request.tools
    asked = Request(
        instructions=instructions_now(request.messages, standing),
        tools=tools,
        turn=turn_of(scenario, request.messages),
    )
    acts = direct(scenario, conversation_of(request.messages), asked)
    text = " ".join(act.text for act in acts if isinstance(act, Say))
    calls = tuple((next(call_ids), act) for act in acts if isinstance(act, CallTool))
    if calls and not request.parallel_tool_calls:
        calls = calls[:1]
    made = Answer(text, calls, "tool_calls" if calls else "stop")
    return made.cut(request.most_tokens)


def with_invalid_arguments(made: Answer) -> Answer:
    """The same answer with arguments that are no JSON: cut off, as a model's sometimes are."""
    broken = tuple((call_id, replace(call, arguments=call.arguments[:-1] + ', "x": ')) for call_id, call in made.calls)
    return replace(made, calls=broken)


def deltas(made: Answer, rng: Random) -> Iterator[tuple[Frame, str]]:
    """``delta`` objects in order, each with the characters it brings."""
    yield {"role": "assistant", "content": "" if made.text or not made.calls else None, "refusal": None}, ""
    for piece in _pieces(made.text, rng):
        yield {"content": piece}, piece
    for index, (call_id, call) in enumerate(made.calls):
        head: Frame = {"index": index, "id": call_id, "type": "function"}
        yield {"tool_calls": [{**head, "function": {"name": call.name, "arguments": ""}}]}, call.name
        for piece in _pieces(call.arguments, rng):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}, piece


def _pieces(text: str, rng: Random) -> Iterator[str]:
    at = 0
    while at < len(text):
        end = at + rng.randint(2, 2 * _CHARACTERS_PER_TOKEN - 2)
        yield text[at:end]
        at = end


@dataclass(slots=True)
class PromptCache:
    """Counts prompt tokens, and those that an earlier request with the same beginning left in the cache."""

    _seen: dict[str, None] = field(default_factory=dict)

    def usage(self, request: ChatRequest, made: Answer) -> Frame:
        """``usage`` of a completion."""
        prompt, cached = self._prompt(request)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": made.tokens,
            "total_tokens": prompt + made.tokens,
            "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def _prompt(self, request: ChatRequest) -> tuple[int, int]:
        parts: list[Any] = [[request.model, request.tool_definitions], *request.messages]
        digest, total, cached = hashlib.sha1(usedforsecurity=False), 0, 0
        for index, part in enumerate(parts):
            text = json.dumps(part, sort_keys=True, ensure_ascii=False)
            length = len(text) if not index else len(text_of(part)) + len(json.dumps(part.get("tool_calls") or ""))
            total += length // _CHARACTERS_PER_TOKEN + _TOKENS_PER_MESSAGE
            digest.update(text.encode())
            key = digest.hexdigest()
            if key in self._seen:
                cached = total
            self._seen[key] = None
        while len(self._seen) > 5000:
            del self._seen[next(iter(self._seen))]
        return total, cached // _CACHED_STEP * _CACHED_STEP if cached >= _CACHED_FROM else 0
