"""The port to a voice: sentences in, speech out.

A voice is shared by all calls of a worker that sound the same. Audio on this port is PCM16LE, mono, at the rate that
the voice was made for, in chunks of whole samples that come as soon as the provider has them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from services.ai_session.backends.port import UsageCounted


class VoiceError(Exception):
    """A text could not be spoken. `retry` says whether another attempt may succeed, `code` is the provider's.

    `after_s` is how long the provider asked to wait, where it did. What `Voices` gives out has made its attempts.
    """

    def __init__(self, code: str, sentence: str, *, retry: bool, after_s: float | None = None) -> None:
        super().__init__(sentence)
        self.code = code
        self.retry = retry
        self.after_s = after_s


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
    endpoint: str = ""  # whose model it is: a rehearsal's speech must never be found for the real one


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of speech. One chunk of a text carries what it cost; `pcm` may be empty then.

    `verbatim` is False where the voice knows that it did not say the text word for word; such speech is not kept.
    """

    pcm: bytes
    usage: UsageCounted | None = None
    verbatim: bool = True


class Voice(Protocol):
    """One voice of one provider."""

    @property
    def sound(self) -> Sound:
        """What it sounds like."""
        ...

    def speak(self, text: str) -> AsyncGenerator[Chunk]:
        """Speak a text. Closing the iterator (`aclose`) stops the provider's work.

        Raises:
            VoiceError: before the first chunk or between two.
        """
        ...

    async def close(self) -> None:
        """Give connections back; safe to call twice."""
        ...
