"""What the transcription models of a session take and refuse (API reference, `audio.input.transcription`)."""

from __future__ import annotations

from services.rehearsal.outputs import Frame
from services.rehearsal.validation import ClientEventError

_MODELS = {
    *("gpt-transcribe", "gpt-live-transcribe", "gpt-realtime-whisper", "whisper-1", "gpt-4o-transcribe"),
    *("gpt-4o-mini-transcribe", "gpt-4o-mini-transcribe-2025-12-15", "gpt-4o-transcribe-diarize"),
}
# They transcribe while they listen, and know no turns: the client commits.
_WITHOUT_TURNS = {"gpt-live-transcribe", "gpt-realtime-whisper"}
_PATH = "session.audio.input.transcription"


def check_transcription(merged: Frame, sent: Frame) -> None:
    """Raise ClientEventError unless the transcription of ``merged`` is one that the API takes.

    ``sent`` is what the update held. A model without turns switches turn detection off unless that asks for it.
    """
    audio = merged["audio"]["input"]
    chosen = audio.get("transcription")
    if chosen is None:
        return
    model = chosen.get("model")
    if model is None:
        raise ClientEventError(
            f"Missing required parameter: '{_PATH}.model'.", code="missing_required_parameter", param=f"{_PATH}.model"
        )
    if model not in _MODELS:
        names = ", ".join(f"'{name}'" for name in sorted(_MODELS))
        raise ClientEventError(
            f"Invalid value: '{model}'. Supported values are: {names}.", code="invalid_value", param=f"{_PATH}.model"
        )
    for name, models in (
        ("keywords", {"gpt-transcribe", "gpt-live-transcribe"}),
        ("languages", {"gpt-transcribe", "gpt-live-transcribe"}),
        ("delay", {"gpt-realtime-whisper"}),
        ("prompt", _MODELS - {"gpt-realtime-whisper", "gpt-4o-transcribe-diarize"}),
    ):
        if chosen.get(name) is not None and model not in models:
            raise ClientEventError(
                f"'{name}' is not supported with the transcription model '{model}'.",
                code="unsupported_parameter",
                param=f"{_PATH}.{name}",
            )
    if merged["type"] == "transcription" and model in _WITHOUT_TURNS:
        if sent.get("audio", {}).get("input", {}).get("turn_detection") is not None:
            raise ClientEventError(
                f"Turn detection is not supported with the transcription model '{model}'.",
                code="unsupported_parameter",
                param="session.audio.input.turn_detection",
            )
        audio["turn_detection"] = None
