"""What a Realtime server refuses of a session's configuration, and which of it a call can do without. Pure.

Servers that speak the protocol differ in what they know. A refused part is named by `error.param`, or by a quoted path
in the message of servers that leave `param` out; the least that answers the refusal is dropped.
"""

from __future__ import annotations

import re
from typing import Any

Json = dict[str, Any]

_INPUT, _OUTPUT = ("audio", "input"), ("audio", "output")
_TURNS = (*_INPUT, "turn_detection")
_OPTIONAL: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (  # a refusal that names these -> drops this
    (("transcription", "prompt"), (*_INPUT, "transcription", "prompt")),
    (("transcription", "keywords"), (*_INPUT, "transcription", "keywords")),
    (("transcription", "languages"), (*_INPUT, "transcription", "languages")),
    (("transcription", "language"), (*_INPUT, "transcription", "language")),
    (("transcription",), (*_INPUT, "transcription")),
    (("noise_reduction", "strength"), (*_INPUT, "noise_reduction", "strength")),
    (("noise_reduction",), (*_INPUT, "noise_reduction")),
    (("idle_timeout_ms",), (*_TURNS, "idle_timeout_ms")),
    (("eagerness",), (*_TURNS, "eagerness")),
    (("threshold",), (*_TURNS, "threshold")),
    (("prefix_padding_ms",), (*_TURNS, "prefix_padding_ms")),
    (("silence_duration_ms",), (*_TURNS, "silence_duration_ms")),
    (("speed",), (*_OUTPUT, "speed")),
    (("voice",), (*_OUTPUT, "voice")),
    (("reasoning",), ("reasoning",)),
    (("parallel_tool_calls",), ("parallel_tool_calls",)),
    (("truncation",), ("truncation",)),
    (("max_output_tokens",), ("max_output_tokens",)),
    (("tool_choice",), ("tool_choice",)),
)
_TURNED_OFF = frozenset({"transcription", "noise_reduction"})  # null says it, and stops a server's default
_NEEDS_NO_TURNS = frozenset({"gpt-live-transcribe", "gpt-realtime-whisper"})
_NAMES = re.compile(r"[A-Za-z_]+|\d+")
_QUOTED = re.compile(r"['\"`]([A-Za-z_][\w.\[\]]*)['\"`]")


def without(update: Json, parameter: str, message: str = "") -> str | None:
    """Drop from `update` what was refused, if the call can do without it.

    Returns:
        The path of what was dropped; None when nothing of the kind is in it.
    """
    for path in [parameter] if parameter else _QUOTED.findall(message):
        dropped = _without(update, _NAMES.findall(path))
        if dropped is not None:
            return dropped
    return None


def _without(update: Json, named: list[str]) -> str | None:
    if "tools" in named:
        return _without_tool(update, named)
    for names, path in _OPTIONAL:
        if all(name in named for name in names) and _drop(update, path):
            return ".".join(path)
    if "turn_detection" in named:
        return _turn_detection(update)
    return None


def _drop(update: Json, path: tuple[str, ...]) -> bool:
    *parents, last = path
    inner: Any = update
    for name in parents:
        inner = inner.get(name)
        if not isinstance(inner, dict):
            return False
    if inner.get(last) is None:
        return False
    if last in _TURNED_OFF:
        inner[last] = None
    else:
        del inner[last]
    return True


def _without_tool(update: Json, named: list[str]) -> str | None:
    """One tool less, the agent's others stay; a refusal that names none of them is about all."""
    tools = update["tools"]
    number = next((int(name) for name in named if name.isdigit()), None)
    if number is not None and number < len(tools):
        gone = tools.pop(number)
        return f"tools.{gone.get('name') or gone.get('server_label')}"
    return None


def _turn_detection(update: Json) -> str | None:
    """Turns must be detected: another transcription, or the other kind of detection."""
    settings = update["audio"]["input"]
    if (settings.get("transcription") or {}).get("model") in _NEEDS_NO_TURNS:
        settings["transcription"] = None
        return "audio.input.transcription"
    detection = settings["turn_detection"]
    if detection["type"] != "semantic_vad":
        return None
    flags = {name: detection[name] for name in ("create_response", "interrupt_response")}
    settings["turn_detection"] = {"type": "server_vad", **flags}
    return "audio.input.turn_detection"
