"""Pages whom no agent serves leave a message, with a leg that has ended or without one."""

import asyncio
import base64

import pytest

from libs.audio.compare import best_correlation
from libs.audio.g711 import Law
from libs.audio.tone import tone
from libs.call_leg.last_words import TONE_HZ, TONE_MS
from libs.contracts.config import Fallback
from libs.contracts.events import CallAnswered, CallEnded
from libs.contracts.termination import Reason
from tests.support.fake_recorder import FakeRecorder
from tests.support.fake_worker import refuse
from tests.unit.browser_gateway.conftest import AGENT, ROUTE, world

SAID, VOICE, BEEP = tone(500, 400, 8000), tone(620, 600, 16000), tone(TONE_HZ, TONE_MS, 16000)
VOICEMAIL = Fallback(
    kind="voicemail", message_ulaw_b64=base64.b64encode(Law.PCMU.encode(SAID)).decode(), max_recording_s=5
)
SERVED = ROUTE.model_copy(update={"fallback": VOICEMAIL})
UNSERVED = SERVED.model_copy(update={"agent": "nobody"})
BOTH = pytest.mark.parametrize("route", [SERVED, UNSERVED], ids=["leg", "no leg"])


def likeness(part: bytes, whole: bytes) -> float:
    return best_correlation(part[: len(part) // 2], whole)[0]


def has_heard_the_message(page) -> bool:
    heard = bytes(page.heard)
    return likeness(tone(500, 400, 16000), heard) > 0.95 and likeness(BEEP, heard[-len(BEEP) - 8000 :]) > 0.9


async def only_end(here):
    await here.until(lambda: not here.gateway.ticker._served and not here.web._connections)
    await here.event(CallEnded)
    await here.outbox.flush(1)
    await asyncio.sleep(0.1)
    (ended,) = here.of(CallEnded)
    assert here.of(CallAnswered) == []
    return ended


@BOTH
@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "hangs up"])
async def test_what_the_page_says_after_message_and_tone_is_recorded_until_it_leaves(server, route, leaves):
    async with world(server, AGENT, route) as here, FakeRecorder(server.url) as recorder:
        await here.worker(on_offer=refuse)
        page = await here.call()
        await page.message("answered")
        await page.until(lambda: has_heard_the_message(page))
        await here.until(lambda: recorder.ticks)
        await page.speak(VOICE)
        await here.until(lambda: len(recorder.said) >= len(VOICE) - 1280)
        if leaves:
            await page.leave()
        else:
            await page.say(type="hang_up")
            await page.end()
        async with asyncio.timeout(3):
            await recorder.over.wait()
        assert likeness(VOICE, bytes(recorder.said)) > 0.95
        assert recorder.ticks >= 20
        ended = await only_end(here)
        (request,) = recorder.requests
        assert (request.call, request.rate_hz) == (ended.call, 16000)
        assert ended.termination.reason is (Reason.NO_WORKER if route is SERVED else Reason.UNKNOWN_AGENT)


@BOTH
async def test_an_endless_message_is_ended_by_us(server, route):
    async with world(server, AGENT, route) as here, FakeRecorder(server.url) as recorder:
        await here.worker(on_offer=refuse)
        page = await here.call()
        await page.until(lambda: has_heard_the_message(page))
        await page.until(lambda: page.closed is not None, 9)
        async with asyncio.timeout(3):
            await recorder.over.wait()
        end = await page.message("ended")
        assert end["termination"]["reason"] == ("fallback_played" if route is SERVED else "unknown_agent")
        await only_end(here)


@BOTH
async def test_a_page_that_leaves_during_the_message_leaves_none(server, route):
    async with world(server, AGENT, route) as here, FakeRecorder(server.url) as recorder:
        await here.worker(on_offer=refuse)
        page = await here.call()
        await page.until(lambda: page.heard)
        await page.leave()
        await only_end(here)
        assert recorder.requests == []


@BOTH
@pytest.mark.parametrize("accepts", [None, False], ids=["none there", "full"])
async def test_without_a_recorder_the_page_hears_the_message_and_the_call_ends_in_order(server, route, accepts):
    async with world(server, AGENT, route) as here:
        if accepts is not None:
            await here.stack.enter_async_context(FakeRecorder(server.url, accepts=accepts))
        await here.worker(on_offer=refuse)
        page = await here.call()
        end = await page.end()
        assert has_heard_the_message(page)
        assert end["termination"]["reason"] == ("fallback_played" if route is SERVED else "unknown_agent")
        await only_end(here)


async def test_a_muted_page_leaves_silence(server):
    async with world(server, AGENT, UNSERVED) as here, FakeRecorder(server.url) as recorder:
        page = await here.call()
        await page.say(type="mute", muted=True)
        await here.until(lambda: recorder.ticks)
        await page.speak(VOICE[:12800])
        await here.until(lambda: recorder.said)
        assert not any(recorder.said)
        await page.leave()
        await only_end(here)


@BOTH
async def test_a_crowd_of_pages_hears_the_message_alone(server, route):
    async with world(server, AGENT, route) as here, FakeRecorder(server.url) as recorder:
        here.gateway.last_words.most = 0
        await here.worker(on_offer=refuse)
        page = await here.call()
        await page.end()
        assert likeness(tone(500, 400, 16000), bytes(page.heard)) > 0.95
        assert recorder.requests == []


@BOTH
async def test_a_message_is_finished_within_the_drain(server, route):
    async with world(server, AGENT, route) as here, FakeRecorder(server.url) as recorder:
        await here.worker(on_offer=refuse)
        page = await here.call()
        await here.until(lambda: recorder.ticks)
        draining = asyncio.create_task(here.gateway.last_words.drain(asyncio.get_running_loop().time() + 5))
        await page.speak(VOICE)
        await here.until(lambda: len(recorder.said) >= len(VOICE) - 1280)
        assert not draining.done()
        await page.leave()
        await asyncio.wait_for(draining, 3)
        await asyncio.wait_for(recorder.over.wait(), 1)
        assert likeness(VOICE, bytes(recorder.said)) > 0.95


@BOTH
async def test_a_message_that_outlasts_the_drain_is_over_for_its_recorder_too(server, route):
    async with world(server, AGENT, route) as here, FakeRecorder(server.url) as recorder:
        await here.worker(on_offer=refuse)
        page = await here.call()
        await here.until(lambda: recorder.ticks)
        await asyncio.wait_for(here.gateway.last_words.drain(asyncio.get_running_loop().time()), 3)
        await asyncio.wait_for(recorder.over.wait(), 1)
        await page.end()
        late = await here.call()
        await late.end()
        assert len(recorder.requests) == 1
