"""The conversation of a pipeline call, as the chat model is told it: exactly what was said and heard. Pure.

Theory of operation. Entries stand in the order in which they began: turns of the caller, speech of the agent (as the
pieces that were given to the voice, each with the samples that came of it), and tool calls together with their outputs.
`truncate` cuts speech to what was heard: whole pieces before the cut stay, the one in the cut by its share of samples,
to the last whole word.

`messages` renders entries for a chat request. It never parts a tool call from its output (chat templates refuse that),
joins neighbours of the same role (many templates insist on alternation), and names a tool that is still running.

The history is kept within a budget of estimated tokens: when it is exceeded, the oldest turns go until `keep_ratio` of
it is used, so that the beginning of the requests stays the same for a while and the server's prompt cache is of use.
The estimate needs no vocabulary: three bytes of UTF-8 to a token, and eight tokens for a message's frame, is more than
today's tokenisers take for European languages. The system prompt and the tools' descriptions come on top of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from services.ai_session.history import CalledTool, HistoryItem, Said, ToolOutput

BYTES_PER_TOKEN = 3
TOKENS_PER_MESSAGE = 8
CHARACTERS_PER_SECOND = 15.0  # of speech, for a piece whose audio did not come to its end
STILL_RUNNING = "The tool is still running; its result is not known yet."

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call under the name that the session knows it by."""

    tool_call_id: str
    name: str
    arguments: str


@dataclass(slots=True)
class _CallerTurn:
    item: str
    text: str = ""


@dataclass(slots=True)
class _Piece:
    text: str
    samples: int = 0
    complete: bool = False


@dataclass(slots=True)
class _Speech:
    item: str
    response: str
    pieces: list[_Piece] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(piece.text for piece in self.pieces if piece.text)


@dataclass(slots=True)
class _Tools:
    response: str
    calls: list[ToolCall]
    outputs: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.outputs) == len(self.calls)


_Entry = _CallerTurn | _Speech | _Tools


class PipelineHistory:
    """One call's conversation. `rate_hz` is the call's, `max_tokens` the budget (`limits.history_tokens`)."""

    def __init__(self, rate_hz: int, max_tokens: int, keep_ratio: float = 0.8) -> None:
        self._rate_hz = rate_hz
        self._max_tokens, self._keep_tokens = max_tokens, max_tokens * keep_ratio
        self._entries: list[_Entry] = []

    def replay(self, history: Iterable[HistoryItem]) -> None:
        """Begin with what was said before this backend was there."""
        for number, item in enumerate(history):
            match item:
                case Said("user", text):
                    self._entries.append(_CallerTurn(f"past-{number}", text))
                case Said(_, text):
                    self._entries.append(_Speech(f"past-{number}", f"past-{number}", [_Piece(text, complete=True)]))
                case CalledTool(tool_call_id, name, arguments):
                    last = self._entries[-1] if self._entries else None
                    if not isinstance(last, _Tools) or last.outputs:
                        last = _Tools(f"past-{number}", [])
                        self._entries.append(last)
                    last.calls.append(ToolCall(tool_call_id, name, arguments))
                case ToolOutput(tool_call_id, output):
                    self.tool_output(tool_call_id, output)

    # -- what happens ------------------------------------------------------------------------------------

    def caller_turn(self, item: str) -> None:
        """The caller has spoken; the words will follow."""
        self._entries.append(_CallerTurn(item))

    def caller_text(self, item: str, text: str) -> None:
        """The words of a turn."""
        for entry in self._entries:
            if isinstance(entry, _CallerTurn) and entry.item == item:
                entry.text = text.strip()

    def told(self, item: str, text: str) -> None:
        """News of the caller that are no words."""
        self._entries.append(_CallerTurn(item, text))

    def say(self, response: str, item: str, text: str) -> None:
        """A piece of the agent's speech begins."""
        speech = self._speech(item)
        if speech is None:
            speech = _Speech(item, response)
            self._entries.insert(self._before_tools_of(response), speech)
        speech.pieces.append(_Piece(text))

    def spoken(self, item: str, samples: int) -> None:
        """More audio of the last piece."""
        speech = self._speech(item)
        if speech is not None and speech.pieces:
            speech.pieces[-1].samples += samples

    def piece_complete(self, item: str) -> None:
        """The audio of the last piece has come to its end."""
        speech = self._speech(item)
        if speech is not None and speech.pieces:
            speech.pieces[-1].complete = True

    def tool_calls(self, response: str, calls: Iterable[ToolCall]) -> None:
        """A response calls tools. Arguments that are no JSON are kept as none: chat templates would break on them."""
        sound = [ToolCall(call.tool_call_id, call.name, _json_or_empty(call.arguments)) for call in calls]
        self._entries.append(_Tools(response, sound))

    def tool_output(self, tool_call_id: str, output: str) -> bool:
        """A tool has returned; True when it was the last one of its response."""
        for entry in reversed(self._entries):
            if isinstance(entry, _Tools) and any(call.tool_call_id == tool_call_id for call in entry.calls):
                entry.outputs[tool_call_id] = output
                return entry.complete
        return False

    @property
    def awaits_tools(self) -> bool:
        """Some tool has not returned."""
        return any(isinstance(entry, _Tools) and not entry.complete for entry in self._entries)

    def truncate(self, item: str, audio_end_ms: int) -> None:
        """The caller heard so much of an item's audio; an unknown item is none of ours."""
        speech = self._speech(item)
        if speech is None:
            return
        left = audio_end_ms * self._rate_hz // 1000
        heard: list[_Piece] = []
        for piece in speech.pieces:
            if left <= 0:
                break
            if left >= piece.samples and piece.complete:
                heard.append(piece)
            elif text := self._heard_of(piece, left):
                heard.append(_Piece(text, min(left, piece.samples), complete=True))
            left -= piece.samples
        speech.pieces = heard

    def delete(self, item: str) -> None:
        """Nothing of this item was heard, or said."""
        self._entries = [entry for entry in self._entries if isinstance(entry, _Tools) or entry.item != item]

    def text_of(self, item: str) -> str:
        """All that was said in an item."""
        speech = self._speech(item)
        return speech.text if speech is not None else ""

    def _before_tools_of(self, response: str) -> int:
        """The voice may still speak what the model wrote before it called tools."""
        for number, entry in enumerate(self._entries):
            if isinstance(entry, _Tools) and entry.response == response:
                return number
        return len(self._entries)

    def _heard_of(self, piece: _Piece, samples: int) -> str:
        whole = piece.samples
        if not piece.complete:
            whole = max(whole, int(len(piece.text) / CHARACTERS_PER_SECOND * self._rate_hz))
        cut = len(piece.text) * min(samples, piece.samples) // max(1, whole)
        if cut < len(piece.text) and not piece.text[cut].isspace():
            cut = max(piece.text.rfind(" ", 0, cut), 0)
        return piece.text[:cut].rstrip()

    def _speech(self, item: str) -> _Speech | None:
        for entry in reversed(self._entries):
            if isinstance(entry, _Speech) and entry.item == item:
                return entry
        return None

    # -- what the model is told ----------------------------------------------------------------------------

    def messages(self, system: str) -> list[Message]:
        """The conversation for a request, within the budget."""
        self._shrink()
        found: list[Message] = [{"role": "system", "content": system}] if system else []
        for entry in self._entries:
            match entry:
                case _CallerTurn(_, text):
                    _add(found, "user", text, "\n")
                case _Speech():
                    _add(found, "assistant", entry.text, " ")
                case _Tools():
                    _add_tools(found, entry)
        return found

    def _shrink(self) -> None:
        """Forget the oldest turns, when there are too many."""
        sizes = [_tokens(entry) for entry in self._entries]
        total = sum(sizes)
        if total <= self._max_tokens:
            return
        begins = [number for number, entry in enumerate(self._entries) if isinstance(entry, _CallerTurn) and number]
        first = 0
        for begin in begins:
            if total <= self._keep_tokens:
                break
            total -= sum(sizes[first:begin])
            first = begin
        # A tool that still runs is no past: its output will come, and must find its call.
        kept: list[_Entry] = [e for e in self._entries[:first] if isinstance(e, _Tools) and not e.complete]
        total += sum(_tokens(entry) for entry in kept)
        kept += self._entries[first:]
        while total > self._max_tokens and (inner := _oldest_inner(kept)) is not None:  # one endless turn
            total -= _tokens(kept.pop(inner))
        self._entries = kept


def _oldest_inner(entries: list[_Entry]) -> int | None:
    """What may go within the last turn: what the agent said and did first, but not the latest tool calls."""
    for number, entry in enumerate(entries[:-1]):
        if isinstance(entry, _Speech) or (isinstance(entry, _Tools) and entry.complete):
            return number
    return None


def _tokens(entry: _Entry) -> int:
    match entry:
        case _CallerTurn(_, text):
            return estimated_tokens(text)
        case _Speech():
            return estimated_tokens(entry.text)
        case _Tools(_, calls, outputs):
            written = sum(estimated_tokens(call.name + call.arguments) for call in calls)
            return written + sum(estimated_tokens(output) for output in outputs.values())


def estimated_tokens(text: str) -> int:
    """An upper estimate of a message's tokens; see the module."""
    return len(text.encode()) // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE


def _add(messages: list[Message], role: str, text: str, joint: str) -> None:
    if not text:
        return
    last = messages[-1] if messages else {}
    if last.get("role") == role and "tool_calls" not in last:
        last["content"] += joint + text
    else:
        messages.append({"role": role, "content": text})


def _add_tools(messages: list[Message], entry: _Tools) -> None:
    calls = [
        {"id": call.tool_call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in entry.calls
    ]
    last = messages[-1] if messages else {}
    if last.get("role") == "assistant" and "tool_calls" not in last:  # what was said with the call
        last["tool_calls"] = calls
    else:
        messages.append({"role": "assistant", "content": None, "tool_calls": calls})
    for call in entry.calls:
        output = entry.outputs.get(call.tool_call_id, STILL_RUNNING)
        messages.append({"role": "tool", "tool_call_id": call.tool_call_id, "content": output})


def _json_or_empty(arguments: str) -> str:
    try:
        return arguments if isinstance(json.loads(arguments), dict) else "{}"
    except ValueError:
        return "{}"
