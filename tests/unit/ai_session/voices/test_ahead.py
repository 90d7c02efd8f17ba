from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
from pydantic import SecretStr
from structlog.testing import capture_logs

from libs.audio.tone import tone
from libs.contracts.agent import AgentConfig, Fillers, Speech
from libs.contracts.ids import new_process_id
from libs.contracts.offer import Offer
from libs.runtime.bus import Bus
from libs.runtime.outbox import EventOutbox
from libs.runtime.streams import provision
from services.ai_session import exporting
from services.ai_session.backends.factory import plan_scripted
from services.ai_session.backends.realtime_link import Endpoint
from services.ai_session.costs import Models
from services.ai_session.settings import Settings
from services.ai_session.voices.ahead import SpeechAhead, texts_ahead
from services.ai_session.voices.factory import Voices
from services.ai_session.voices.opening import open_voices
from services.ai_session.worker import Worker
from tests.support.waiting import until
from tests.unit.ai_session.voices.providers import SpeechProvider, speech_provider

FILLERS = ("Einen Moment, ich schaue nach.", "Ich bin gleich so weit.")


def agent(backend="scripted", **fields) -> AgentConfig:
    fields = {"greeting": "Guten Tag.", "fillers": Fillers(texts=FILLERS)} | fields
    return AgentConfig(name="a", backend=backend, **fields)


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[SpeechProvider]:
    async with speech_provider(tone(440, 200, 24_000)) as running:
        yield running


@pytest_asyncio.fixture
async def voices(provider, tmp_path) -> AsyncIterator[Voices]:
    settings = Settings(
        _env_file=None,
        openai_base_url=provider.url,
        openai_api_key=SecretStr("key"),
        object_store_url=str(tmp_path / "objects"),
    )
    made = open_voices(settings, Endpoint(provider.url, "key", "m", Models()))
    yield made
    await made.close()


def test_what_is_rendered_ahead_is_what_the_worker_says_itself():
    assert texts_ahead(agent("pipeline")) == ("Guten Tag.", *FILLERS)
    assert texts_ahead(agent("realtime")) == FILLERS
    assert texts_ahead(agent("live")) == ()
    assert texts_ahead(agent("live", speech=Speech(provider="elevenlabs"))) == FILLERS
    assert texts_ahead(agent()) == ()
    assert texts_ahead(agent(speech=Speech(provider="openai"))) == FILLERS


async def test_the_first_call_of_an_agent_has_its_fillers_rendered_and_the_next_worker_finds_them(
    server, voices, provider, tmp_path
):
    bus = await Bus.connect(server.url, new_process_id("wk"))
    await provision(bus.js)
    worker = Worker(bus, EventOutbox(bus), plan_scripted, 4, SpeechAhead(voices))
    running = asyncio.create_task(worker.run())
    speaking = agent(speech=Speech(provider="openai"))
    offer = Offer(call="c1", org="default", gw="gw", epoch=1, caller="1", callee="2", agent=speaking)
    try:
        await until(lambda: worker._group is not None)
        _, session = worker._decide(offer, plan_scripted(offer))
        assert session is not None
        ready = session.bridge.ready_speech
        assert ready is not None
        await until(lambda: all(ready.get(text) is not None for text in FILLERS))
        await until(lambda: voices.cache.counters["stored"] == 2)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await bus.close()
    assert sorted(request["input"] for request in provider.requests) == sorted(FILLERS)
    assert len(list((tmp_path / "objects" / "speech" / "openai").rglob("*.wav"))) == 2


async def test_an_agent_whose_fillers_nobody_can_speak_is_told_of_once_and_served(voices):
    ahead = SpeechAhead(voices)
    silent = agent(speech=Speech(provider="elevenlabs"))
    with capture_logs() as logs:
        assert ahead.of(silent, 8000) is None
        assert ahead.of(silent, 8000) is None
    (warning,) = logs
    assert "ELEVENLABS" in warning["why"]


async def test_a_defect_costs_the_fillers_and_not_the_worker(voices, monkeypatch):
    ahead = SpeechAhead(voices)
    speaking = agent(speech=Speech(provider="openai"))
    ready = ahead.of(speaking, 8000)
    assert ready is not None
    monkeypatch.setattr(ready, "missing", lambda *_: 1 / 0)
    with capture_logs() as logs:
        await ahead.prepare(ready, speaking)
    assert [entry["log_level"] for entry in logs] == ["error"]


async def test_without_its_store_the_worker_speaks_all_the_same(tmp_path, provider):
    (tmp_path / "file").write_text("x")
    settings = Settings(_env_file=None, object_store_url=str(tmp_path / "file" / "below"))
    with capture_logs() as logs:
        voices = open_voices(settings, Endpoint(provider.url, "key", "m", Models()))
    assert "OBJECT_STORE_URL" in logs[0]["event"]
    assert voices.cache.store is None
    await voices.close()


async def test_metrics_tell_of_the_cache_before_anything_was_said(voices):
    from prometheus_client import generate_latest

    exporting.export_voices(voices)
    shown = generate_latest().decode()
    assert 'callbus_speech_cache_requests_total{outcome="store_hits"} 0.0' in shown
    assert "callbus_speech_cache_hit_ratio 0.0" in shown
    voices.cache.counters.update(memory_hits=2, collapsed=1, misses=1)
    assert "callbus_speech_cache_hit_ratio 0.75" in generate_latest().decode()
