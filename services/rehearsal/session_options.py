"""What a Realtime session is given: its options, and the voice it speaks with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from services.rehearsal.responses import Pace


class Voice(Protocol):
    """What the session needs of text to speech."""

    def pcm(self, text: str) -> bytes:
        """PCM16 at 8 kHz."""

    def encoded(self, text: str, audio_format: str) -> bytes:
        """The same in a format of the API."""


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What the connection and the settings say about a session."""

    session_id: str
    model: str = "gpt-realtime-2.1"
    session_type: str = "realtime"
    expires_at: int = 0
    scenario: str | None = None
    pace: Pace = field(default_factory=Pace)
    transcription_delay_ms: float = 350.0
