"""What every voice must do, whoever speaks."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from pydantic import SecretStr

from libs.audio.level import dbfs
from libs.audio.tone import tone
from services.ai_session.backends.realtime_link import Endpoint
from services.ai_session.costs import Model, Models
from services.ai_session.settings import Settings
from services.ai_session.voices import local, reading_link
from services.ai_session.voices.port import Chunk, Sound, Voice, VoiceError
from services.ai_session.voices.providers import Providers
from services.rehearsal.faults import Fault
from services.rehearsal.request_log import RequestRecord
from services.rehearsal.server import Rehearsal
from services.rehearsal.settings import RehearsalSettings
from tests.support.waiting import until
from tests.unit.ai_session.test_realtime import SCENARIO, Speech

SOUNDS = {
    "openai": Sound("openai", "gpt-4o-mini-tts", "marin", 8000, language="de"),
    "realtime": Sound("realtime", "gpt-realtime-2.1-mini", "marin", 8000, language="de"),
    "elevenlabs": Sound("elevenlabs", "eleven_flash_v2_5", "RehearsalDeutschW001", 8000, language="de"),
    "local": Sound("local", "espeak-ng", "", 8000, language="de"),
}
PRICED = Models(
    {
        "gpt-4o-mini-tts": Model(minute=0.015),
        "gpt-realtime-2.1-mini": Model(reasoning=True, text_in=0.6, text_out=2.4, audio_in=10, audio_out=20),
        "eleven_flash_v2_5": Model(characters=0.05),
    }
)
TEXT = "Guten Tag, hier ist der Baustoffhandel."


class LongSpeech(Speech):
    """As long as its text, in every format."""

    def encoded(self, text: str, audio_format: str) -> bytes:
        rate_hz = 8000 if audio_format == "audio/pcmu" else 16000 if "16000" in audio_format else 24000
        pcm = tone(440, 80 * len(text), rate_hz, -20)
        from services.rehearsal.speech import Law

        return Law.PCMU.encode(pcm) if audio_format == "audio/pcmu" else pcm


@asynccontextmanager
async def rehearsing(**options) -> AsyncIterator[Rehearsal]:
    settings = RehearsalSettings(
        default_scenario="unit", first_byte_ms=10, speech_first_byte_ms=10, seed=1, **({"speed": 20} | options)
    )
    async with Rehearsal.start(settings, scenarios=[SCENARIO], speech=LongSpeech()) as rehearsal:
        yield rehearsal


@asynccontextmanager
async def provided(rehearsal: Rehearsal) -> AsyncIterator[Providers]:
    settings = Settings(
        _env_file=None,
        openai_base_url=rehearsal.base_url,
        openai_api_key=SecretStr("key"),
        elevenlabs_base_url=rehearsal.url,
        elevenlabs_api_key=SecretStr("key"),
    )
    providers = Providers(settings, PRICED, Endpoint(rehearsal.base_url, "key", "m", PRICED), Counter())
    try:
        yield providers
    finally:
        await providers.close()


@asynccontextmanager
async def speaking(provider: str, rate_hz: int = 8000, **options) -> AsyncIterator[tuple[Voice, Rehearsal]]:
    if provider == "local" and shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    async with rehearsing(**options) as rehearsal, provided(rehearsal) as providers:
        voice = providers.make(replace(SOUNDS[provider], rate_hz=rate_hz))
        for limit in ("first_byte_within_s", "next_bytes_within_s", "first_audio_within_s", "next_audio_within_s"):
            if hasattr(voice, limit):
                setattr(voice, limit, 0.7)
        try:
            yield voice, rehearsal
        finally:
            await voice.close()


async def spoken(voice: Voice, text: str = TEXT) -> list[Chunk]:
    async with asyncio.timeout(10):
        return [chunk async for chunk in voice.speak(text)]


def asked(rehearsal: Rehearsal) -> RequestRecord:
    return rehearsal.requests.all()[-1]


every = pytest.mark.parametrize("provider", list(SOUNDS))
remote = pytest.mark.parametrize("provider", ["openai", "realtime", "elevenlabs"])


@every
@pytest.mark.parametrize("rate_hz", [8000, 16000])
async def test_it_speaks_in_whole_samples_at_the_calls_rate(provider, rate_hz):
    async with speaking(provider, rate_hz) as (voice, _):
        chunks = await spoken(voice)
    assert all(len(chunk.pcm) % 2 == 0 for chunk in chunks)
    pcm = b"".join(chunk.pcm for chunk in chunks)
    assert dbfs(pcm) > -40
    seconds = len(pcm) / 2 / rate_hz
    if provider == "local":
        assert 1 < seconds < 6
    else:
        assert seconds == pytest.approx(0.08 * len(TEXT), abs=0.05)


@every
async def test_it_says_once_what_a_text_cost(provider):
    async with speaking(provider) as (voice, _):
        usages = [chunk.usage for chunk in await spoken(voice) if chunk.usage is not None]
    (usage,) = usages
    assert (usage.source, usage.model) == ("speech", SOUNDS[provider].model)
    assert usage.cost_usd is not None
    if provider == "elevenlabs":
        assert usage.cost_usd == pytest.approx(len(TEXT) / 1000 * 0.05)
    elif provider != "local":
        assert usage.cost_usd > 0


@every
async def test_many_speak_at_a_time(provider):
    async with speaking(provider) as (voice, _):
        texts = [f"Satz {number}." for number in range(10)]
        everything = await asyncio.gather(*(spoken(voice, text) for text in texts))
    assert all(any(chunk.pcm for chunk in chunks) for chunks in everything)


@every
async def test_closing_the_iterator_leaves_a_voice_that_speaks(provider):
    async with speaking(provider, speed=4) as (voice, _):
        speech = voice.speak(TEXT)
        await anext(speech)
        await speech.aclose()
        assert await spoken(voice, "Und weiter.")


@every
async def test_a_cancelled_listener_leaves_no_task_behind(provider):
    async with speaking(provider, speed=4) as (voice, _):
        before = asyncio.all_tasks()
        listening = asyncio.create_task(spoken(voice, TEXT * 50))
        await asyncio.sleep(0.02)
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listening
        await voice.close()
        await until(lambda: not [task for task in asyncio.all_tasks() - before if not is_the_servers(task)])


def is_the_servers(task: asyncio.Task) -> bool:
    return "RequestHandler" in repr(task) or "rehearsal" in repr(task)


@pytest.mark.parametrize("provider", ["openai", "elevenlabs"])
async def test_closing_the_iterator_stops_the_providers_work(provider):
    async with speaking(provider, speed=1) as (voice, rehearsal):
        speech = voice.speak(TEXT)
        await anext(speech)
        await speech.aclose()
        await until(lambda: asked(rehearsal).error)
    assert not asked(rehearsal).completed


@remote
@pytest.mark.parametrize(("status", "retry"), [(401, False), (403, False), (429, True), (500, True), (503, True)])
async def test_a_refusal_says_whether_to_try_again(provider, status, retry):
    async with speaking(provider) as (voice, rehearsal):
        rehearsal.inject(
            Fault(kind="refuse", on=provider if provider != "openai" else "speech", status=status, retry_after_s=1)
        )
        with pytest.raises(VoiceError) as caught:
            await spoken(voice)
        assert caught.value.retry is retry
        assert await spoken(voice)


@remote
async def test_a_connection_that_dies_in_the_middle_is_an_error(provider):
    async with speaking(provider, speed=4) as (voice, rehearsal):
        on = provider if provider != "openai" else "speech"
        rehearsal.inject(Fault(kind="abort", on=on, after_deltas=1))
        with pytest.raises(VoiceError) as caught:
            await spoken(voice)
        assert caught.value.retry
        assert await spoken(voice)


@remote
async def test_a_provider_that_falls_silent_is_a_timeout(provider):
    async with speaking(provider, speed=4) as (voice, rehearsal):
        on = provider if provider != "openai" else "speech"
        rehearsal.inject(Fault(kind="stall", on=on, after_deltas=1, duration_ms=3000))
        with pytest.raises(VoiceError) as caught:
            await spoken(voice)
        assert caught.value.code == "timeout"


@every
async def test_closing_twice_is_fine(provider):
    async with speaking(provider) as (voice, _):
        await spoken(voice)
        await voice.close()
        await voice.close()


# -- what is particular to one ----------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["openai", "elevenlabs"])
async def test_a_page_instead_of_audio_is_not_played(provider):
    async with speaking(provider) as (voice, rehearsal):
        rehearsal.inject(Fault(kind="wrong_content_type", on=provider if provider != "openai" else "speech"))
        with pytest.raises(VoiceError) as caught:
            await spoken(voice)
        assert caught.value.code == "no_audio"


async def test_elevenlabs_gets_mu_law_language_and_a_speed_within_its_bounds():
    async with rehearsing() as rehearsal, provided(rehearsal) as providers:
        await spoken(providers.make(replace(SOUNDS["elevenlabs"], speed=1.5, language="de-DE")))
        narrow = asked(rehearsal).asked
        multilingual = replace(SOUNDS["elevenlabs"], rate_hz=16000, model="eleven_multilingual_v2")
        await spoken(providers.make(multilingual))
        wide = asked(rehearsal).asked
    assert narrow["output_format"] == "ulaw_8000"
    assert narrow["language_code"] == "de"
    assert narrow["voice_settings"]["speed"] == 1.2
    assert wide["output_format"] == "pcm_16000"
    assert not wide.get("language_code")


@pytest.mark.parametrize(
    ("status", "code", "retry", "says"),
    [
        (401, "quota_exceeded", False, "quota"),
        (404, "voice_not_found", False, "voice"),
        (422, None, False, "rehearsed"),
        (429, "system_busy", True, "heavy traffic"),
    ],
)
async def test_elevenlabs_errors_say_what_is_wrong(status, code, retry, says):
    async with speaking("elevenlabs") as (voice, rehearsal):
        extra = {"error_code": code} if code else {}
        rehearsal.inject(Fault(kind="refuse", on="elevenlabs", status=status, retry_after_s=1, **extra))
        with pytest.raises(VoiceError, match=f"(?i){says}") as caught:
            await spoken(voice)
    assert caught.value.retry is retry
    assert code is None or caught.value.code == code
    assert caught.value.after_s == (1 if status == 429 else None)


async def test_realtime_reads_all_texts_over_one_connection_and_closes_it_when_idle():
    async with speaking("realtime") as (voice, rehearsal):
        for text in ("Eins.", "Zwei.", "Drei."):
            assert all(chunk.verbatim for chunk in await spoken(voice, text))
        assert len(rehearsal.sockets) == 1
        voice.idle_s = 0.05
        await spoken(voice, "Vier.")
        await until(lambda: all(socket.closed for socket in rehearsal.sockets))


async def test_realtime_speaks_on_after_its_connection_was_lost():
    async with speaking("realtime") as (voice, rehearsal):
        await spoken(voice, "Eins.")
        for socket in list(rehearsal.sockets):
            await socket.close()
        await until(lambda: not voice._links)
        assert await spoken(voice, "Zwei.")


async def test_a_model_that_rewords_is_found_out(monkeypatch):
    monkeypatch.setattr(
        "services.ai_session.voices.realtime_speech.as_instructions",
        lambda _: "Say exactly this, word for word: Guten Abend.",
    )
    async with speaking("realtime") as (voice, _):
        chunks = await spoken(voice, "Guten Tag.")
        assert not chunks[-1].verbatim
        assert voice._counters["realtime_deviations"] == 1


async def test_a_realtime_session_that_is_never_confirmed_is_a_failure_in_time(monkeypatch):
    monkeypatch.setattr(reading_link, "OPENED_WITHIN_S", 0.2)
    async with speaking("realtime") as (voice, rehearsal):
        rehearsal.inject(Fault(kind="no_session_updated"))
        with pytest.raises(VoiceError, match="not confirmed"):
            await spoken(voice)
        assert voice._links == set()


async def test_a_program_that_hangs_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "WITHIN_S", 0.2)
    program = tmp_path / "espeak-ng"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    voice = local.LocalVoice(local.find_program(None, str(tmp_path)), SOUNDS["local"], asyncio.Semaphore(1))
    with pytest.raises(VoiceError, match="did not end"):
        await spoken(voice)


async def test_a_program_that_fails_is_quoted(tmp_path):
    program = tmp_path / "espeak-ng"
    program.write_text("#!/bin/sh\ncat >/dev/null\necho 'no such voice' >&2\nexit 3\n")
    program.chmod(0o755)
    voice = local.LocalVoice(local.find_program(None, str(tmp_path)), SOUNDS["local"], asyncio.Semaphore(1))
    with pytest.raises(VoiceError, match="ended with 3: no such voice"):
        await spoken(voice)


async def test_piper_speaks_raw_audio_at_its_voices_rate(tmp_path):
    (tmp_path / "piper").write_text('#!/bin/sh\ncat >/dev/null\nhead -c 44100 /dev/zero | tr "\\0" "\\1"\n')
    (tmp_path / "piper").chmod(0o755)
    voice_file = tmp_path / "thorsten.onnx"
    voice_file.with_name("thorsten.onnx.json").write_text('{"audio": {"sample_rate": 22050}}')
    program = local.find_program(voice_file, f"{tmp_path}:/usr/bin:/bin")
    chunks = await spoken(local.LocalVoice(program, SOUNDS["local"], asyncio.Semaphore(1)))
    assert sum(len(chunk.pcm) for chunk in chunks) == pytest.approx(16000, abs=4)


@pytest.mark.parametrize("piper_voice", [None, "voice.onnx"])
def test_without_a_program_the_sentence_says_what_to_install(tmp_path, piper_voice):
    with pytest.raises(local.NoLocalVoiceError, match="install"):
        local.find_program(tmp_path / piper_voice if piper_voice else None, str(tmp_path))
