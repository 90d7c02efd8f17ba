from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date

import pytest
import pytest_asyncio
from pydantic import SecretStr
from structlog.testing import capture_logs

from libs.audio.tone import tone
from libs.contracts.agent import AgentConfig, Speech
from services.ai_session.backends.factory import UnsupportedAgentError
from services.ai_session.costs import load
from services.ai_session.settings import BUILT_IN_MODELS, Settings
from services.ai_session.voices.factory import Voices
from services.ai_session.voices.local import Program
from services.ai_session.voices.port import Sound, VoiceError
from tests.unit.ai_session.voices.providers import speech_provider

MODELS = load(BUILT_IN_MODELS)


def settings(**fields) -> Settings:
    defaults = {"openai_api_key": SecretStr("key"), "openai_base_url": "http://127.0.0.1:9/v1"}
    return Settings(_env_file=None, **(defaults | fields))


def voices_of(**fields) -> Voices:
    return Voices(settings(**fields), MODELS, today=lambda: date(2026, 11, 21))


def agent(backend="pipeline", **fields) -> AgentConfig:
    return AgentConfig(name="a", backend=backend, **fields)


@pytest_asyncio.fixture
async def voices() -> AsyncIterator[Voices]:
    made = voices_of(elevenlabs_api_key=SecretStr("key"))
    yield made
    await made.close()


async def test_calls_that_sound_the_same_share_a_voice(voices):
    first = voices.for_agent(agent(), 8000)
    assert voices.for_agent(agent(prompt="other"), 8000) is first
    assert voices.for_agent(agent(), 16000) is not first
    assert voices.for_agent(agent(speed=1.2), 8000) is not first
    assert voices.renderings_for(agent(), 8000) is voices.renderings_for(agent(), 8000)


@pytest.mark.parametrize(
    ("fields", "sound"),
    [
        ({}, Sound("openai", "gpt-4o-mini-tts", "marin", 8000, 1.0, "de")),
        ({"voice": "cedar"}, Sound("openai", "gpt-4o-mini-tts", "cedar", 8000, 1.0, "de")),
        ({"speech": Speech(model="tts-1")}, Sound("openai", "tts-1", "alloy", 8000, 1.0, "de")),
        (
            {"backend": "realtime", "model": "gpt-realtime-2", "voice": "cedar"},
            Sound("realtime", "gpt-realtime-2", "cedar", 8000, 1.0, "de"),
        ),
        ({"backend": "realtime"}, Sound("realtime", "gpt-realtime-2.1", "marin", 8000, 1.0, "de")),
        (
            {"speech": Speech(provider="realtime", instructions="leise")},
            Sound("realtime", "gpt-realtime-2.1-mini", "marin", 8000, 1.0, "de", "leise"),
        ),
        (
            {"speech": Speech(provider="elevenlabs", voice="anna", instructions="leise"), "speed": 0.9},
            Sound("elevenlabs", "eleven_flash_v2_5", "anna", 8000, 0.9, "de"),
        ),
        (
            {"speech": Speech(provider="elevenlabs", model="eleven_v3"), "voice": "anna", "languages": ("en",)},
            Sound("elevenlabs", "eleven_v3", "anna", 8000, 1.0, "en"),
        ),
        (
            {"speech": Speech(provider="elevenlabs", voice="anna"), "languages": ("de", "en")},
            Sound("elevenlabs", "eleven_flash_v2_5", "anna", 8000, 1.0, ""),
        ),
    ],
)
async def test_an_agents_voice_follows_from_what_it_says_and_the_workers_defaults(voices, fields, sound):
    assert replace(voices.sound_of(agent(**fields), 8000), endpoint="") == sound


async def test_a_voice_of_another_provider_is_not_asked_of_the_workers_default():
    voices = voices_of(speech_provider="elevenlabs", elevenlabs_voice_id="anna")
    assert voices.sound_of(agent(voice="marin"), 8000).voice == "anna"


@pytest.mark.parametrize(
    ("fields", "speech", "says"),
    [
        ({"elevenlabs_voice_id": "anna"}, Speech(provider="elevenlabs"), "needs ELEVENLABS_API_KEY"),
        ({"elevenlabs_api_key": SecretStr("k")}, Speech(provider="elevenlabs"), "ELEVENLABS_VOICE_ID"),
        (
            {"openai_api_key": None, "openai_base_url": "https://api.openai.com/v1"},
            Speech(provider="openai"),
            "needs SPEECH_API_KEY, or OPENAI_API_KEY",
        ),
        (
            {"openai_api_key": None, "openai_base_url": "https://api.openai.com/v1"},
            Speech(provider="realtime"),
            "needs OPENAI_API_KEY",
        ),
    ],
)
async def test_what_is_missing_is_said_in_a_sentence(fields, speech, says):
    voices = voices_of(**fields)
    with pytest.raises(UnsupportedAgentError, match=says):
        voices.for_agent(agent(speech=speech), 8000)
    await voices.close()


async def test_the_key_of_one_server_is_not_told_to_another_that_speaks():
    async with speech_provider(tone(440, 100, 24_000)) as provider:
        voices = voices_of(openai_base_url="https://api.openai.com/v1", speech_base_url=f"{provider.url}/v1")
        assert [chunk async for chunk in voices.for_agent(agent(), 8000).speak("Guten Tag.")]
        await voices.close()
        assert [headers["Authorization"] for headers in provider.headers] == ["Bearer none"]


async def test_the_key_of_elevenlabs_does_not_follow_a_redirect():
    async with speech_provider(b"\xff" * 800) as here, speech_provider(b"\xff" * 800) as elsewhere:
        here.refusals.append((307, {}, {"Location": f"{elsewhere.url}/v1/text-to-speech/anna/stream"}))
        fields = {"elevenlabs_api_key": SecretStr("key"), "elevenlabs_base_url": here.url}
        voices = voices_of(**fields, elevenlabs_voice_id="anna")
        speech = voices.for_agent(agent(speech=Speech(provider="elevenlabs")), 8000).speak("Guten Tag.")
        with pytest.raises(VoiceError, match="307"):
            await anext(speech)
        await voices.close()
        assert (len(here.requests), elsewhere.requests) == (1, [])


async def test_the_workers_own_voice_is_for_agents_that_name_none():
    voices = voices_of(openai_tts_model="tts-1-hd", openai_tts_voice="nova")
    assert voices.sound_of(agent(), 8000) == Sound(
        "openai", "tts-1-hd", "nova", 8000, 1.0, "de", endpoint="http://127.0.0.1:9/v1"
    )
    assert voices.sound_of(agent("realtime"), 8000).voice == "marin"  # sounds like the model itself


async def test_no_local_program_is_said_in_a_sentence(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UnsupportedAgentError, match="install"):
        voices_of().for_agent(agent(speech=Speech(provider="local")), 8000)


async def test_the_local_voice_is_the_programs(voices, monkeypatch):
    monkeypatch.setattr(
        "services.ai_session.voices.providers.find_program", lambda _: Program("espeak-ng", "/usr/bin/espeak-ng")
    )
    local = agent(speech=Speech(provider="local", voice="de+f3"))
    assert voices.for_agent(local, 8000).sound == Sound("local", "espeak-ng", "de+f3", 8000, 1.0, "de")


async def test_a_voice_that_ends_is_told_once_with_what_else_there_is():
    voices = voices_of(openai_base_url="https://api.openai.com/v1")
    with capture_logs() as logs:
        voices.for_agent(agent(), 8000)
        voices.for_agent(agent(), 16000)
        voices.for_agent(agent(speech=Speech(provider="realtime")), 8000)
    (warning,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert (warning["ends"], warning["days"]) == ("2027-01-06", 46)
    assert "realtime, elevenlabs or local" in warning["event"]
    await voices.close()


async def test_an_endpoint_of_ones_own_does_not_end():
    voices = voices_of(speech_base_url="http://127.0.0.1:9/v1")
    with capture_logs() as logs:
        voices.for_agent(agent(speech=Speech(model="kokoro")), 8000)
    assert logs == []
    await voices.close()


async def test_closing_twice_is_fine(voices):
    voices.for_agent(agent(), 8000)
    voices.for_agent(agent(speech=Speech(provider="elevenlabs", voice="anna")), 8000)
    await voices.close()
    await voices.close()
