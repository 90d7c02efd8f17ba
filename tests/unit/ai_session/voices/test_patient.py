from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from services.ai_session.backends.port import UsageCounted
from services.ai_session.instruments import sockets_in_use
from services.ai_session.voices import patient
from services.ai_session.voices.cache import CachedVoice, SpeechCache
from services.ai_session.voices.patient import PatientVoice
from services.ai_session.voices.port import Chunk, VoiceError
from tests.unit.ai_session.voices.fake_voice import FakeVoice, rendered


@pytest.fixture(autouse=True)
def waits(monkeypatch) -> None:
    monkeypatch.setattr(patient, "WAITS_S", (0.001, 0.002))


def busy(after_s: float | None = None) -> VoiceError:
    return VoiceError("busy", "later", retry=True, after_s=after_s)


async def heard(fake: FakeVoice, counters: Counter[str]) -> bytes:
    voice = PatientVoice(fake, counters, lambda: 1.0)
    return b"".join([chunk.pcm async for chunk in voice.speak("Hallo")])


async def test_short_trouble_costs_a_moment_and_not_the_sentence():
    fake, counters = FakeVoice(), Counter[str]()
    fake.failures = [busy(), busy()]
    assert await heard(fake, counters) == rendered("Hallo")
    assert counters == {"fake_busy": 2, "retries": 2}


async def test_a_voice_holds_a_socket_while_it_speaks():
    voice = PatientVoice(FakeVoice(), Counter(), lambda: 1.0)
    seen = [sockets_in_use()["speech", "fake"] async for _ in voice.speak("Hallo")]
    assert set(seen) == {1}
    assert sockets_in_use()["speech", "fake"] == 0


async def test_after_three_attempts_it_is_told():
    fake = FakeVoice()
    fake.failures = [busy(), busy(), busy()]
    with pytest.raises(VoiceError, match="later"):
        await heard(fake, Counter())
    assert len(fake.spoken) == 3


@pytest.mark.parametrize("error", [VoiceError("refused", "no", retry=False), busy(after_s=30)])
async def test_what_no_short_wait_mends_is_told_at_once(error):
    fake = FakeVoice()
    fake.failures = [error]
    with pytest.raises(VoiceError):
        await heard(fake, Counter())
    assert len(fake.spoken) == 1


async def test_a_provider_that_hangs_is_not_worth_three_time_outs(monkeypatch):
    monkeypatch.setattr(patient, "GIVE_UP_AFTER_S", 0.0)
    fake = FakeVoice()
    fake.failures = [VoiceError("timeout", "nothing came", retry=True)]
    with pytest.raises(VoiceError, match="nothing came"):
        await heard(fake, Counter())
    assert len(fake.spoken) == 1


async def test_what_broke_off_is_not_said_twice():
    fake = FakeVoice()
    fake.failures, fake.fail_after = [busy()], 1
    with pytest.raises(VoiceError):
        await heard(fake, Counter())
    assert len(fake.spoken) == 1


class BilledFailure(FakeVoice):
    """Fails at first, and is paid for it: a response of a Realtime model that failed before any audio."""

    async def speak(self, text):
        if not self.spoken:
            self.spoken.append(text)
            yield Chunk(b"", UsageCounted("speech", "model", "", {"text_in": 9}), verbatim=False)
            raise busy()
        async for chunk in super().speak(text):
            yield chunk


async def test_a_failure_that_was_billed_is_tried_again_and_both_are_paid():
    fake = BilledFailure()
    cached = CachedVoice(PatientVoice(fake, Counter(), lambda: 1.0), SpeechCache(None, 1 << 20))
    chunks = [chunk async for chunk in cached.speak("Hallo")]
    assert b"".join(chunk.pcm for chunk in chunks) == rendered("Hallo")
    assert [chunk.usage.tokens for chunk in chunks if chunk.usage] == [{"text_in": 9}, {"characters": 5}]


async def test_the_provider_may_ask_for_a_longer_wait():
    fake = FakeVoice()
    fake.failures = [busy(after_s=0.1)]
    begun_at = asyncio.get_running_loop().time()
    await heard(fake, Counter())
    assert asyncio.get_running_loop().time() - begun_at >= 0.09
