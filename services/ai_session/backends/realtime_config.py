"""The `session.update` of the Realtime API for an agent and a call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from libs.contracts.agent import AgentConfig, McpServer, TurnTaking
from libs.contracts.external_tools import secrets_of
from libs.contracts.offer import CallState
from libs.contracts.tool import ToolDescription
from services.ai_session.backends.factory import UnsupportedAgentError
from services.ai_session.costs import Models
from services.ai_session.history import CalledTool, HistoryItem, Said, ToolOutput

Json = dict[str, Any]
PCM_RATE_HZ = 24_000
_TAKES_KEYWORDS = frozenset({"gpt-transcribe", "gpt-live-transcribe"})
_TAKES_NO_PROMPT = frozenset({"gpt-realtime-whisper"})


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
    """All fields explicitly: the server's defaults have changed before.

    With `barge_in: local` the server only tells who speaks: the session asks for answers and cancels them.
    """
    answers = turns.barge_in == "server"
    common = {"create_response": answers, "interrupt_response": answers and turns.interruptible}
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


def session(  # noqa: PLR0913  what a session's configuration depends on
    agent: AgentConfig,
    model: str,
    models: Models,
    state: CallState,
    instructions: str,
    tools: Iterable[ToolDescription],
    *,
    mcp_tokens: Mapping[str, str] | None = None,
) -> Json:
    """The `session` object of the first `session.update`.

    Raises:
        UnsupportedAgentError: an MCP server's token is not known here.
    """
    audio_format = wire_format(state)
    output: Json = {"format": audio_format, "voice": agent.voice or models.voice}
    if agent.speed is not None:
        output["speed"] = agent.speed
    tokens = secrets_of(agent.org, mcp_tokens or {})
    update: Json = {
        "type": "realtime",
        "output_modalities": ["audio"],
        "instructions": instructions,
        "audio": {
            "input": {
                "format": audio_format,
                "noise_reduction": noise_reduction(agent.turns),
                "transcription": transcription(agent, models),
                "turn_detection": turn_detection(agent.turns),
            },
            "output": output,
        },
        "tools": [*map(_tool, tools), *(mcp_tool(server, tokens) for server in agent.mcp)],
        "tool_choice": "auto",
        "max_output_tokens": agent.max_output_tokens,
        "truncation": {"type": "retention_ratio", "retention_ratio": agent.limits.truncation_ratio},
    }
    if models.get(model).reasoning:  # an error for other models
        effort = agent.reasoning_effort or "low"
        update["reasoning"] = {"effort": "minimal" if effort == "none" else effort}  # it cannot be turned off here
        update["parallel_tool_calls"] = True
    return update


def noise_reduction(turns: TurnTaking) -> Json | None:
    """What the server does against noise, before its turn detection hears the caller."""
    if turns.noise_reduction is None:
        return None
    reduction: Json = {"type": turns.noise_reduction}
    if turns.noise_reduction_strength is not None:
        reduction["strength"] = turns.noise_reduction_strength
    return reduction


def transcription(agent: AgentConfig, models: Models) -> Json:
    """How the caller's words become text; what a model does not take is not sent to it."""
    chosen = agent.transcription
    model = chosen.model or models.transcription
    settings: Json = {"model": model}
    language = chosen.language or (agent.languages[0] if len(agent.languages) == 1 else None)
    if language:
        settings["language"] = language
    elif len(agent.languages) > 1 and model in _TAKES_KEYWORDS:
        settings["languages"] = list(agent.languages)
    if chosen.prompt and model not in _TAKES_NO_PROMPT:
        settings["prompt"] = chosen.prompt
    if chosen.keywords and model in _TAKES_KEYWORDS:
        settings["keywords"] = list(chosen.keywords)
    return settings


def mcp_tool(server: McpServer, tokens: Mapping[str, str]) -> Json:
    """A server whose tools the Realtime API calls by itself; nobody could approve a call of one.

    Raises:
        UnsupportedAgentError: its token is not known here.
    """
    tool: Json = {
        "type": "mcp",
        "server_label": server.label,
        "server_url": server.url,
        "require_approval": "never",
    }
    if server.token is not None:
        if server.token not in tokens:
            raise UnsupportedAgentError(
                f"the MCP server {server.label!r} needs the token {server.token!r}, which MCP_TOKENS does not have"
            )
        tool["authorization"] = tokens[server.token]
    if server.allowed_tools:
        tool["allowed_tools"] = list(server.allowed_tools)
    if server.description:
        tool["server_description"] = server.description
    return tool


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


def disapproval(request: str) -> Json:
    """The item that refuses a tool call which a server wants approved."""
    return {
        "type": "mcp_approval_response",
        "id": f"no_{request}"[:32],
        "approval_request_id": request,
        "approve": False,
        "reason": "nobody is there to approve it",
    }


def _tool(tool: ToolDescription) -> Json:
    return {"type": "function", "name": tool.name, "description": tool.description, "parameters": tool.parameters}
