"""Speech to text over HTTP, one per endpoint and worker: an utterance in, its words out.

Reference: the API's "Create transcription". Audio goes as WAV, since raw PCM and G.711 are not taken.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import openai
from openai import AsyncStream, BaseModel
from openai.types.audio import Transcription

from libs.audio.wav import write_wav
from services.ai_session.backends.chat_reply import BrokenReplyError
from services.ai_session.backends.stage_errors import Patience, StageError, StageFault, stage_error
from services.ai_session.costs import tokens_of
from services.ai_session.instruments import request_under_way
from services.ai_session.language import code_of

WITHIN_S = 5.0  # all attempts together: the session gives up a turn whose words do not come
PAUSES_S = (0.2, 0.5)
LONGEST_PAUSE_S = 1.5
_STREAMS = ("gpt-transcribe", "gpt-4o-transcribe", "gpt-4o-mini-transcribe")  # whisper-1 ignores `stream`


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was said. `language` as ISO 639-1 where the model tells; `tokens` where it is billed by them."""

    text: str
    language: str | None
    tokens: dict[str, int]


class Transcriber:
    """Asks one endpoint. `client` belongs to whoever made it."""

    def __init__(self, client: openai.AsyncOpenAI, counters: Counter[str]) -> None:
        self._client = client
        self._counters = counters
        self.within_s = WITHIN_S

    async def transcribe(self, pcm: bytes, rate_hz: int, settings: Mapping[str, Any]) -> Transcript:
        """The words of PCM16LE audio. `settings`: model and what else the model takes.

        Raises:
            StageError: there were none to be had.
        """
        wav = write_wav(pcm, rate_hz)
        patience = Patience(PAUSES_S, LONGEST_PAUSE_S)
        failure: StageError | None = None
        try:
            async with asyncio.timeout(self.within_s):
                while True:
                    try:
                        with request_under_way("transcription", "openai"):
                            return await self._once(wav, settings)
                    except (*StageFault, ValueError) as error:
                        failure = stage_error("transcription", error)
                    self._counters["transcription_failed"] += 1
                    pause_s = patience.pause_s(failure)
                    if pause_s is None:
                        raise failure
                    await asyncio.sleep(pause_s)
        except TimeoutError as error:
            raise failure or stage_error("transcription", error) from None

    async def _once(self, wav: bytes, settings: Mapping[str, Any]) -> Transcript:
        file = ("turn.wav", wav, "audio/wav")
        create = self._client.audio.transcriptions.create
        if str(settings.get("model", "")).startswith(_STREAMS):
            stream: AsyncStream[Any] = await create(file=file, response_format="json", stream=True, **settings)
            async with stream:
                if stream.response.headers.get("content-type", "").startswith("application/json"):
                    return _transcript(Transcription.construct(**_object(await stream.response.aread())))
                return await _last(stream)
        answer = await create(file=file, response_format="json", **settings)
        return _transcript(answer)


def _object(body: bytes) -> dict[str, Any]:
    """The answer of a server that does not stream, though it was asked to."""
    answer = json.loads(body)
    return answer if isinstance(answer, dict) else {}


async def _last(stream: AsyncStream[Any]) -> Transcript:
    """The final event has all of the text; the deltas stand in for it where a server sends none."""
    deltas: list[str] = []
    async for event in stream:
        match getattr(event, "type", ""):
            case "transcript.text.done":
                return _transcript(event)
            case "transcript.text.delta":
                deltas.append(str(getattr(event, "delta", "") or ""))
    if not deltas:
        raise BrokenReplyError("the transcription endpoint ended its answer before it began")
    return Transcript("".join(deltas).strip(), None, {})


def _transcript(answer: Any) -> Transcript:
    text = getattr(answer, "text", None)
    if not isinstance(text, str):
        raise BrokenReplyError("the transcription endpoint answered without a text")
    usage = getattr(answer, "usage", None)
    tokens = tokens_of(usage.to_dict(), speaks=False) if isinstance(usage, BaseModel) else {}
    told = getattr(answer, "languages", None) or getattr(answer, "language", None)
    return Transcript(text.strip(), code_of(told), tokens)
