"""The voice of `POST /v1/audio/speech`, at OpenAI until 2027-01-06 and at compatible endpoints.

Reference: the API's "Create speech"; `response_format: pcm` is 24 kHz, 16 bit, mono, without a header.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx2  # what the openai package speaks HTTP with; its errors come through while a body is read
import openai

from services.ai_session.costs import Models
from services.ai_session.voices.pcm_stream import NO_AUDIO, PcmStream
from services.ai_session.voices.port import Chunk, Sound, VoiceError
from services.ai_session.voices.spending import usage_of

PCM_RATE_HZ = 24_000
LONGEST_TEXT = 4096  # characters
FIRST_BYTE_WITHIN_S = 6.0
NEXT_BYTES_WITHIN_S = 5.0


class OpenAISpeech:
    """One voice of a speech endpoint. `client` belongs to whoever made it."""

    def __init__(self, client: openai.AsyncOpenAI, sound: Sound, models: Models) -> None:
        self._client = client
        self._sound = sound
        self._models = models
        self.first_byte_within_s = FIRST_BYTE_WITHIN_S
        self.next_bytes_within_s = NEXT_BYTES_WITHIN_S

    @property
    def sound(self) -> Sound:
        """See `Voice`."""
        return self._sound

    async def speak(self, text: str) -> AsyncGenerator[Chunk]:
        """See `Voice`."""
        if len(text) > LONGEST_TEXT:
            raise VoiceError(
                "text_too_long", f"a text of {len(text)} characters is over {LONGEST_TEXT}: split it", retry=False
            )
        audio = PcmStream(PCM_RATE_HZ, self._sound.rate_hz)
        async with AsyncExitStack() as stack:
            chunks = await self._request(stack, text)
            within_s = self.first_byte_within_s
            while data := await self._next(chunks, within_s):
                within_s = self.next_bytes_within_s
                if pcm := audio.feed(data):
                    yield Chunk(pcm)
        if not audio.seconds:
            raise VoiceError("no_audio", "the speech endpoint answered without audio", retry=True)
        yield Chunk(audio.end(), usage_of(self._models, self._sound.model, text, audio.seconds))

    async def close(self) -> None:
        """See `Voice`; the client is closed by its owner."""

    async def _request(self, stack: AsyncExitStack, text: str) -> AsyncIterator[bytes]:
        sound = self._sound
        options: dict[str, Any] = {}
        if sound.speed != 1.0:
            options["speed"] = sound.speed
        if sound.instructions and not sound.model.startswith("tts-1"):  # they do not take them
            options["instructions"] = sound.instructions
        request = self._client.audio.speech.with_streaming_response.create(
            model=sound.model, voice=sound.voice, input=text, response_format="pcm", **options
        )
        try:
            async with asyncio.timeout(self.first_byte_within_s):
                response = await stack.enter_async_context(request)
        except (openai.APIError, TimeoutError) as error:
            raise voice_error(error) from None
        content_type = response.headers.get("content-type", "")
        if content_type.startswith(NO_AUDIO):
            raise VoiceError("no_audio", f"the speech endpoint answered with {content_type}", retry=False)
        return response.iter_bytes()

    async def _next(self, chunks: AsyncIterator[bytes], within_s: float) -> bytes:
        """The next bytes; none at the end."""
        try:
            async with asyncio.timeout(within_s):
                return await anext(chunks, b"")
        except TimeoutError as error:
            raise voice_error(error) from None
        except (httpx2.HTTPError, httpx2.StreamError, openai.APIError) as error:
            raise VoiceError(
                "broken", f"the speech endpoint broke off: {error or type(error).__name__}", retry=True
            ) from None


def voice_error(error: openai.APIError | TimeoutError) -> VoiceError:
    """The client's exception in the terms of the port: what the request is to blame for is final."""
    if isinstance(error, openai.APIStatusError):
        status = error.status_code
        code = str(error.code or f"http_{status}")
        match status:
            case 401 | 403:
                return VoiceError(code, f"the speech endpoint refused the key (HTTP {status})", retry=False)
            case 408 | 409 | 429:
                # insufficient_quota comes as a 429 that no waiting mends
                return VoiceError(
                    code, f"the speech endpoint is busy (HTTP {status})", retry=code != "insufficient_quota"
                )
            case _ if status < 500:
                return VoiceError(code, f"the speech endpoint refused the text: {error.message}", retry=False)
        return VoiceError(code, f"the speech endpoint failed (HTTP {status})", retry=True)
    if isinstance(error, (TimeoutError, openai.APITimeoutError)):
        return VoiceError("timeout", "the speech endpoint sent nothing in time", retry=True)
    return VoiceError("unreachable", f"the speech endpoint was not reached: {error}", retry=True)
