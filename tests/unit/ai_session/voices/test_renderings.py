from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from libs.contracts.agent import AgentConfig, AnsweringMachine, Fillers, Idle
from libs.object_store.store import ObjectStore
from services.ai_session.voices.cache import CachedVoice, SpeechCache
from services.ai_session.voices.port import VoiceError
from services.ai_session.voices.renderings import TRY_AGAIN_AFTER_S, Renderings, texts_of
from tests.support.waiting import until
from tests.unit.ai_session.voices.fake_voice import FakeVoice, rendered

FILLER = "Einen Moment, ich schaue nach."


@pytest_asyncio.fixture
async def cache() -> AsyncIterator[SpeechCache]:
    cache = SpeechCache(ObjectStore.open("memory://"), 1000)
    yield cache
    await cache.close()


@pytest.fixture
def voice() -> FakeVoice:
    return FakeVoice()


@pytest.fixture
def ready(voice, cache) -> Renderings:
    return Renderings(CachedVoice(voice, cache), Counter())


async def test_what_was_prepared_is_there_at_once_and_nothing_else_is(ready):
    assert ready.get(FILLER) is None
    await ready.prepare([FILLER, "Sind Sie noch da?"])
    assert ready.get(FILLER) == rendered(FILLER)
    assert ready.get(f" {FILLER}\n") == rendered(FILLER)
    assert ready.get("Etwas anderes") is None


async def test_it_stays_ready_when_the_cache_needs_its_room(ready, cache):
    await ready.prepare([f"Text {number}" for number in range(10)])
    assert cache.held_bytes <= 1000
    assert all(ready.get(f"Text {number}") is not None for number in range(10))


async def test_a_text_is_rendered_once_however_often_it_is_prepared(ready, voice):
    await asyncio.gather(*(ready.prepare([FILLER, FILLER]) for _ in range(5)))
    await ready.prepare([FILLER])
    assert voice.spoken == [FILLER]


async def test_not_more_than_two_are_rendered_at_a_time(ready, voice):
    voice.gate = asyncio.Semaphore(0)
    preparing = asyncio.create_task(ready.prepare([f"Text {number}" for number in range(5)]))
    await until(lambda: len(voice.spoken) == 2)
    await asyncio.sleep(0.02)
    assert len(voice.spoken) == 2
    for _ in range(15):
        voice.gate.release()
    await preparing
    assert len(voice.spoken) == 5


async def test_a_failure_costs_that_text_only_and_is_tried_again_later(ready, voice):
    voice.failures.append(VoiceError("busy", "later", retry=True))
    await ready.prepare(["eins", "zwei"])
    assert sorted(ready.get(text) is not None for text in ("eins", "zwei")) == [False, True]
    await ready.prepare(["eins", "zwei"])
    assert len(voice.spoken) == 2  # not at once
    now = asyncio.get_running_loop().time()
    assert len(ready.missing(["eins", "zwei"], now + TRY_AGAIN_AFTER_S)) == 1


async def test_being_cancelled_leaves_the_text_to_the_next_one(ready, voice):
    voice.gate = asyncio.Semaphore(0)
    preparing = asyncio.create_task(ready.prepare([FILLER]))
    await asyncio.sleep(0.01)
    preparing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await preparing
    voice.gate = None
    await ready.prepare([FILLER])
    assert ready.get(FILLER) is not None


def test_an_agents_texts_are_those_it_may_say_word_for_word():
    agent = AgentConfig(
        name="a",
        greeting="Guten Tag.",
        goodbye="Auf Wiederhören.",
        fillers=Fillers(texts=(FILLER, "Guten Tag.")),
        idle=Idle(after_s=10),
        answering_machine=AnsweringMachine(then="leave_message", message="Bitte rufen Sie zurück."),
    )
    assert texts_of(agent) == (
        "Guten Tag.",
        FILLER,
        "Sind Sie noch da?",
        "Auf Wiederhören.",
        "Bitte rufen Sie zurück.",
    )
    assert texts_of(AgentConfig(name="a")) == ()
