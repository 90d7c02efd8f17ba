"""Callers whom no agent serves leave a message over Twilio, with a leg that has ended or without one."""

import asyncio
import base64
import xml.etree.ElementTree as ET

import pytest

from libs.audio.compare import best_correlation
from libs.audio.g711 import Law
from libs.audio.tone import tone
from libs.call_leg.last_words import TONE_HZ, TONE_MS
from libs.contracts.commands import Failed
from libs.contracts.config import Fallback
from libs.contracts.events import CallAnswered, CallEnded
from libs.contracts.termination import Reason
from tests.support.fake_recorder import FakeRecorder
from tests.support.fake_worker import accept_unready, refuse
from tests.unit.twilio_gateway.conftest import AGENT, ROUTE, world

MESSAGE, VOICE, BEEP = tone(440, 400, 8000), tone(620, 600, 8000), tone(TONE_HZ, TONE_MS, 8000)
VOICEMAIL = Fallback(
    kind="voicemail", message_ulaw_b64=base64.b64encode(Law.PCMU.encode(MESSAGE)).decode(), max_recording_s=5
)
SERVED = ROUTE.model_copy(update={"fallback": VOICEMAIL})  # a leg, and a worker that says no
UNSERVED = SERVED.model_copy(update={"agent": "nobody"})  # no leg


def likeness(part: bytes, whole: bytes) -> float:
    return best_correlation(part[: len(part) // 2], whole)[0]


async def only_end(here):
    await here.until(lambda: not here.gateway.is_busy)
    await here.event(CallEnded)
    await here.outbox.flush(1)
    await asyncio.sleep(0.1)
    (ended,) = here.of(CallEnded)
    assert here.of(CallAnswered) == []
    return ended


async def has_heard_the_tone(call):
    await call.until(lambda: likeness(BEEP, call.heard_pcm()[-len(BEEP) - 4000 :]) > 0.9)


@pytest.mark.parametrize(
    ("route", "reason"), [(SERVED, Reason.NO_WORKER), (UNSERVED, Reason.UNKNOWN_AGENT)], ids=["leg", "no leg"]
)
async def test_what_the_caller_says_after_message_and_tone_is_recorded_until_the_caller_leaves(server, route, reason):
    async with world(server, AGENT, route) as here, FakeRecorder(server.url) as recorder:
        await here.worker(on_offer=refuse)
        call = await here.twilio.incoming().ring()
        await has_heard_the_tone(call)
        assert likeness(MESSAGE, call.heard_pcm()) > 0.95
        await here.until(lambda: recorder.ticks)
        await call.says(VOICE)
        await here.until(lambda: len(recorder.said) >= len(VOICE) - 640)
        await call.hang_up()
        async with asyncio.timeout(3):
            await recorder.over.wait()
        assert likeness(VOICE, bytes(recorder.said)) > 0.95
        assert recorder.ticks >= 20
        ended = await only_end(here)
        (request,) = recorder.requests
        assert (request.call, request.rate_hz, ended.call) == (ended.call, 8000, request.call)
        assert ended.termination.reason is reason


async def test_an_endless_message_is_ended_by_us(server):
    async with world(server, AGENT, UNSERVED) as here, FakeRecorder(server.url) as recorder:
        call = await here.twilio.incoming().ring()
        await has_heard_the_tone(call)
        talking = call.later(call.says(bytes(16000 * 12)))
        await call.until(lambda: call.is_over, 9)
        talking.cancel()
        async with asyncio.timeout(3):
            await recorder.over.wait()
        assert call.verbs == ["Connect", "Redirect", "Hangup"]
        assert (await only_end(here)).termination.reason is Reason.UNKNOWN_AGENT


async def test_after_the_ringing_time_the_message_is_left_on_the_stream_that_is_there(server):
    async with (
        world(server, AGENT, SERVED, twilio_ring_s=0.1) as here,
        FakeRecorder(server.url) as recorder,
    ):
        worker = await here.worker(on_offer=accept_unready)
        call = await here.twilio.incoming().ring()
        offer = await worker.offers.get()
        await call.until(lambda: call.marks)
        await worker.command(offer, Failed(epoch=offer.epoch, reason=Reason.MODEL_REFUSED))
        await here.until(lambda: recorder.ticks)
        await call.says(VOICE)
        await call.hang_up()
        async with asyncio.timeout(3):
            await recorder.over.wait()
        assert likeness(VOICE, bytes(recorder.said)) > 0.95
        assert call.streams == 1
        await only_end(here)


@pytest.mark.parametrize("route", [SERVED, UNSERVED], ids=["leg", "no leg"])
async def test_a_caller_who_leaves_during_the_message_leaves_none(server, route):
    async with world(server, AGENT, route) as here, FakeRecorder(server.url) as recorder:
        await here.worker(on_offer=refuse)
        call = await here.twilio.incoming().ring()
        await call.until(lambda: call.socket is not None and call.marks)
        await call.hang_up()
        await only_end(here)
        assert recorder.requests == []


@pytest.mark.parametrize("route", [SERVED, UNSERVED], ids=["leg", "no leg"])
async def test_a_caller_who_leaves_before_the_stream_is_not_waited_for(server, route):
    async with world(server, AGENT, route) as here:
        await here.worker(on_offer=refuse)
        call = here.twilio.incoming()
        await here.twilio.post(f"{here.twilio.public_url}/voice", call.form())
        call.is_over = True
        await here.twilio.post(f"{here.twilio.public_url}/status", call.form(CallStatus="completed"))
        await only_end(here)


@pytest.mark.parametrize("route", [SERVED, UNSERVED], ids=["leg", "no leg"])
@pytest.mark.parametrize("accepts", [None, False], ids=["none there", "full"])
async def test_without_a_recorder_the_caller_hears_the_message_and_the_call_ends_in_order(server, route, accepts):
    async with world(server, AGENT, route) as here:
        if accepts is not None:
            await here.stack.enter_async_context(FakeRecorder(server.url, accepts=accepts))
        await here.worker(on_offer=refuse)
        call = await here.twilio.incoming().ring()
        await call.until(lambda: call.is_over)
        assert likeness(MESSAGE, call.heard_pcm()) > 0.95
        assert call.verbs == ["Connect", "Redirect", "Hangup"]
        await only_end(here)


@pytest.mark.parametrize("route", [SERVED, UNSERVED], ids=["leg", "no leg"])
@pytest.mark.parametrize("asks_late", [False, True])
async def test_without_a_stream_twilio_plays_the_message(server, route, asks_late, monkeypatch):
    monkeypatch.setattr("services.twilio_gateway.call.STREAM_WITHIN_S", 0.3 if asks_late else 10)
    async with world(server, AGENT, route) as here:
        await here.worker(on_offer=refuse)
        call = here.twilio.incoming()
        _, text = await here.twilio.post(f"{here.twilio.public_url}/voice", call.form())
        connect, after = ET.fromstring(text)
        assert (connect.tag, after.tag) == ("Connect", "Redirect")
        if asks_late:
            await only_end(here)
        _, text = await here.twilio.post(after.text, call.form())
        play, hang_up = ET.fromstring(text)
        assert (play.tag, hang_up.tag) == ("Play", "Hangup")
        async with here.twilio.session.get(here.twilio.reached(play.text)) as response:
            assert response.content_type == "audio/wav"
        await only_end(here)


@pytest.mark.parametrize("route", [SERVED, UNSERVED], ids=["leg", "no leg"])
async def test_a_repeated_webhook_is_the_same_caller(server, route):
    async with world(server, AGENT, route) as here:
        await here.worker(on_offer=refuse)
        call = here.twilio.incoming()
        await here.twilio.post(f"{here.twilio.public_url}/voice", call.form())
        await call.ring()
        await call.until(lambda: call.is_over)
        assert likeness(MESSAGE, call.heard_pcm()) > 0.95
        await only_end(here)


@pytest.mark.parametrize("route", [SERVED, UNSERVED], ids=["leg", "no leg"])
async def test_a_crowd_is_not_listened_to_without_end(server, route):
    async with world(server, AGENT, route) as here:
        here.gateway.last_words.most = 0
        await here.worker(on_offer=refuse)
        call = here.twilio.incoming()
        _, text = await here.twilio.post(f"{here.twilio.public_url}/voice", call.form())
        assert [verb.tag for verb in ET.fromstring(text)] == ["Play", "Hangup"]
