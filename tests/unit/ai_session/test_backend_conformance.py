"""What every backend with a ledger must do, whatever is behind it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from libs.audio.tone import silence
from libs.contracts.agent import AgentConfig
from libs.contracts.offer import Offer
from services.ai_session.backends import port
from services.ai_session.backends.factory import plan_scripted
from services.ai_session.backends.live import LiveEndpoint, plan_live
from services.ai_session.backends.pipeline import plan_pipeline
from services.ai_session.backends.realtime import Endpoint, RealtimeBackend
from services.ai_session.costs import load
from services.ai_session.history import Said
from services.ai_session.phrases import Verbatim
from services.ai_session.settings import BUILT_IN_MODELS
from services.rehearsal.server import Rehearsal
from services.rehearsal.settings import RehearsalSettings
from tests.unit.ai_session.pipeline_support import babble, stages_at, voices_at
from tests.unit.ai_session.test_realtime import SCENARIO, Speech

TALK = {"mode": "talk", "say": [["text:Guten Tag.", "tone:440:500"]]}


def offer(backend):
    agent = AgentConfig(name="a", backend=backend, backend_options=TALK if backend == "scripted" else {})
    return Offer(call="c", org="o", gw="g", epoch=1, caller="1", callee="2", agent=agent)


@asynccontextmanager
async def opened(backend, history=()):
    events, arrived = [], asyncio.Event()

    def emit(event):
        events.append(event)
        arrived.set()

    async def until(kind, count=1):
        async with asyncio.timeout(5):
            while sum(isinstance(event, kind) for event in events) < count:
                arrived.clear()
                await arrived.wait()

    stages = None
    settings = RehearsalSettings(default_scenario="unit", first_byte_ms=10, speed=50)
    async with Rehearsal.start(settings, scenarios=[SCENARIO], speech=Speech()) as rehearsal:
        if backend == "scripted":
            adapter = plan_scripted(offer(backend)).make(emit)
        elif backend == "live":
            endpoint = LiveEndpoint(rehearsal.base_url, "k", "gpt-live-1", load(BUILT_IN_MODELS))
            adapter = plan_live(endpoint, offer(backend)).make(emit)
        elif backend == "pipeline":
            stages = stages_at(rehearsal.base_url, voices_at(rehearsal.base_url))
            adapter = plan_pipeline(stages, offer(backend)).make(emit)
        else:
            endpoint = Endpoint(rehearsal.base_url, "k", "gpt-realtime-2.1", load(BUILT_IN_MODELS))
            adapter = RealtimeBackend(endpoint, offer(backend), emit)
        await adapter.open(port.Opening("Be kind.", (), history))
        events[:] = [event for event in events if not isinstance(event, port.SessionExpires)]  # some tell, some do not
        try:
            yield adapter, events, until
        finally:
            await adapter.close()
            if stages is not None:
                await stages.close()
                await stages.voices.close()


@pytest.fixture(params=["scripted", "realtime", "live", "pipeline"])
def backend(request):
    return request.param


async def test_a_requested_response_has_a_beginning_audio_text_and_an_end(backend):
    async with opened(backend) as (adapter, events, until):
        adapter.start_response(Verbatim("Guten Tag."))
        await until(port.ResponseEnded)
        started, ended = events[0], next(e for e in events if isinstance(e, port.ResponseEnded))
        assert isinstance(started, port.ResponseStarted)
        assert started.asked
        assert (ended.response, ended.status) == (started.response, "completed")
        deltas = [e for e in events if isinstance(e, port.AudioDelta)]
        assert all(len(delta.pcm) % 2 == 0 for delta in deltas)
        assert {delta.response for delta in deltas} == {started.response}
        assert {delta.item for delta in deltas} == set(ended.items)
        # Of a stream without turns silence comes along on either side; a rate converter rounds the edges.
        half_a_second = len(b"".join(delta.pcm for delta in deltas).strip(b"\0"))
        assert abs(half_a_second - 8000) < 16 * 10
        text = "".join(e.text for e in events if isinstance(e, port.TextDelta))
        assert text.strip() == "Guten Tag."


async def test_a_callers_turn_is_detected_and_answered_by_itself_or_when_asked(backend):
    async with opened(backend) as (adapter, events, until):
        for pcm in (babble(500), silence(1000, 8000)):
            for start in range(0, len(pcm), 320):
                assert adapter.feed(pcm[start : start + 320])
        await until(port.CallerTranscript)
        answers = adapter.capabilities.answers
        if not answers:
            adapter.start_response(None)
        await until(port.ResponseEnded)
        order = [
            type(e) for e in events if isinstance(e, port.SpeechStarted | port.SpeechStopped | port.ResponseStarted)
        ]
        assert order == [port.SpeechStarted, port.SpeechStopped, port.ResponseStarted]
        assert next(e for e in events if isinstance(e, port.ResponseStarted)).asked is not answers


async def test_a_second_request_is_answered_after_the_first(backend):
    async with opened(backend) as (adapter, events, until):
        adapter.start_response(Verbatim("Eins."))
        adapter.start_response(Verbatim("Zwei."))
        await until(port.ResponseEnded, 2)
        active = 0
        for event in events:
            active += isinstance(event, port.ResponseStarted) - isinstance(event, port.ResponseEnded)
            assert active in (0, 1)
        assert not [e for e in events if isinstance(e, port.Trouble)]


async def test_corrections_of_a_finished_response_do_no_harm(backend):
    async with opened(backend, (Said("user", "Hallo"), Said("assistant", "Ja?"))) as (adapter, events, until):
        adapter.start_response(Verbatim("Eins."))
        await until(port.ResponseEnded)
        ended = next(e for e in events if isinstance(e, port.ResponseEnded))
        adapter.cancel_response(ended.response)
        adapter.truncate(ended.items[0], 0, 100)
        adapter.delete_item(ended.items[0])
        adapter.tick(asyncio.get_running_loop().time())
        adapter.start_response(Verbatim("Zwei."))
        await until(port.ResponseEnded, 2)
        assert not [e for e in events if isinstance(e, port.Trouble | port.Lost)]


async def test_a_closed_backend_is_silent(backend):
    async with opened(backend) as (adapter, events, _):
        await adapter.close()
        await adapter.close()
        assert not adapter.feed(silence(20, 8000))
        adapter.start_response(None)
        await asyncio.sleep(0.05)
        assert [event for event in events if not isinstance(event, port.UsageCounted)] == []  # a session is charged
