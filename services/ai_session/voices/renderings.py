"""Texts that an agent says again and again, rendered before they are needed.

A filler that had to be rendered first would come too late. What is ready here is played at once, whatever the
provider is doing; what is not ready is not said.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from contextlib import aclosing

from libs.contracts.agent import AgentConfig
from libs.runtime.log import get_logger
from services.ai_session.voices.cache import CachedVoice, normalized
from services.ai_session.voices.port import Sound, VoiceError

AT_A_TIME = 2  # the callers' own sentences come first
TRY_AGAIN_AFTER_S = 60.0

log = get_logger()


def texts_of(agent: AgentConfig) -> tuple[str, ...]:
    """What an agent says word for word, in the order in which a call needs it."""
    message = agent.answering_machine.message if agent.answering_machine.then == "leave_message" else None
    idle = agent.idle.text if agent.idle.after_s is not None and agent.idle.prompts else None
    texts = (agent.opening, *agent.fillers.texts, idle, agent.goodbye, message)
    return tuple(dict.fromkeys(text for text in texts if text))


class Renderings:
    """What one voice has ready, as PCM16LE at the call's rate; shared by the calls that sound the same."""

    def __init__(self, voice: CachedVoice, counters: Counter[str]) -> None:
        self._voice = voice
        self._counters = counters
        self._ready: dict[str, bytes] = {}
        self._under_way: set[str] = set()
        self._again_at = 0.0
        self._slots = asyncio.Semaphore(AT_A_TIME)

    @property
    def sound(self) -> Sound:
        """What they sound like."""
        return self._voice.sound

    def get(self, text: str) -> bytes | None:
        """A text's speech if it is ready. Returns at once: for the hot path."""
        pcm = self._ready.get(normalized(text))
        self._counters["ready" if pcm is not None else "not_ready"] += 1
        return pcm

    def missing(self, texts: Iterable[str], now: float) -> tuple[str, ...]:
        """Which of the texts `prepare` would render now; none for a while after a failure."""
        if now < self._again_at:
            return ()
        wanted = dict.fromkeys(normalized(text) for text in texts)
        return tuple(text for text in wanted if text and text not in self._ready and text not in self._under_way)

    async def prepare(self, texts: Iterable[str]) -> None:
        """Render what is not ready yet, a few at a time. A failure is counted and logged, and tried again at a later
        call."""
        missing = self.missing(texts, asyncio.get_running_loop().time())
        self._under_way.update(missing)
        try:
            spent_usd = sum(await asyncio.gather(*(self._render(text) for text in missing)))
        finally:
            self._under_way.difference_update(missing)
        if missing:  # no call has asked for them: what they cost is told here only
            log.info("texts were rendered ahead", texts=len(missing), usd=round(spent_usd, 5), model=self.sound.model)

    async def _render(self, text: str) -> float:
        """Render one; what it cost in USD as far as that is known."""
        async with self._slots:
            try:
                async with aclosing(self._voice.speak(text, keep=True)) as speech:
                    chunks = [chunk async for chunk in speech]
            except VoiceError as error:
                self._counters["failed"] += 1
                self._again_at = asyncio.get_running_loop().time() + TRY_AGAIN_AFTER_S
                log.warning("a text was not rendered ahead", provider=self.sound.provider, why=str(error))
                return 0.0
        self._ready[text] = b"".join(chunk.pcm for chunk in chunks)
        self._counters["rendered"] += 1
        return sum(chunk.usage.cost_usd or 0.0 for chunk in chunks if chunk.usage is not None)
