"""Calls through the gateway: Twilio as documented on one side, a scripted worker on a real bus on the other."""

import asyncio
import base64
import xml.etree.ElementTree as ET

import pytest

from libs.audio.compare import best_correlation
from libs.audio.dtmf import tones as dtmf_tones
from libs.audio.g711 import Law
from libs.audio.tone import tone
from libs.audio.wav import read_wav
from libs.contracts.commands import Accept, Failed, HangUp, Hold, Ready, SendDtmf
from libs.contracts.config import Fallback
from libs.contracts.events import CallAnswered, CallEnded, CallOffered, CallWaiting, DtmfReceived
from libs.contracts.frame import Flag
from libs.contracts.termination import Reason
from tests.support.fake_worker import accept_unready, never, refuse
from tests.unit.twilio_gateway.conftest import AGENT, ROUTE, streaming, world
from tests.unit.twilio_gateway.twilio import SILENCE

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


def sounding(ulaw: bytes) -> bytes:
    """The PCM of the frames that are not silent: on a busy machine the player finds nothing for a while, anywhere."""
    frames = (ulaw[start : start + 160] for start in range(0, len(ulaw), 160))
    return Law.PCMU.decode(b"".join(frame for frame in frames if frame != SILENCE))


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
        assert media.rtp_received + media.up_filled == media.up_published + media.up_dropped
        assert media.dn_received == media.dn_control + media.dn_played
        assert media.round_trip_ms is not None


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


# -- the end, however it comes: once ------------------------------------------------------------------------------


async def only_end(here):
    """The one `call.ended`, after time for a second one."""
    ended = await here.event(CallEnded, limit_s=8)
    await here.until(lambda: not here.gateway.is_busy)
    await here.outbox.flush(1)
    await asyncio.sleep(0.1)
    assert len(here.of(CallEnded)) == 1
    return ended.termination


async def test_a_close_without_stop_ends_the_call(server):
    async with world(server) as here:
        worker = await here.worker()
        call, _ = await streaming(here, worker)
        call.is_over = True
        await call.socket.close()
        assert (await only_end(here)).reason is Reason.CALLER_HUNG_UP


async def test_a_connection_that_breaks_off_ends_the_call_when_twilio_does_not_come_back(server, monkeypatch):
    monkeypatch.setattr("services.twilio_gateway.call.AGAIN_WITHIN_S", 0.3)
    async with world(server) as here:
        worker = await here.worker()
        call, _ = await streaming(here, worker)
        call.comes_back = False
        await call.break_off()
        assert (await only_end(here)).reason is Reason.CALLER_HUNG_UP


async def test_a_connection_that_breaks_off_and_comes_back_keeps_its_call(server):
    async with world(server) as here:
        worker = await here.worker()
        call, offer = await streaming(here, worker)
        await call.break_off()
        await call.until(lambda: call.streams == 2 and call.marks)
        await speak(worker, offer)
        await call.until(lambda: is_heard(call.heard_pcm()))
        await call.hang_up()
        assert (await only_end(here)).reason is Reason.CALLER_HUNG_UP
        assert len(here.of(CallOffered)) == len(here.of(CallAnswered)) == 1


async def test_a_message_above_64_kib_ends_the_call_with_a_reason(server):
    async with world(server) as here:
        worker = await here.worker()
        call, _ = await streaming(here, worker)
        await call.media(b"\xff" * 65536)
        end = await only_end(here)
        assert end.reason is Reason.TRUNK_FAILED
        assert call.closed_with == (1009, "")
        assert call.is_over


async def test_a_caller_who_hangs_up_while_it_rings_is_reported_by_the_number(server):
    async with world(server) as here:
        worker = await here.worker(on_offer=accept_unready)
        call = here.twilio.incoming()
        ringing = asyncio.create_task(call.ring())
        await worker.offers.get()
        call.is_over = True
        await here.twilio.post(f"{here.twilio.public_url}/status", call.form(CallStatus="canceled"))
        assert (await only_end(here)).reason is Reason.CALLER_CANCELLED
        await ringing


async def test_a_stream_that_never_comes_ends_the_call(server, monkeypatch):
    monkeypatch.setattr("services.twilio_gateway.call.STREAM_WITHIN_S", 0.2)
    async with world(server) as here:
        await here.worker()
        call = here.twilio.incoming()
        status, _ = await here.twilio.post(f"{here.twilio.public_url}/voice", call.form())
        assert status == 200
        assert "no media stream" in (await only_end(here)).detail


# -- no agent -----------------------------------------------------------------------------------------------------

MESSAGE = Fallback(kind="message", message_ulaw_b64=base64.b64encode(Law.PCMU.encode(VOICE)).decode())
FORWARD = Fallback(kind="transfer", number="+4930999999")


async def voice(here, **form):
    call = here.twilio.incoming(**form)
    status, text = await here.twilio.post(f"{here.twilio.public_url}/voice", call.form())
    assert status == 200
    return ET.fromstring(text)


@pytest.mark.parametrize(
    ("to", "on_offer", "why", "reason"),
    [("+4930000000", None, "rejected", Reason.NO_ROUTE), ("+49301234567", refuse, "busy", Reason.NO_WORKER)],
)
async def test_a_call_that_nobody_can_take_is_not_answered_and_leaves_its_record(server, to, on_offer, why, reason):
    async with world(server) as here:
        if on_offer is not None:
            await here.worker(on_offer=on_offer)
        answer = await voice(here, to=to)
        assert [(verb.tag, verb.attrib) for verb in answer] == [("Reject", {"reason": why})]
        assert (await only_end(here)).reason is reason
        assert here.of(CallAnswered) == []


async def test_a_worker_that_says_no_gets_the_caller_the_routes_message(server):
    async with world(server, AGENT, ROUTE.model_copy(update={"fallback": MESSAGE})) as here:
        await here.worker(on_offer=refuse)
        answer = await voice(here)
        assert [verb.tag for verb in answer] == ["Play", "Hangup"]
        async with here.twilio.session.get(here.twilio.reached(answer[0].text)) as response:
            assert response.content_type == "audio/wav"
            wav = read_wav(await response.read())
        assert (wav.rate_hz, is_heard(wav.pcm)) == (8000, True)
        async with here.twilio.session.get(here.twilio.reached(answer[0].text) + "x") as response:
            assert response.status == 404


async def test_a_fallback_number_is_dialled(server):
    async with world(server, AGENT, ROUTE.model_copy(update={"fallback": FORWARD})) as here:
        (dial,) = await voice(here)
        assert (dial.tag, dial[0].text) == ("Dial", "+4930999999")


@pytest.mark.parametrize("fallback", [MESSAGE, FORWARD])
async def test_after_the_ringing_time_the_caller_waits_with_a_tone_and_gets_the_fallback_on_the_stream(
    server, fallback
):
    async with world(server, AGENT, ROUTE.model_copy(update={"fallback": fallback}), twilio_ring_s=0.1) as here:
        worker = await here.worker(on_offer=accept_unready)
        call = await here.twilio.incoming().ring()
        offer = await worker.offers.get()
        await call.until(lambda: any(frame != call.heard[0] for frame in call.heard))
        await worker.command(offer, Failed(epoch=offer.epoch, reason=Reason.MODEL_REFUSED))
        if fallback is FORWARD:
            await call.until(lambda: call.dialled)
            assert call.dialled == "+4930999999"
        else:
            await call.until(lambda: call.is_over)
            assert is_heard(call.heard_pcm())
        assert (await only_end(here)).reason is Reason.MODEL_REFUSED
        assert here.of(CallAnswered) == []


async def test_a_slow_agent_is_heard_after_the_waiting_tone(server):
    async with world(server, twilio_ring_s=0.1) as here:
        worker = await here.worker(on_offer=accept_unready)
        call = await here.twilio.incoming().ring()
        offer = await worker.offers.get()
        await call.until(lambda: call.marks)
        await worker.command(offer, Ready(epoch=offer.epoch))
        await here.event(CallAnswered)
        await speak(worker, offer)
        await call.until(lambda: is_heard(call.heard_pcm()))


async def test_a_withheld_number_is_anonymous(server):
    async with world(server) as here:
        worker = await here.worker()
        await here.twilio.incoming(caller="+266696687").ring()
        assert (await worker.offers.get()).caller == "anonymous"


async def test_a_full_gateway_says_busy(server):
    async with world(server, max_calls=1) as here:
        worker = await here.worker()
        await streaming(here, worker)
        (reject,) = await voice(here)
        assert reject.attrib == {"reason": "busy"}


async def test_a_repeated_webhook_is_the_same_call(server):
    async with world(server) as here:
        worker = await here.worker(on_offer=never)
        call = here.twilio.incoming()
        both = asyncio.gather(*(here.twilio.post(f"{here.twilio.public_url}/voice", call.form()) for _ in range(2)))
        await worker.offers.get()
        await both
        await here.event(CallOffered)
        assert len(here.of(CallOffered)) == 1


async def test_a_route_that_asks_a_person_rings_then_waits_with_a_tone_until_somebody_accepts(server):
    async with world(server, AGENT, ROUTE.model_copy(update={"answer": "manual"}), twilio_ring_s=0.2) as here:
        worker = await here.worker()
        call = await here.twilio.incoming().ring()
        waiting = await here.event(CallWaiting)
        await call.until(lambda: any(frame != b"\xff" * 160 for frame in call.heard))
        assert worker.offers.empty()
        await here.bus.request(f"v1.default.ctl.{waiting.call}.leg", Accept().to_json(), 1)
        offer = await worker.offers.get()
        await here.event(CallAnswered)
        await speak(worker, offer)
        await call.until(lambda: is_heard(call.heard_pcm()))


# -- keys and hold ----------------------------------------------------------------------------------------------------


async def test_the_agents_keys_are_heard_as_tones(server):
    async with world(server) as here:
        worker = await here.worker()
        call, offer = await streaming(here, worker)
        assert (await worker.command(offer, SendDtmf(epoch=offer.epoch, digits="42"))).ok
        keys = sounding(Law.PCMU.encode(dtmf_tones("42", 8000)))
        await call.until(lambda: best_correlation(keys, sounding(b"".join(call.heard)))[0] > 0.9)


async def test_on_hold_the_caller_hears_the_waiting_tone(server):
    async with world(server) as here:
        worker = await here.worker()
        call, offer = await streaming(here, worker)
        assert (await worker.command(offer, Hold(epoch=offer.epoch, held=True))).ok
        await call.until(lambda: sum(frame != b"\xff" * 160 for frame in call.heard) > 5)
