"""A voice that says what a test wants, when it wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from services.ai_session.backends.port import UsageCounted
from services.ai_session.voices.port import Chunk, Sound, VoiceError

SOUND = Sound("fake", "model", "anna", 8000, language="de")
PIECE = bytes(range(100)) * 2


class FakeVoice:
    """Three chunks a text; with `gate`, each waits for a permit."""

    def __init__(self, sound: Sound = SOUND, gate: asyncio.Semaphore | None = None) -> None:
        self.sound = sound
        self.gate = gate
        self.spoken: list[str] = []
        self.stopped: list[str] = []  # closed before their end
        self.failures: list[VoiceError] = []
        self.fail_after = 0  # chunks
        self.verbatim = True
        self.closed = False

    async def speak(self, text: str) -> AsyncGenerator[Chunk]:
        self.spoken.append(text)
        complete = False
        try:
            for number in range(3):
                if self.gate is not None:
                    await self.gate.acquire()
                if self.failures and number == self.fail_after:
                    complete = True
                    raise self.failures.pop(0)
                yield Chunk(PIECE + bytes([number, len(text)]))
            complete = True
            yield Chunk(b"", UsageCounted("speech", "model", "", {"characters": len(text)}), self.verbatim)
        finally:
            if not complete:
                self.stopped.append(text)

    async def close(self) -> None:
        self.closed = True


def rendered(text: str) -> bytes:
    return b"".join(PIECE + bytes([number, len(text)]) for number in range(3))
