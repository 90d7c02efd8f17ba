"""The port to a voice: sentences in, speech out.

A voice is shared by all calls of a worker that sound the same. Audio on this port is PCM16LE, mono, at the rate that
the voice was made for, in chunks of whole samples that come as soon as the provider has them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from services.ai_session.backends.port import UsageCounted


class VoiceError(Exception):
    """A text could not be spoken. `retry` says whether another attempt may succeed, `code` is the provider's."""

    def __init__(self, code: str, sentence: str, *, retry: bool) -> None:
        super().__init__(sentence)
        self.code = code
        self.retry = retry


@dataclass(frozen=True, slots=True)
class Sound:
    """Everything that changes how a text sounds; two voices of the same sound share what they rendered."""

    provider: str
    model: str
    voice: str
    rate_hz: int
    speed: float = 1.0
    language: str = ""
    instructions: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of speech, or (with the last one) what it cost."""

    pcm: bytes
    usage: UsageCounted | None = None


class Voice(Protocol):
    """One voice of one provider."""

    @property
    def sound(self) -> Sound:
        """What it sounds like."""
        ...

    def speak(self, text: str) -> AsyncIterator[Chunk]:
        """Speak a text. Closing the iterator (`aclose`) stops the provider's work.

        Raises:
            VoiceError: before the first chunk or between two.
        """
        ...

    async def close(self) -> None:
        """Give connections back; safe to call twice."""
        ...
