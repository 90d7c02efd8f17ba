"""The voice of a Realtime model that reads texts aloud: what follows `/v1/audio/speech`, and sounds like the agent.

A few connections per sound are kept open and closed when idle. A model may reword what it reads: its transcript is
compared with the text, deviations are counted, and speech that deviates is marked so that nobody keeps it.
"""

from __future__ import annotations

import asyncio
import unicodedata
from collections import Counter
from collections.abc import AsyncGenerator

from libs.audio.g711 import Law
from libs.runtime.log import get_logger
from services.ai_session.backends.port import BackendError, UsageCounted
from services.ai_session.backends.realtime_link import Endpoint
from services.ai_session.costs import Models, tokens_of
from services.ai_session.phrases import Verbatim, as_instructions
from services.ai_session.voices.pcm_stream import PcmStream
from services.ai_session.voices.port import Chunk, Sound, VoiceError
from services.ai_session.voices.reading_link import PCM_RATE_HZ, Reading, ReadingLink

LINKS = 8  # of one sound; further texts wait for one
IDLE_S = 60.0
OLDEST = 0.8  # of what the server lets a session last
FIRST_AUDIO_WITHIN_S = 6.0
NEXT_AUDIO_WITHIN_S = 5.0
_FINAL = frozenset({"insufficient_quota", "content_filter", "max_output_tokens", "invalid_api_key"})

log = get_logger()


class RealtimeSpeech:
    """One voice of one Realtime model."""

    def __init__(self, endpoint: Endpoint, sound: Sound, models: Models, counters: Counter[str]) -> None:
        self._endpoint = endpoint
        self._sound = sound
        self._models = models
        self._counters = counters
        self._links: set[ReadingLink] = set()
        self._idle: list[ReadingLink] = []  # the last one was used last
        self._slots = asyncio.Semaphore(LINKS)
        self.idle_s = IDLE_S
        self.first_audio_within_s = FIRST_AUDIO_WITHIN_S
        self.next_audio_within_s = NEXT_AUDIO_WITHIN_S

    @property
    def sound(self) -> Sound:
        """See `Voice`."""
        return self._sound

    async def speak(self, text: str) -> AsyncGenerator[Chunk]:
        """See `Voice`."""
        narrow = self._sound.rate_hz == Law.PCMU.rate_hz
        audio = PcmStream(8000, 8000, Law.PCMU) if narrow else PcmStream(PCM_RATE_HZ, self._sound.rate_hz)
        async with self._slots:
            link = await self._link()
            reading = link.read(text, self._instructions(text))
            try:
                within_s = self.first_audio_within_s
                while (data := await self._next(reading, within_s)) is not None:
                    within_s = self.next_audio_within_s
                    if pcm := audio.feed(data):
                        yield Chunk(pcm)
            finally:
                if not reading.status:
                    self._counters["realtime_cancelled"] += 1  # what it cost so far is not told any more
                    link.cancel()
        if reading.status != "completed":
            if reading.usage:  # billed all the same
                yield Chunk(b"", self._usage(reading, audio.seconds), verbatim=False)
            raise failure(reading)
        if not audio.seconds:
            raise VoiceError("no_audio", "the model answered without audio", retry=True)
        yield Chunk(audio.end(), self._usage(reading, audio.seconds), self._is_verbatim(text, reading.transcript))

    async def close(self) -> None:
        """See `Voice`."""
        for link in list(self._links):
            link.close()

    # -- connections ------------------------------------------------------------------------------------

    async def _link(self) -> ReadingLink:
        while self._idle:
            link = self._idle.pop()
            if not link.over:
                return link
        link = ReadingLink(self._endpoint, self._sound, self._freed, self._gone)
        self._links.add(link)
        try:
            await link.open()
        except BackendError as error:
            raise VoiceError(error.kind, str(error), retry=error.retry) from None
        self._counters["realtime_connections"] += 1
        return link

    def _freed(self, link: ReadingLink) -> None:
        if asyncio.get_running_loop().time() - link.opened_at > OLDEST * self._endpoint.session_max_s:
            link.close()
            return
        self._idle.append(link)
        link.close_in(self.idle_s)

    def _gone(self, link: ReadingLink) -> None:
        self._links.discard(link)
        if link in self._idle:
            self._idle.remove(link)

    async def _next(self, reading: Reading, within_s: float) -> bytes | None:
        try:
            async with asyncio.timeout(within_s):
                return await reading.pieces.get()
        except TimeoutError:
            raise VoiceError("timeout", f"the model sent no speech for {within_s:g} s", retry=True) from None

    # -- what came of it --------------------------------------------------------------------------------

    def _instructions(self, text: str) -> str:
        manner = f"{self._sound.instructions}\n" if self._sound.instructions else ""
        return f"{manner}{as_instructions(Verbatim(text))}"

    def _usage(self, reading: Reading, seconds: float) -> UsageCounted:
        tokens = tokens_of(reading.usage)
        model = self._sound.model
        cost = self._models.cost_of_response(model, tokens) if tokens else None
        return UsageCounted("speech", model, reading.response, tokens, seconds, cost)

    def _is_verbatim(self, text: str, transcript: str) -> bool:
        if heard_as(text) == heard_as(transcript):
            return True
        self._counters["realtime_deviations"] += 1
        log.warning("the model did not read a text word for word", model=self._sound.model, characters=len(text))
        log.debug("what it was given and what it said", text=text, transcript=transcript)
        return False


def heard_as(text: str) -> str:
    """A text without what is not heard of it: case, marks, spaces."""
    return "".join(ch for ch in unicodedata.normalize("NFKC", text).casefold() if ch.isalnum())


def failure(reading: Reading) -> VoiceError:
    """A response that was not completed, in the terms of the port."""
    code = reading.code or reading.status
    sentence = f"the model did not read the text ({reading.status}): {reading.detail or code}"
    return VoiceError(code, sentence, retry=code not in _FINAL)
