from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from libs.audio.wav import read_wav
from libs.object_store.store import ObjectStore, ObjectStoreError
from services.ai_session.backends.port import UsageCounted
from services.ai_session.voices import cache as module
from services.ai_session.voices.cache import CachedVoice, SpeechCache, key_of
from services.ai_session.voices.port import Voice, VoiceError
from tests.unit.ai_session.voices.fake_voice import SOUND, FakeVoice, rendered

HALLO = "Guten Tag"
PCM = rendered(HALLO)


class BrokenStore:
    url = "broken://"

    async def get(self, path: str) -> bytes:
        raise ObjectStoreError("the disk is gone")

    async def put(self, path: str, data: bytes, content_type: str) -> None:
        raise ObjectStoreError("the disk is gone")


@pytest.fixture
def store() -> ObjectStore:
    return ObjectStore.open("memory://")


@pytest_asyncio.fixture
async def cache(store) -> AsyncIterator[SpeechCache]:
    cache = SpeechCache(store, 100_000)
    yield cache
    await cache.close()


async def heard(voice: Voice, text: str = HALLO) -> tuple[bytes, list[UsageCounted]]:
    chunks = [chunk async for chunk in voice.speak(text)]
    return b"".join(chunk.pcm for chunk in chunks), [chunk.usage for chunk in chunks if chunk.usage]


async def stored(store: ObjectStore) -> list[str]:
    return [info.path async for info in store.list("speech")]


async def settled(cache: SpeechCache) -> None:
    while cache._tasks:
        await asyncio.gather(*cache._tasks)


async def test_a_text_is_rendered_once_and_paid_once(cache):
    fake = FakeVoice()
    voice = CachedVoice(fake, cache)
    first, usage = await heard(voice)
    again, nothing = await heard(voice, "  Guten \n Tag ")
    assert first == again == PCM
    assert fake.spoken == [HALLO]
    assert (len(usage), nothing) == (1, [])
    assert cache.hit_rate == 0.5


@pytest.mark.parametrize(
    "change",
    [
        {"provider": "x"},
        {"model": "x"},
        {"voice": "x"},
        {"rate_hz": 16000},
        {"speed": 1.1},
        {"language": "en"},
        {"instructions": "x"},
        {"endpoint": "x"},
    ],
)
def test_everything_that_changes_the_sound_is_in_the_key(change):
    assert key_of(replace(SOUND, **change), HALLO) != key_of(SOUND, HALLO)


def test_the_key_tells_texts_apart_but_not_how_they_are_spaced_or_composed():
    assert key_of(SOUND, "Gru\u0308ße  dich") == key_of(SOUND, " Grüße dich\n")
    assert key_of(SOUND, "guten Tag") != key_of(SOUND, "Guten Tag")


async def test_a_text_is_stored_when_it_is_asked_for_again_and_survives_the_worker(cache, store):
    voice = CachedVoice(FakeVoice(), cache)
    await heard(voice)
    await settled(cache)
    assert await stored(store) == []  # said once, to one caller
    await heard(voice)
    await settled(cache)
    assert await stored(store) == [key_of(SOUND, HALLO)]
    wav = read_wav(await store.get(key_of(SOUND, HALLO)))
    assert (wav.rate_hz, wav.pcm) == (8000, PCM)

    next_worker, fake = SpeechCache(store, 100_000), FakeVoice()
    assert await heard(CachedVoice(fake, next_worker)) == (PCM, [])
    assert fake.spoken == []
    assert next_worker.counters["store_hits"] == 1
    await next_worker.close()


async def test_what_is_rendered_ahead_is_stored_at_once(cache, store):
    _ = [chunk async for chunk in CachedVoice(FakeVoice(), cache).speak(HALLO, keep=True)]
    await settled(cache)
    assert len(await stored(store)) == 1


async def test_a_stampede_is_one_request_heard_by_all_as_it_comes(cache):
    gate = asyncio.Semaphore(0)
    fake = FakeVoice(gate=gate)
    voice = CachedVoice(fake, cache)
    listeners = [voice.speak(HALLO) for _ in range(20)]
    firsts = [asyncio.create_task(anext(listener)) for listener in listeners]
    gate.release()
    assert {chunk.pcm for chunk in await asyncio.gather(*firsts)} == {PCM[:202]}  # the rest is not rendered yet
    gate.release()
    gate.release()
    usages = 0
    for listener in listeners:
        rest = [chunk async for chunk in listener]
        assert PCM[:202] + b"".join(chunk.pcm for chunk in rest) == PCM
        usages += sum(chunk.usage is not None for chunk in rest)
    assert fake.spoken == [HALLO]
    assert usages == 1
    assert cache.counters["collapsed"] == 19


async def test_the_first_to_ask_may_leave_without_the_others_noticing(cache):
    gate = asyncio.Semaphore(0)
    fake = FakeVoice(gate=gate)
    voice = CachedVoice(fake, cache)
    first = asyncio.create_task(heard(voice))
    await asyncio.sleep(0)
    second = asyncio.create_task(heard(voice))
    gate.release()
    await asyncio.sleep(0)
    first.cancel()
    gate.release()
    gate.release()
    pcm, usage = await second
    assert pcm == PCM
    assert len(usage) == 1
    assert fake.stopped == []


async def test_the_provider_stops_when_the_last_one_leaves_and_nothing_is_kept(cache, store):
    gate = asyncio.Semaphore(1)
    fake = FakeVoice(gate=gate)
    voice = CachedVoice(fake, cache)
    one, two = voice.speak(HALLO), voice.speak(HALLO)
    await anext(one)
    await anext(two)
    await one.aclose()
    assert fake.stopped == []
    await two.aclose()
    await settled_quietly(cache)
    assert fake.stopped == [HALLO]
    fake.gate = None
    assert (await heard(voice))[0] == PCM
    assert len(fake.spoken) == 2


async def settled_quietly(cache: SpeechCache) -> None:
    await asyncio.gather(*cache._tasks, return_exceptions=True)


@pytest.mark.parametrize("fail_after", [0, 2])
async def test_all_who_wait_learn_of_a_failure_and_the_next_one_tries_anew(cache, store, fail_after):
    gate = asyncio.Semaphore(0)
    fake = FakeVoice(gate=gate)
    fake.fail_after = fail_after
    fake.failures.append(VoiceError("quota_exceeded", "no more", retry=False, after_s=3))
    voice = CachedVoice(fake, cache)
    waiting = [asyncio.create_task(heard(voice)) for _ in range(3)]
    await asyncio.sleep(0)
    for _ in range(6):
        gate.release()
    for error in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(error, VoiceError)
        assert (error.code, error.retry, error.after_s) == ("quota_exceeded", False, 3)
    assert (await heard(voice))[0] == PCM
    assert cache.counters["failures"] == 1


async def test_a_store_that_fails_is_counted_and_never_heard():
    cache = SpeechCache(BrokenStore(), 100_000)  # type: ignore[arg-type]
    voice = CachedVoice(FakeVoice(), cache)
    assert (await heard(voice))[0] == PCM
    assert (await heard(voice))[0] == PCM
    await settled(cache)
    assert cache.counters["store_failures"] == 2
    await cache.close()


async def test_a_caller_does_not_wait_for_a_slow_store(store, monkeypatch):
    async def slow(_: str) -> bytes:
        await asyncio.sleep(60)
        return b""

    monkeypatch.setattr(store, "get", slow)
    monkeypatch.setattr(module, "STORE_READ_WITHIN_S", 0.01)
    cache = SpeechCache(store, 100_000)
    assert (await heard(CachedVoice(FakeVoice(), cache)))[0] == PCM
    assert cache.counters["store_slow"] == 1
    await cache.close()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"RIFF\x00\x00\x00\x00WAVE"])
async def test_a_spoiled_object_is_rendered_anew_and_mended(cache, store, content):
    await store.put(key_of(SOUND, HALLO), content)
    voice = CachedVoice(FakeVoice(), cache)
    assert (await heard(voice))[0] == PCM
    await heard(voice)
    await settled(cache)
    assert read_wav(await store.get(key_of(SOUND, HALLO))).pcm == PCM


async def test_memory_stays_within_its_bound_and_keeps_what_was_used_last(store):
    cache, fake = SpeechCache(None, 2 * len(PCM)), FakeVoice()
    voice = CachedVoice(fake, cache)
    for text in ("eins", "zwei", "eins", "drei", "eins", "zwei"):
        await heard(voice, text)
    assert fake.spoken == ["eins", "zwei", "drei", "zwei"]
    assert cache.held_bytes <= 2 * len(PCM)
    await cache.close()


async def test_speech_that_is_not_word_for_word_is_not_kept(cache, store):
    fake = FakeVoice()
    fake.verbatim = False
    voice = CachedVoice(fake, cache)
    await heard(voice)
    await heard(voice)
    await settled(cache)
    assert len(fake.spoken) == 2
    assert await stored(store) == []


async def test_closing_the_cache_ends_those_who_wait():
    cache = SpeechCache(None, 1000)
    waiting = asyncio.create_task(heard(CachedVoice(FakeVoice(gate=asyncio.Semaphore(0)), cache)))
    await asyncio.sleep(0.01)
    await cache.close()
    with pytest.raises(VoiceError, match="stopped"):
        await waiting
