"""The voices of ElevenLabs, streamed over HTTP.

Reference: its API, "Stream speech" (`POST /v1/text-to-speech/{voice_id}/stream`) and "Errors". A call at 8 kHz gets
µ-law, a wideband one PCM at 16 kHz. It bills the characters that it was sent, heard or not: they are told with the
first audio.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import aiohttp

from libs.audio.g711 import Law
from services.ai_session.backends.port import UsageCounted
from services.ai_session.costs import Models
from services.ai_session.http_client import CONNECT_WITHIN_S, KEEP_ALIVE_S, MOST_CONNECTIONS
from services.ai_session.rate_limit import hint_of_headers
from services.ai_session.voices.pcm_stream import NO_AUDIO, PcmStream
from services.ai_session.voices.port import Chunk, Sound, VoiceError
from services.ai_session.voices.spending import usage_of

SLOWEST, FASTEST = 0.7, 1.2  # "Voice settings", speed
FIRST_BYTE_WITHIN_S = 5.0
NEXT_BYTES_WITHIN_S = 4.0
CHUNK_BYTES = 4096
_TAKES_LANGUAGE = ("eleven_flash_v2_5", "eleven_turbo_v2_5", "eleven_v3")  # the others refuse `language_code`
_NOT_THE_KEY = frozenset({"quota_exceeded"})  # a 401 whose key is good


def session_of(base_url: str, api_key: str) -> aiohttp.ClientSession:
    """The connections that all voices of an endpoint share."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_WITHIN_S)
    connector = aiohttp.TCPConnector(limit=MOST_CONNECTIONS, keepalive_timeout=KEEP_ALIVE_S)
    headers = {"xi-api-key": api_key}
    return aiohttp.ClientSession(base_url.rstrip("/") + "/", timeout=timeout, headers=headers, connector=connector)


class ElevenLabsVoice:
    """One voice. `session` belongs to whoever made it."""

    def __init__(self, session: aiohttp.ClientSession, sound: Sound, models: Models) -> None:
        self._session = session
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
        narrow = self._sound.rate_hz == Law.PCMU.rate_hz
        audio = PcmStream(8000, 8000, Law.PCMU) if narrow else PcmStream(16_000, self._sound.rate_hz)
        usage: UsageCounted | None = usage_of(self._models, self._sound.model, text, None)
        async with AsyncExitStack() as stack:
            response = await self._request(stack, text, "ulaw_8000" if narrow else "pcm_16000")
            while data := await self._next(response):
                if pcm := audio.feed(data):
                    yield Chunk(pcm, usage)
                    usage = None
        if not audio.seconds:
            raise VoiceError("no_audio", "ElevenLabs answered without audio", retry=True)
        if rest := audio.end():
            yield Chunk(rest)

    async def close(self) -> None:
        """See `Voice`; the session is closed by its owner."""

    async def _request(self, stack: AsyncExitStack, text: str, output_format: str) -> aiohttp.ClientResponse:
        path = f"v1/text-to-speech/{quote(self._sound.voice, safe='')}/stream"
        request = self._session.post(
            path,
            params={"output_format": output_format},
            json=self._body(text),
            allow_redirects=False,  # the key would go with it, wherever it leads
        )
        try:
            async with asyncio.timeout(self.first_byte_within_s):
                response = await stack.enter_async_context(request)
                if response.status != 200:
                    raise refusal(response, await response.content.read(CHUNK_BYTES))
                if response.content_type.startswith(NO_AUDIO):
                    raise VoiceError("no_audio", f"ElevenLabs answered with {response.content_type}", retry=False)
                return response
        except TimeoutError:
            raise VoiceError("timeout", "ElevenLabs did not answer in time", retry=True) from None
        except aiohttp.ClientError as error:
            what = str(error) or type(error).__name__
            raise VoiceError("unreachable", f"ElevenLabs was not reached: {what}", retry=True) from None

    def _body(self, text: str) -> dict[str, Any]:
        sound = self._sound
        body: dict[str, Any] = {"text": text, "model_id": sound.model}
        if sound.language and sound.model.startswith(_TAKES_LANGUAGE):
            body["language_code"] = sound.language.split("-")[0].lower()
        if sound.speed != 1.0:
            body["voice_settings"] = {"speed": min(max(sound.speed, SLOWEST), FASTEST)}
        return body

    async def _next(self, response: aiohttp.ClientResponse) -> bytes:
        try:
            async with asyncio.timeout(self.next_bytes_within_s):
                return await response.content.readany()
        except TimeoutError:
            raise VoiceError("timeout", "ElevenLabs stopped sending", retry=True) from None
        except aiohttp.ClientError as error:
            what = str(error) or type(error).__name__
            raise VoiceError("broken", f"ElevenLabs broke off: {what}", retry=True) from None


def refusal(response: aiohttp.ClientResponse, body: bytes) -> VoiceError:
    """An error answer in the terms of the port: `detail.status` says more than the HTTP status."""
    status = response.status
    code, message = _detail(body)
    after_s = hint_of_headers(response.headers)
    match status:
        case 401 | 403 if code not in _NOT_THE_KEY:
            sentence = f"ElevenLabs refused ELEVENLABS_API_KEY, or its plan: {message or code}"
            return VoiceError(code or f"http_{status}", sentence, retry=False)
        case 404:
            return VoiceError(code or "http_404", f"ElevenLabs has no such voice or model: {message}", retry=False)
        case 408 | 429:
            # too_many_concurrent_requests: the plan's limit; system_busy: theirs. Both pass.
            return VoiceError(code or f"http_{status}", f"ElevenLabs is busy: {message}", retry=True, after_s=after_s)
        case _ if status >= 500:
            sentence = f"ElevenLabs failed (HTTP {status})"
            return VoiceError(code or f"http_{status}", sentence, retry=True, after_s=after_s)
    return VoiceError(code or f"http_{status}", f"ElevenLabs refused the text (HTTP {status}): {message}", retry=False)


def _detail(body: bytes) -> tuple[str, str]:
    """Code and message of `{"detail": {"status", "message"}}`, or of the list that tells of a malformed body."""
    try:
        parsed = json.loads(body)
    except ValueError:
        return "", ""
    detail = parsed.get("detail") if isinstance(parsed, dict) else None
    if isinstance(detail, list):
        first = detail[0] if detail and isinstance(detail[0], dict) else {}
        return "invalid_request", str(first.get("msg", ""))
    if isinstance(detail, dict):
        # newer answers also carry `code`, which says the same
        return str(detail.get("status") or detail.get("code") or ""), str(detail.get("message") or "")
    return "", str(detail or "")
