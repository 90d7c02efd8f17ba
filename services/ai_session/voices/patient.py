"""A voice that tries again: short trouble of a provider costs a moment, not the sentence."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from services.ai_session.instruments import request_under_way
from services.ai_session.voices.port import Chunk, Sound, Voice, VoiceError

WAITS_S = (0.2, 0.8)  # before the second attempt and the third; a caller hears a pause, or a filler
GIVE_UP_AFTER_S = 5.0  # no further attempt then: a provider that hangs is not worth three time-outs
LONGEST_WAIT_S = 2.0  # of what a provider asks for; beyond it the sentence has failed


class PatientVoice:
    """Repeats what failed before its first audio, after a moment. What broke off in the middle is not said twice.

    `spread` returns a factor about 1, so that the calls of a worker do not come back all at once.
    """

    def __init__(self, voice: Voice, counters: Counter[str], spread: Callable[[], float]) -> None:
        self._voice = voice
        self._counters = counters
        self._spread = spread

    @property
    def sound(self) -> Sound:
        """See `Voice`."""
        return self._voice.sound

    async def speak(self, text: str) -> AsyncGenerator[Chunk]:
        """See `Voice`."""
        loop = asyncio.get_running_loop()
        last_begin_at = loop.time() + GIVE_UP_AFTER_S
        for wait_s in (*WAITS_S, None):
            begun = False
            try:
                with request_under_way("speech", self.sound.provider):
                    async with aclosing(self._voice.speak(text)) as speech:
                        async for chunk in speech:
                            begun = begun or bool(chunk.pcm)  # what a failed attempt cost is no audio
                            yield chunk
                return
            except VoiceError as error:
                self._counters[f"{self.sound.provider}_{error.code}"] += 1
                wanted_s = error.after_s or 0.0
                if wait_s is None or begun or not error.retry or wanted_s > LONGEST_WAIT_S:
                    raise
                pause_s = max(wanted_s, wait_s * self._spread())
                if loop.time() + pause_s > last_begin_at:
                    raise
            self._counters["retries"] += 1
            await asyncio.sleep(pause_s)

    async def close(self) -> None:
        """See `Voice`."""
        await self._voice.close()
