"""Transfers by `<Dial>`: who is connected, and who comes back to the agent."""

import asyncio

import pytest

from libs.contracts.commands import HangUp, Transfer
from libs.contracts.events import CallAnswered, CallEnded, CallOffered, CallTransfer
from libs.contracts.termination import Reason
from tests.unit.twilio_gateway.conftest import streaming, world
from tests.unit.twilio_gateway.test_calls import VOICE, is_heard, speak

TARGET = "+4930555111"


async def transferring(here, worker, **command):
    """A call whose target is being dialled."""
    call, offer = await streaming(here, worker)
    reply = await worker.command(offer, Transfer(epoch=offer.epoch, target=TARGET, **command))
    assert reply.ok, reply.error
    await call.until(lambda: call.dialled)
    return call, offer


def course(here) -> list[tuple[str, int | None]]:
    return [(event.state, event.status) for event in here.of(CallTransfer)]


async def test_a_transfer_connects_the_caller_and_ends_the_agents_part(server):
    async with world(server) as here:
        worker = await here.worker()
        call, _ = await transferring(here, worker)
        assert call.dialled == TARGET
        assert call.dial.get("timeout") == "30"
        await call.target_is("ringing")
        await call.target_is("in-progress")
        ended = await here.event(CallEnded)
        assert ended.termination.reason is Reason.TRANSFERRED
        assert course(here) == [("requested", None), ("ringing", 180), ("done", 200)]
        assert here.of(CallTransfer)[0].mode == "dial"
        assert not call.is_over
        await asyncio.sleep(0.1)
        assert here.twilio.api_requests == []
        await call.dial_ends("completed")
        await call.until(lambda: call.is_over)


@pytest.mark.parametrize(("status", "code"), [("busy", 486), ("no-answer", 480), ("failed", None), ("canceled", 487)])
async def test_a_failed_transfer_brings_the_caller_back_to_the_same_call(server, status, code):
    async with world(server) as here:
        worker = await here.worker()
        call, offer = await transferring(here, worker)
        await call.dial_ends(status)
        await call.until(lambda: call.streams == 2 and call.socket is not None)
        assert course(here)[-1] == ("failed", code)
        await speak(worker, offer)
        await call.until(lambda: is_heard(call.heard_pcm()))
        await call.says(VOICE)
        assert is_heard(b"".join(frame.payload for frame in worker.frames))
        assert len(here.of(CallOffered)) == len(here.of(CallAnswered)) == 1
        await call.hang_up()
        assert (await here.event(CallEnded)).termination.reason is Reason.CALLER_HUNG_UP


async def test_the_target_hears_an_announcement_first(server):
    async with world(server) as here:
        worker = await here.worker()
        call, _ = await transferring(here, worker, mode="bridge", announcement="Frau Müller & ihre T-Stücke")
        status, text = await here.twilio.post(call.dial[0].get("url"), {"CallSid": "CAchild"})
        assert (status, 'language="de-DE"' in text) == (200, True)
        assert "Frau Müller &amp; ihre T-Stücke" in text


@pytest.mark.parametrize(
    ("target", "mode", "says"),
    [
        (TARGET, "refer", "ask for mode 'auto'"),
        ("+4990012345", "auto", "special-rate"),
        ("110", "auto", "emergency"),
        ("+88213300", "auto", "satellite"),
        ("chef", "auto", "not a telephone number"),
    ],
)
async def test_what_cannot_be_dialled_is_refused_with_a_sentence(server, target, mode, says):
    async with world(server) as here:
        worker = await here.worker()
        call, offer = await streaming(here, worker)
        reply = await worker.command(offer, Transfer(epoch=offer.epoch, target=target, mode=mode))
        assert not reply.ok
        assert says in reply.error
        assert not call.dialled


async def test_a_call_that_is_ended_during_a_transfer_ends_at_twilio_too(server):
    async with world(server) as here:
        worker = await here.worker()
        call, _ = await transferring(here, worker)
        await here.bus.request(f"v1.default.ctl.{here.of(CallOffered)[0].call}.leg", HangUp().to_json(), 1)
        assert (await here.event(CallEnded)).termination.reason is Reason.OPERATOR_HUNG_UP
        await call.until(lambda: call.is_over)


async def test_a_caller_who_does_not_wait_for_the_target_ends_the_call_once(server):
    async with world(server) as here:
        worker = await here.worker()
        call, _ = await transferring(here, worker)
        call.is_over = True
        await call.dial_ends("canceled")
        assert (await here.event(CallEnded)).termination.reason is Reason.CALLER_HUNG_UP
        await here.until(lambda: not here.gateway.is_busy)
        assert len(here.of(CallEnded)) == 1
