"""Calls through the gateway: Twilio as documented on one side, a scripted worker on a real bus on the other."""

import asyncio

from libs.audio.compare import best_correlation
from libs.audio.tone import tone
from libs.contracts.commands import HangUp, Ready
from libs.contracts.events import CallAnswered, CallEnded, CallOffered, DtmfReceived
from libs.contracts.frame import Flag
from libs.contracts.termination import Reason
from tests.support.fake_worker import accept_unready
from tests.unit.twilio_gateway.conftest import AGENT, world

VOICE = tone(440, 400, 8000)


async def speak(worker, offer, pcm: bytes = VOICE, first_seq: int = 0) -> None:
    """As a worker does: at most 200 ms ahead."""
    for number in range(len(pcm) // 320):
        worker.says(offer, first_seq + number, pcm[number * 320 : (number + 1) * 320])
        if number >= 8:
            await asyncio.sleep(0.02)


def is_heard(pcm: bytes) -> bool:
    """A quarter of the voice came without a gap; a busy machine may leave one somewhere."""
    return best_correlation(VOICE[: len(VOICE) // 4], pcm)[0] > 0.98


async def streaming(here, worker):
    """A call with its stream, and its offer."""
    call = here.twilio.incoming()
    await call.ring()
    offer = await worker.offers.get()
    await call.until(lambda: call.socket is not None and call.marks)
    return call, offer


async def test_the_caller_hears_ringing_until_the_agent_is_ready(server):
    async with world(server) as here:
        worker = await here.worker(on_offer=accept_unready)
        call = here.twilio.incoming()
        ringing = asyncio.create_task(call.ring())
        offer = await worker.offers.get()
        await asyncio.sleep(0.1)
        assert not ringing.done()
        assert (await worker.command(offer, Ready(epoch=offer.epoch))).ok
        await ringing
        await call.until(lambda: call.marks)
        assert call.verbs == ["Connect"]
        await call.hang_up()
        ended = await here.event(CallEnded)
        assert ended.termination.reason is Reason.CALLER_HUNG_UP
        assert [type(event).__name__ for event in here.events] == [
            "CallOffered", "CallClaimed", "CallAnswered", "CallEnded",
        ]  # fmt: skip


async def test_the_offer_tells_who_calls_whom_and_the_stream_says_it_too(server):
    async with world(server) as here:
        worker = await here.worker()
        call, offer = await streaming(here, worker)
        assert (offer.caller, offer.callee, offer.agent) == ("+491712345678", "+49301234567", AGENT)
        assert (offer.state.codec, offer.state.rate_hz) == ("PCMU", 8000)
        assert call.parameters["number"] == "+49301234567"
        assert call.parameters["agent"] == "bestellung"


async def test_audio_passes_both_ways(server):
    async with world(server) as here:
        worker = await here.worker()
        call, offer = await streaming(here, worker)
        await speak(worker, offer)
        await call.says(VOICE)
        await asyncio.sleep(0.2)
        assert is_heard(call.heard_pcm())
        assert is_heard(b"".join(frame.payload for frame in worker.frames))
        assert max(frame.played for frame in worker.frames) == len(VOICE) // 2
        await call.hang_up()
        media = (await here.event(CallEnded)).media
        assert media.rtp_sent >= 20
        assert media.rtp_received == 20
        assert media.dn_received == 20
        assert media.dn_trimmed == 0


async def test_an_echo_comes_back_as_audio(server):
    async with world(server) as here:
        worker = await here.worker()
        call, offer = await streaming(here, worker)
        talking = asyncio.create_task(call.says(VOICE + VOICE))
        sent = 0
        while not talking.done():
            while sent < len(worker.frames):
                worker.says(offer, sent, worker.frames[sent].payload)
                sent += 1
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert is_heard(call.heard_pcm())


async def test_a_barge_in_clears_what_twilio_has(server):
    async with world(server) as here:
        worker = await here.worker()
        call, offer = await streaming(here, worker)
        await speak(worker, offer)
        worker.says(offer, 20, flush=True)
        await call.until(lambda: call.clears)
        await here.until(lambda: worker.frames[-1].flags & Flag.FLUSHED)
        assert worker.frames[-1].played < len(VOICE) // 2
        assert call.clears == 1


async def test_a_key_goes_to_the_agent(server):
    async with world(server) as here:
        worker = await here.worker()
        call, _ = await streaming(here, worker)
        await call.send({"event": "dtmf", "dtmf": {"track": "inbound_track", "digit": "5"}})
        assert (await here.event(DtmfReceived)).digit == "5"


async def test_the_agent_hangs_up_by_closing_the_stream(server):
    async with world(server) as here:
        worker = await here.worker()
        call, offer = await streaming(here, worker)
        await worker.command(offer, HangUp(epoch=offer.epoch, reason=Reason.AGENT_HUNG_UP))
        await call.until(lambda: call.is_over)
        assert call.verbs == ["Connect", "Redirect", "Hangup"]
        assert (await here.event(CallEnded)).termination.reason is Reason.AGENT_HUNG_UP
        assert here.twilio.api_requests == []
        assert len(here.of(CallOffered)) == len(here.of(CallAnswered)) == 1
