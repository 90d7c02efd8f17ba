from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from libs.audio.tone import tone
from services.ai_session.costs import Model, Models
from services.ai_session.http_client import openai_client
from services.ai_session.voices.openai_speech import OpenAISpeech
from services.ai_session.voices.port import Chunk, Sound, Voice, VoiceError
from tests.unit.ai_session.voices.providers import SpeechProvider, speech_provider

SOUND = Sound("openai", "gpt-4o-mini-tts", "marin", 8000, 1.1, "de", "freundlich")


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[SpeechProvider]:
    async with speech_provider(tone(440, 500, 24_000)) as running:
        yield running


@pytest_asyncio.fixture
async def voice(provider) -> AsyncIterator[OpenAISpeech]:
    client = openai_client(provider.url + "/v1", "key")
    voice = OpenAISpeech(client, SOUND, Models({"gpt-4o-mini-tts": Model(minute=0.015)}))
    voice.first_byte_within_s = voice.next_bytes_within_s = 0.5
    yield voice
    await client.close()


async def spoken(voice: Voice, text: str) -> list[Chunk]:
    return [chunk async for chunk in voice.speak(text)]


async def failure(voice: Voice) -> VoiceError:
    with pytest.raises(VoiceError) as caught:
        await spoken(voice, "Hallo")
    return caught.value


async def test_a_text_comes_as_whole_samples_at_the_calls_rate_whatever_the_chunks(voice):
    chunks = await spoken(voice, "Guten Tag")
    assert all(len(chunk.pcm) % 2 == 0 for chunk in chunks)
    assert abs(sum(len(chunk.pcm) for chunk in chunks) - 8000) <= 2 * 30  # 0.5 s at 8 kHz, and the filter's tail


async def test_the_request_asks_for_raw_pcm_with_voice_speed_and_instructions(voice, provider):
    await spoken(voice, "Guten Tag")
    assert provider.paths == ["/v1/audio/speech"]
    assert provider.requests[0] == {
        "model": "gpt-4o-mini-tts",
        "voice": "marin",
        "input": "Guten Tag",
        "response_format": "pcm",
        "speed": 1.1,
        "instructions": "freundlich",
    }


async def test_older_models_get_no_instructions(provider):
    client = openai_client(provider.url, "key")
    await spoken(OpenAISpeech(client, Sound("openai", "tts-1", "alloy", 8000, 1.0, "de", "laut"), Models()), "Tag")
    await client.close()
    assert "instructions" not in provider.requests[0]
    assert "speed" not in provider.requests[0]


async def test_the_last_chunk_says_what_the_text_cost(voice):
    usage = (await spoken(voice, "Guten Tag"))[-1].usage
    assert usage is not None
    assert (usage.source, usage.tokens) == ("speech", {"characters": 9})
    assert usage.seconds == pytest.approx(0.5, abs=0.01)
    assert usage.cost_usd == pytest.approx(0.5 / 60 * 0.015, rel=0.02)


@pytest.mark.parametrize(
    ("status", "code", "retry"),
    [
        (401, "invalid_api_key", False),
        (403, "forbidden", False),
        (400, "bad_voice", False),
        (429, "rate_limit_exceeded", True),
        (429, "insufficient_quota", False),
        (500, "server_error", True),
        (503, "overloaded", True),
    ],
)
async def test_a_refusal_says_whether_another_attempt_may_succeed(voice, provider, status, code, retry):
    provider.refusals.append((status, {"error": {"message": "no", "code": code}}, {}))
    error = await failure(voice)
    assert (error.code, error.retry) == (code, retry)
    assert len(provider.requests) == 1  # the client repeats nothing by itself


async def test_headers_that_do_not_come_are_a_timeout(voice, provider):
    provider.headers_wait_s = 60
    error = await failure(voice)
    assert (error.code, error.retry) == ("timeout", True)


async def test_a_stream_that_stalls_is_a_timeout(voice, provider):
    provider.stall_after_bytes = 5000
    assert (await failure(voice)).code == "timeout"


async def test_a_stream_that_breaks_off_is_an_error_not_a_short_text(voice, provider):
    provider.break_after_bytes = 5000
    error = await failure(voice)
    assert (error.code, error.retry) == ("broken", True)


async def test_an_answer_without_audio_is_an_error(voice, provider):
    provider.audio = b""
    assert (await failure(voice)).code == "no_audio"


async def test_a_text_over_the_limit_is_not_sent(voice, provider):
    with pytest.raises(VoiceError, match="split"):
        await spoken(voice, "x" * 4097)
    assert provider.requests == []


async def test_nobody_there_is_worth_another_attempt():
    client = openai_client("http://127.0.0.1:9", "key")
    error = await failure(OpenAISpeech(client, SOUND, Models()))
    await client.close()
    assert (error.code, error.retry) == ("unreachable", True)


async def test_closing_the_iterator_stops_the_providers_work(voice, provider):
    provider.release = asyncio.Event()
    speech = voice.speak("Guten Tag")
    await anext(speech)
    await speech.aclose()
    await asyncio.wait_for(provider.cut_off.wait(), 2)
