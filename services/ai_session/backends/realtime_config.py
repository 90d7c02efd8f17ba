"""The `session.update` of the Realtime API for an agent and a call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from libs.contracts.agent import AgentConfig, TurnTaking
from libs.contracts.offer import CallState
from libs.contracts.tool import ToolDescription
from services.ai_session.costs import Models
from services.ai_session.history import CalledTool, HistoryItem, Said, ToolOutput

Json = dict[str, Any]
PCM_RATE_HZ = 24_000


def wire_format(state: CallState) -> Json:
    """G.711 passes through in the trunk's law; wideband calls use PCM, whose rate the API insists on."""
    match state.codec:
        case "PCMU":
            return {"type": "audio/pcmu"}
        case "PCMA":
            return {"type": "audio/pcma"}
        case _:
            return {"type": "audio/pcm", "rate": PCM_RATE_HZ}


def turn_detection(turns: TurnTaking) -> Json:
    """All fields explicitly: the server's defaults have changed before."""
    common = {"create_response": True, "interrupt_response": turns.interruptible}
    if turns.mode == "semantic_vad":
        return {"type": "semantic_vad", "eagerness": turns.eagerness, **common}
    return {
        "type": "server_vad",
        "threshold": turns.threshold,
        "prefix_padding_ms": turns.prefix_padding_ms,
        "silence_duration_ms": turns.silence_ms,
        "idle_timeout_ms": turns.idle_timeout_ms,
        **common,
    }


def session(
    agent: AgentConfig,
    model: str,
    models: Models,
    state: CallState,
    instructions: str,
    tools: Iterable[ToolDescription],
) -> Json:
    """The `session` object of the first `session.update`."""
    audio_format = wire_format(state)
    noise = agent.turns.noise_reduction
    update: Json = {
        "type": "realtime",
        "output_modalities": ["audio"],
        "instructions": instructions,
        "audio": {
            "input": {
                "format": audio_format,
                "noise_reduction": {"type": noise} if noise else None,
                "transcription": transcription(agent, models),
                "turn_detection": turn_detection(agent.turns),
            },
            "output": {"format": audio_format, "voice": agent.voice or models.voice},
        },
        "tools": [_tool(tool) for tool in tools],
        "tool_choice": "auto",
        "max_output_tokens": agent.max_output_tokens,
        "truncation": {"type": "retention_ratio", "retention_ratio": 0.8},
    }
    if models.get(model).reasoning:  # an error for other models
        update["reasoning"] = {"effort": agent.reasoning_effort or "low"}
        update["parallel_tool_calls"] = True
    return update


def transcription(agent: AgentConfig, models: Models) -> Json:
    """How the caller's words become text."""
    chosen = agent.transcription
    settings: Json = {"model": chosen.model or models.transcription}
    language = chosen.language or (agent.languages[0] if len(agent.languages) == 1 else None)
    if language:
        settings["language"] = language
    return settings


def without(update: Json, parameter: str) -> bool:
    """Drop what a server refused if the call can do without it; False when it cannot."""
    if "transcription" in parameter and update["audio"]["input"].get("transcription"):
        update["audio"]["input"]["transcription"] = None
        return True
    if "noise_reduction" in parameter and update["audio"]["input"].get("noise_reduction"):
        update["audio"]["input"]["noise_reduction"] = None
        return True
    for name in ("reasoning", "parallel_tool_calls", "truncation"):
        if name in parameter and update.pop(name, None) is not None:
            return True
    return False


def item(entry: HistoryItem) -> Json:
    """A conversation item for the replay. Audio cannot be replayed: the agent's words go in as `output_text`."""
    match entry:
        case Said("user", text):
            return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        case Said(_, text):
            return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
        case CalledTool(tool_call_id, name, arguments):
            return {"type": "function_call", "call_id": tool_call_id, "name": name, "arguments": arguments}
        case ToolOutput(tool_call_id, output):
            return tool_output(tool_call_id, output)


def tool_output(tool_call_id: str, output: str) -> Json:
    """The item that hands in a tool's result."""
    return {"type": "function_call_output", "call_id": tool_call_id, "output": output}


def _tool(tool: ToolDescription) -> Json:
    return {"type": "function", "name": tool.name, "description": tool.description, "parameters": tool.parameters}
