"""How a caller's turn is told as text: the events of one input transcription, in order (API reference,
`conversation.item.input_audio_transcription.*`)."""

from __future__ import annotations

from services.rehearsal.accounting import transcription_usage
from services.rehearsal.conversation import Item
from services.rehearsal.outputs import Frame

_TELLS_LANGUAGES = {"gpt-transcribe", "gpt-live-transcribe"}
_KIND = "conversation.item.input_audio_transcription"
_WORDS_PER_DELTA = 3


def transcription_events(item: Item, model: str, language: str) -> list[Frame]:
    """Deltas of a few words each, then the whole with its usage; a turn without words has no deltas."""
    about: Frame = {"item_id": item.id, "content_index": 0}
    words = item.text.split(" ")
    frames: list[Frame] = []
    for start in range(0, len(words) if item.text else 0, _WORDS_PER_DELTA):
        end = start + _WORDS_PER_DELTA
        delta = " ".join(words[start:end]) + (" " if end < len(words) else "")
        frames.append({"type": f"{_KIND}.delta", **about, "delta": delta})
    whole: Frame = {"type": f"{_KIND}.completed", **about, "transcript": item.text}
    if model in _TELLS_LANGUAGES:
        whole["languages"] = [{"code": language}] if item.text else []
    return [*frames, {**whole, "usage": transcription_usage(item.audio_ms, item.text)}]


def failed_transcription(item: Item) -> Frame:
    """The one event of a transcription that failed."""
    error = {"type": "transcription_error", "code": "audio_unintelligible", "param": None}
    error["message"] = "The audio could not be transcribed."
    return {"type": f"{_KIND}.failed", "item_id": item.id, "content_index": 0, "error": error}
