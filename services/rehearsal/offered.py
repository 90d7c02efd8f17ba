"""The models this server answers for, by endpoint, and the day each of them ends.

Source: the API's list of deprecations, November 2026. After its day a model is unknown, as it is at the API.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date

from services.rehearsal.refusals import unknown_model

_REALTIME_END, _TRANSCRIBE_END, _SPEECH_END = date(2027, 1, 20), date(2027, 2, 26), date(2027, 1, 6)
_GPT_4_END, _GPT_5_END = date(2027, 1, 14), date(2026, 12, 11)

REALTIME: dict[str, date | None] = {
    "gpt-realtime-2.1": None,
    "gpt-realtime-2.1-mini": None,
    "gpt-realtime-2": None,
    "gpt-realtime-1.5": None,
    "gpt-realtime-whisper": None,
    "gpt-live-transcribe": None,
    "gpt-realtime": _REALTIME_END,
    "gpt-realtime-2025-08-28": _REALTIME_END,
    "gpt-realtime-mini": _REALTIME_END,
    "gpt-realtime-mini-2025-12-15": _REALTIME_END,
}
LIVE: dict[str, date | None] = {"gpt-live-1": None}
TRANSCRIPTION: dict[str, date | None] = {
    "gpt-transcribe": None,
    "gpt-4o-transcribe": _TRANSCRIBE_END,
    "gpt-4o-mini-transcribe": _TRANSCRIBE_END,
    "gpt-4o-mini-transcribe-2025-12-15": _TRANSCRIBE_END,
    "gpt-4o-transcribe-diarize": _TRANSCRIBE_END,
    "whisper-1": _TRANSCRIBE_END,
}
SPEECH: dict[str, date | None] = {
    "gpt-4o-mini-tts": _SPEECH_END,
    "gpt-4o-mini-tts-2025-12-15": _SPEECH_END,
    "tts-1": _SPEECH_END,
    "tts-1-hd": _SPEECH_END,
}
CHAT: dict[str, date | None] = {
    "gpt-6-astra": None,
    "gpt-6.1-sol": None,
    "gpt-6.1-terra": None,
    "gpt-6-sol": None,
    "gpt-6-luna": None,
    "gpt-5.6-sol": None,
    "gpt-5.6-terra": None,
    "gpt-5.6-luna": None,
    "gpt-5.5": None,
    "gpt-5.4": None,
    "gpt-5.4-mini": None,
    "gpt-5.4-nano": None,
    "gpt-4o": _GPT_4_END,
    "gpt-4o-mini": _GPT_4_END,
    "gpt-4.1": _GPT_4_END,
    "gpt-4.1-mini": _GPT_4_END,
    "gpt-5": _GPT_5_END,
    "gpt-5-mini": _GPT_5_END,
    "gpt-5-nano": _GPT_5_END,
    "o3": _GPT_5_END,
}


class Offered:
    """What is served on the day ``today``; ``extra`` are ids that every endpoint takes besides its own."""

    def __init__(self, today: date, extra: Iterable[str] = ()) -> None:
        self._today = today
        self._extra: dict[str, date | None] = dict.fromkeys(extra)

    def listing(self) -> Iterator[dict[str, object]]:
        """The entries of ``GET /v1/models``."""
        for name, end in {**REALTIME, **LIVE, **TRANSCRIPTION, **SPEECH, **CHAT, **self._extra}.items():
            if end is None or self._today <= end:
                yield {
                    "id": name,
                    "object": "model",
                    "created": 0,
                    "owned_by": "rehearsal",
                    "shutdown_date": end.isoformat() if end else None,
                }

    def require(self, model: str, group: dict[str, date | None]) -> None:
        """Raise ApiError (404) unless ``model`` is in ``group`` and has not ended."""
        end = {**group, **self._extra}.get(model, date.min)
        if end is not None and self._today > end:
            raise unknown_model(model)
