"""The `session.start` of the Live API for an agent and a call, and what the API cannot be told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from libs.contracts.agent import AgentConfig
from libs.contracts.offer import CallState, Offer
from libs.contracts.tool import ToolDescription
from services.ai_session.backends.factory import UnsupportedAgentError
from services.ai_session.backends.port import Opening
from services.ai_session.costs import Models
from services.ai_session.history import CalledTool, HistoryItem, Said, ToolOutput
from services.ai_session.phrases import Wish, as_instructions

Json = dict[str, Any]

MOST_MESSAGES = 128  # of history (API reference, SessionConfig.input)
_MOST_HISTORY_CHARACTERS = 8192 * 3  # 8,192 tokens; German has a little over three characters to each
_MOST_CHARACTERS = 1400  # of one `.append`: 500 tokens, the same
NOTHING_TO_ASK = (  # an agent without tools: whom the model then delegates to is us (SessionConfig.delegation)
    "Nothing can be looked up or done in this call. Tell the caller so in one short sentence."
)
_ANSWER = "Answer what the caller said last, now."


def check(agent: AgentConfig) -> None:
    """Refuse an agent that Live cannot serve as its document says.

    Raises:
        UnsupportedAgentError: naming the field.
    """
    turns, transcription = agent.turn_taking, agent.transcription
    if turns.barge_in == "local":
        _refuse("turn_taking.barge_in 'local'", "the model decides by itself whether it lets the caller interrupt")
    if turns.threshold is not None:
        _refuse("turn_taking.threshold", "the model owns its turns")
    if agent.speed is not None:
        _refuse("speed", "the model's pace cannot be set; ask for it in the prompt")
    for name in ("model", "prompt", "keywords"):  # `language` is a hint, which it does not need
        if getattr(transcription, name):
            _refuse(f"transcription.{name}", "the model writes its own transcript")


def _refuse(field: str, why: str) -> None:
    raise UnsupportedAgentError(f"backend live cannot do {field}: {why}")


def wire_format(state: CallState) -> Json:
    """G.711 passes through in the trunk's law; PCM at 16 or 24 kHz as it is. Nothing is resampled."""
    if state.rate_hz in (16_000, 24_000):
        return {"type": "audio/pcm", "rate": state.rate_hz}
    return {"type": "audio/pcma" if state.codec == "PCMA" else "audio/pcmu", "rate": 8000}


def session(offer: Offer, opening: Opening, model: str, chat_model: str, models: Models) -> Json:
    """The `session` object. Its tools are those of the chat model that Live delegates to (`delegation.responses`)."""
    agent = offer.agent
    start: Json = {
        "model": model,
        "instructions": opening.instructions,
        "audio": {"format": wire_format(offer.state), "output": {"voice": agent.voice or models.voice}},
        "input": messages(opening.history),
    }
    offered = [_tool(tool) for tool in opening.tools]
    if offered:
        responses: Json = {
            "model": chat_model,
            "instructions": opening.instructions,
            "tools": offered,
            "max_output_tokens": agent.max_output_tokens,
            "parallel_tool_calls": True,
        }
        if models.get(chat_model).reasoning:
            responses["reasoning"] = {"effort": agent.reasoning_effort or "low"}
        start["delegation"] = {"type": "responses", "responses": responses}
    return start


def messages(history: Sequence[HistoryItem]) -> list[Json]:
    """The conversation so far: text only, the newest messages that fit. Tool calls are told as developer messages."""
    told: list[Json] = []
    left = _MOST_HISTORY_CHARACTERS
    for entry in reversed(history):
        message = _message(entry)
        left -= len(message["content"][0]["text"])
        if left < 0 or len(told) == MOST_MESSAGES:
            break
        told.append(message)
    return told[::-1]


def replay(history: Sequence[HistoryItem]) -> list[Json]:
    """Tool calls and their results, for the chat model: it must know what was done already."""
    items: list[Json] = []
    for entry in history:
        match entry:
            case CalledTool(tool_call_id, name, arguments):
                items.append({"type": "function_call", "call_id": tool_call_id, "name": name, "arguments": arguments})
            case ToolOutput(tool_call_id, output):
                items.append(tool_output(tool_call_id, output))
            case Said():
                pass
    return items


def tool_output(tool_call_id: str, output: str) -> Json:
    """The item that hands in a tool's result."""
    return {"type": "function_call_output", "call_id": tool_call_id, "output": output}


def commentary(wish: Wish) -> list[str]:
    """A wish as texts for `session.commentary.append`, each within the API's limit; cut after sentences."""
    text = as_instructions(wish) or _ANSWER
    pieces: list[str] = []
    while len(text) > _MOST_CHARACTERS:
        sentence = max(text.rfind(mark, 0, _MOST_CHARACTERS) for mark in (". ", "! ", "? ", "\n"))
        cut = max(sentence, text.rfind(" ", 0, _MOST_CHARACTERS) if sentence < 0 else -1) + 1 or _MOST_CHARACTERS
        pieces.append(text[:cut])
        text = text[cut:]
    return [*pieces, text]


def _message(entry: HistoryItem) -> Json:
    match entry:
        case Said("assistant", text):
            return {"role": "assistant", "content": [{"type": "output_text", "text": text}]}
        case Said(_, text):
            return {"role": "user", "content": [{"type": "input_text", "text": text}]}
        case CalledTool(tool_call_id, name, arguments):
            text = f"(The tool {name} was called, {tool_call_id}, with {arguments[:1000]})"
        case ToolOutput(tool_call_id, output):
            text = f"(The call {tool_call_id} returned: {output[:2000]})"
    return {"role": "developer", "content": [{"type": "input_text", "text": text}]}


def _tool(tool: ToolDescription) -> Json:
    return {"type": "function", "name": tool.name, "description": tool.description, "parameters": tool.parameters}
