"""The session object: defaults, ``session.update`` and what it must not change."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from services.rehearsal.outputs import Frame
from services.rehearsal.transcription_models import check_transcription
from services.rehearsal.validation import ClientEventError

# Chosen by their type as a whole: fields of another alternative must not linger after a merge.
_REPLACED = {"format", "tools", "tool_choice", "tracing", "truncation", "output_modalities", "include"}

_SERVER_VAD: Frame = {
    "type": "server_vad",
    "threshold": 0.5,
    "prefix_padding_ms": 300,
    "silence_duration_ms": 500,
    "idle_timeout_ms": None,
    "create_response": True,
    "interrupt_response": True,
}
_SEMANTIC_VAD: Frame = {
    "type": "semantic_vad",
    "eagerness": "auto",
    "create_response": True,
    "interrupt_response": True,
}
_BYTES_PER_MS = {"audio/pcmu": 8, "audio/pcma": 8, "audio/pcm": 48}


@dataclass(frozen=True, slots=True)
class TurnDetection:
    """The fields of ``audio.input.turn_detection`` that the stand-in acts on."""

    threshold: float
    prefix_padding_ms: int
    silence_duration_ms: int
    idle_timeout_ms: int | None
    create_response: bool
    interrupt_response: bool


class SessionConfig:
    """The configuration in force, as ``session.created`` and ``session.updated`` echo it."""

    def __init__(self, *, session_id: str, model: str, expires_at: int, session_type: str = "realtime") -> None:
        self.current: Frame = {
            "type": session_type,
            "object": "realtime.session",
            "id": session_id,
            "expires_at": expires_at,
        }
        if session_type == "transcription":
            self.current |= {
                "object": "realtime.transcription_session",
                "audio": {"input": _input_defaults()},
                "include": None,
            }
            return
        pcm = {"type": "audio/pcm", "rate": 24000}
        self.current |= {
            "model": model,
            "output_modalities": ["audio"],
            "instructions": "You are a helpful assistant. (Default instructions of the rehearsal server.)",
            "tools": [],
            "tool_choice": "auto",
            "max_output_tokens": "inf",
            "truncation": "auto",
            "tracing": None,
            "prompt": None,
            "include": None,
            "audio": {
                "input": _input_defaults(),
                "output": {"format": pcm, "voice": "marin", "speed": 1.0},
            },
        }

    def update(self, session: Frame, *, has_assistant_audio: bool, responding: bool) -> None:
        """Merge a validated ``session.update``; only fields that were sent change.

        Raises ClientEventError, having changed nothing, where the API refuses the change.
        """
        if session["type"] != self.current["type"]:
            raise ClientEventError(
                f"Passing a {session['type']} session update event to a {self.current['type']} session is not allowed.",
                code="invalid_parameter",
                param="session.type",
            )
        self._refuse_fixed(session, has_assistant_audio=has_assistant_audio, responding=responding)
        for side in ("input", "output"):
            audio_format = session.get("audio", {}).get(side, {}).get("format")
            if audio_format is not None:
                check_format(audio_format, f"session.audio.{side}.format")
        _check_ranges(session)
        merged = _merge(self.current, session)
        check_transcription(merged, session)
        detection = merged["audio"]["input"].get("turn_detection")
        if detection is not None:
            defaults = _SERVER_VAD if detection["type"] == "server_vad" else _SEMANTIC_VAD
            merged["audio"]["input"]["turn_detection"] = {**defaults, **detection}
        self.current = merged

    def _refuse_fixed(self, session: Frame, *, has_assistant_audio: bool, responding: bool) -> None:
        model = session.get("model")
        if model is not None and model != self.current.get("model"):
            raise ClientEventError(
                f"Cannot change the model of a session from '{self.current['model']}' to '{model}'.",
                code="cannot_update_model",
                param="session.model",
            )
        if "reasoning" in session and not _reasons(self.current["model"]):
            raise ClientEventError(
                f"Reasoning is not supported by the model '{self.current['model']}'.",
                code="unsupported_parameter",
                param="session.reasoning",
            )
        if self.current.get("tracing") and session.get("tracing", self.current["tracing"]) != (self.current["tracing"]):
            raise ClientEventError(
                "Tracing cannot be changed once it is enabled.",
                code="cannot_update_tracing",
                param="session.tracing",
            )
        output = session.get("audio", {}).get("output", {})
        voice = output.get("voice")
        if voice is not None and has_assistant_audio and voice != self.voice:
            raise ClientEventError(
                "Cannot update a conversation's voice if assistant audio is present.",
                code="cannot_update_voice",
                param="session.audio.output.voice",
            )
        if responding and "speed" in output and output["speed"] != self.current["audio"]["output"]["speed"]:
            raise ClientEventError(
                "Speed can only be changed between turns.",
                code="invalid_value",
                param="session.audio.output.speed",
            )

    @property
    def model(self) -> str:
        return str(self.current.get("model", ""))

    @property
    def instructions(self) -> str:
        return self.current.get("instructions") or ""

    @property
    def voice(self) -> Any:
        return self.current["audio"]["output"]["voice"]

    @property
    def input_format(self) -> str:
        return str(self.current["audio"]["input"]["format"]["type"])

    @property
    def output_format(self) -> str:
        return str(self.current["audio"]["output"]["format"]["type"])

    @property
    def transcription(self) -> Frame | None:
        value: Frame | None = self.current["audio"]["input"].get("transcription")
        return value

    @property
    def tool_names(self) -> set[str]:
        return {tool["name"] for tool in self.current.get("tools") or [] if tool.get("type") == "function"}

    @property
    def turn_detection(self) -> TurnDetection | None:
        fields = self.current["audio"]["input"].get("turn_detection")
        if fields is None:
            return None
        if fields["type"] == "semantic_vad":
            # No model judges whether the sentence is complete: eagerness is stood in for by the silence.
            silence_ms = {"low": 1000, "high": 300}.get(fields["eagerness"], 600)
            return TurnDetection(
                threshold=0.5,
                prefix_padding_ms=300,
                silence_duration_ms=silence_ms,
                idle_timeout_ms=None,
                create_response=fields["create_response"] is not False,
                interrupt_response=fields["interrupt_response"] is not False,
            )
        default = _SERVER_VAD
        return TurnDetection(
            threshold=_or(fields["threshold"], default["threshold"]),
            prefix_padding_ms=_or(fields["prefix_padding_ms"], default["prefix_padding_ms"]),
            silence_duration_ms=_or(fields["silence_duration_ms"], default["silence_duration_ms"]),
            idle_timeout_ms=fields["idle_timeout_ms"],
            create_response=fields["create_response"] is not False,
            interrupt_response=fields["interrupt_response"] is not False,
        )


def bytes_per_ms(audio_format: str) -> int:
    """Bytes of one millisecond of ``audio/pcmu``, ``audio/pcma`` or ``audio/pcm`` (24 kHz, 16 bit)."""
    return _BYTES_PER_MS[audio_format]


def check_format(audio_format: Frame, path: str) -> None:
    """Raise ClientEventError for ``audio/pcm`` without its rate, which the models wrongly call optional."""
    if audio_format.get("type") != "audio/pcm":
        return
    if audio_format.get("rate") is None:
        raise ClientEventError(
            f"Missing required parameter: '{path}.rate'.",
            code="missing_required_parameter",
            param=f"{path}.rate",
        )


def _check_ranges(session: Frame) -> None:
    """Limits that the reference states and the models do not carry."""
    speed = session.get("audio", {}).get("output", {}).get("speed")
    if speed is not None and not 0.25 <= speed <= 1.5:
        raise ClientEventError(
            "Invalid 'session.audio.output.speed': expected a value between 0.25 and 1.5.",
            code="invalid_value",
            param="session.audio.output.speed",
        )
    tokens = session.get("max_output_tokens")
    if isinstance(tokens, int) and not 1 <= tokens <= 4096:
        raise ClientEventError(
            "Invalid 'session.max_output_tokens': expected 1 to 4096, or 'inf'.",
            code="invalid_value",
            param="session.max_output_tokens",
        )
    modalities = session.get("output_modalities")
    if modalities is not None and modalities not in (["audio"], ["text"]):
        raise ClientEventError(
            f"Invalid modalities: {modalities}. Supported combinations are: ['text'] and ['audio'].",
            code="invalid_value",
            param="session.output_modalities",
        )


def _input_defaults() -> Frame:
    return {
        "format": {"type": "audio/pcm", "rate": 24000},
        "transcription": None,
        "noise_reduction": None,
        "turn_detection": dict(_SERVER_VAD),
    }


def _merge(current: Frame, sent: Frame) -> Frame:
    merged = deepcopy(current)
    for name, value in sent.items():
        before = merged.get(name)
        mergeable = isinstance(before, dict) and isinstance(value, dict) and name not in _REPLACED
        if mergeable and before is not None and value.get("type") in (None, before.get("type")):
            merged[name] = _merge(before, value)
        else:
            merged[name] = deepcopy(value)
    return merged


def _reasons(model: str) -> bool:
    # gpt-realtime-2, -2.1, -2.1-mini; not the dated gpt-realtime-2025-08-28.
    return model.startswith("gpt-realtime-2") and not model.startswith("gpt-realtime-20")


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
