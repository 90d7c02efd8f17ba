"""The conformance suite of the gateways: the same calls over SIP, pyVoIP, Twilio and the browser."""

from __future__ import annotations

import asyncio

import pytest

from libs.audio.compare import best_correlation
from libs.audio.tone import tone
from libs.contracts.commands import Failed, HangUp, Hold, Mute, Ready, SendDtmf
from libs.contracts.events import (
    CallAnswered,
    CallClaimed,
    CallEnded,
    CallOffered,
    CallRinging,
    DtmfReceived,
    DtmfSent,
    WorkerLost,
)
from libs.contracts.frame import Flag
from libs.contracts.originate import Originate
from libs.contracts.termination import Reason
from tests.conformance.world import world
from tests.support.fake_worker import accept_unready, never, refuse

VOICE = tone(440, 600, 8000)
OTHER = tone(620, 600, 8000)


async def speak(worker, offer, pcm: bytes = VOICE, first_seq: int = 0) -> None:
    """As a worker does: at most 200 ms ahead; in the call's rate."""
    if offer.state.rate_hz == 16000:
        pcm = b"".join(2 * pcm[at : at + 2] for at in range(0, len(pcm), 2))
    size = offer.state.rate_hz // 25
    for number in range(len(pcm) // size):
        worker.says(offer, first_seq + number, pcm[number * size : (number + 1) * size])
        if number >= 8:
            await asyncio.sleep(0.02)


def carries(pcm: bytes, voice: bytes) -> bool:
    """A quarter of it came without a gap; a busy machine may leave one somewhere."""
    return len(pcm) > len(voice) // 4 and best_correlation(voice[: len(voice) // 4], pcm)[0] > 0.95


def uplink(worker) -> bytes:
    """What the caller said, at 8 kHz."""
    pcm = b"".join(frame.payload for frame in worker.frames)
    if worker.frames and len(worker.frames[0].payload) == 640:
        pcm = b"".join(pcm[at : at + 2] for at in range(0, len(pcm), 4))
    return pcm


async def answered(here, driver, **behaviour):
    """A call in progress."""
    worker = await here.worker(**behaviour)
    far = await driver.dials("bestellung")
    offer = await asyncio.wait_for(worker.offers.get(), 10)
    await far.wait_answered()
    await here.event(CallAnswered)
    return worker, far, offer


# -- set-up -----------------------------------------------------------------------------------------------------------


async def test_a_call_is_answered_only_when_the_worker_is_ready(server, driver):
    async with world(server, driver) as here:
        worker = await here.worker(on_offer=accept_unready)
        far = await driver.dials("bestellung")
        offer = await asyncio.wait_for(worker.offers.get(), 10)
        await here.event(CallClaimed)
        assert not here.of(CallAnswered)
        assert (await worker.command(offer, Ready(epoch=offer.epoch))).ok
        await far.wait_answered()
        await here.event(CallAnswered)
        await far.hangs_up()
        assert (await here.event(CallEnded)).termination.reason is Reason.CALLER_HUNG_UP


async def test_a_number_without_route_is_refused_and_leaves_a_record(server, driver):
    async with world(server, driver) as here:
        far = await driver.dials("niemand")
        await far.wait_refused()
        ended = await here.event(CallEnded)
        assert ended.termination.reason is Reason.NO_ROUTE
        assert (await here.event(CallOffered)).call == ended.call


@pytest.mark.parametrize("script", [refuse, never], ids=["refuses", "silent"])
async def test_a_call_that_no_worker_takes_is_refused_once(server, driver, script):
    async with world(server, driver) as here:
        await here.worker(on_offer=script)
        far = await driver.dials("bestellung")
        await far.wait_refused()
        assert (await here.event(CallEnded)).termination.reason is Reason.NO_WORKER
        assert len(here.of(CallEnded)) == 1


async def test_a_caller_who_gives_up_before_the_answer_frees_the_worker(server, driver):
    async with world(server, driver) as here:
        worker = await here.worker(on_offer=accept_unready)
        far = await driver.dials("bestellung")
        offer = await asyncio.wait_for(worker.offers.get(), 10)
        await here.event(CallClaimed)
        await far.gives_up()
        ended = await here.event(CallEnded)
        assert ended.termination.reason in (Reason.CALLER_CANCELLED, Reason.CALLER_HUNG_UP)
        assert (await asyncio.wait_for(worker.releases.get(), 5)).call == offer.call


# -- audio ------------------------------------------------------------------------------------------------------------


async def test_audio_passes_both_ways(server, driver):
    async with world(server, driver) as here:
        worker, far, offer = await answered(here, driver)
        await asyncio.gather(far.says(VOICE), speak(worker, offer, OTHER))
        await here.until(lambda: carries(far.heard(), OTHER))
        await here.until(lambda: carries(uplink(worker), VOICE))
        await far.hangs_up()


async def test_the_uplink_runs_at_fifty_frames_a_second_whatever_the_caller_does(server, driver):
    """R2, R6: gapless numbers, monotonous time, also through silence."""
    async with world(server, driver) as here:
        worker, far, _ = await answered(here, driver)
        began, count = asyncio.get_running_loop().time(), len(worker.frames)
        await here.until(lambda: len(worker.frames) >= count + 60)
        took_s = asyncio.get_running_loop().time() - began
        assert 0.9 < took_s < 1.9
        frames = worker.frames
        assert [frame.seq for frame in frames] == list(range(len(frames)))
        step = len(frames[0].payload) // 2
        assert [frame.timestamp for frame in frames] == [number * step for number in range(len(frames))]
        await far.hangs_up()


async def test_what_was_played_is_told_with_the_uplink(server, driver):
    async with world(server, driver) as here:
        worker, far, offer = await answered(here, driver)
        await speak(worker, offer)
        total = len(VOICE) // 2 * offer.state.rate_hz // 8000
        await here.until(lambda: worker.frames[-1].played >= total)
        assert worker.frames[-1].played == total
        await far.hangs_up()


async def test_a_flush_drops_what_was_not_heard(server, driver):
    async with world(server, driver) as here:
        worker, far, offer = await answered(here, driver)
        size = offer.state.rate_hz // 25
        for number in range(10):
            worker.says(offer, number, OTHER[:320] * (size // 320))
        worker.says(offer, 10, flush=True)
        await here.until(lambda: any(frame.flags & Flag.FLUSHED for frame in worker.frames))
        await far.hangs_up()
        media = (await here.event(CallEnded)).media
        assert media.dn_flushed > 0
        assert media.dn_received == media.dn_control + media.dn_played + media.dn_trimmed + media.dn_flushed + \
            media.dn_discarded + media.dn_waiting  # fmt: skip


async def test_nobody_hears_a_worker_that_does_not_own_the_call(server, driver):
    async with world(server, driver) as here:
        _, far, offer = await answered(here, driver)
        stranger = await here.worker()
        await speak(stranger, offer, VOICE)
        await far.hangs_up()
        ended = await here.event(CallEnded)
        assert ended.media.dn_fenced == len(VOICE) // 320
        assert ended.media.dn_played == 0


# -- commands ---------------------------------------------------------------------------------------------------------


async def test_keys_of_the_caller_arrive(server, driver):
    async with world(server, driver) as here:
        _, far, _ = await answered(here, driver)
        await far.presses("5")
        assert (await here.event(DtmfReceived)).digit == "5"
        await far.hangs_up()


async def test_keys_are_pressed_towards_the_caller(server, driver):
    async with world(server, driver) as here:
        _, far, offer = await answered(here, driver)
        reply = await here.command(offer.call, SendDtmf(digits="42#"))
        assert reply.ok, reply.error
        await here.event(DtmfSent)
        await here.until(lambda: far.pressed() == "42#")
        await far.hangs_up()


async def test_a_muted_agent_is_not_heard(server, driver):
    async with world(server, driver) as here:
        worker, far, offer = await answered(here, driver)
        assert (await here.command(offer.call, Mute(muted=True))).ok
        await speak(worker, offer, OTHER)
        assert not carries(far.heard(), OTHER)
        assert (await here.command(offer.call, Mute(muted=False))).ok
        await speak(worker, offer, VOICE, first_seq=len(OTHER) // 320)
        await here.until(lambda: carries(far.heard(), VOICE))
        await far.hangs_up()


async def test_an_operator_holds_the_call_and_takes_it_back(server, driver):
    async with world(server, driver) as here:
        worker, far, offer = await answered(here, driver)
        reply = await here.command(offer.call, Hold(held=True))
        assert reply.ok, reply.error
        assert (await here.command(offer.call, Hold(held=False))).ok
        await speak(worker, offer, VOICE)
        await here.until(lambda: carries(far.heard(), VOICE))
        await far.hangs_up()


# -- failover and ends ------------------------------------------------------------------------------------------------


async def test_a_dead_worker_is_replaced_and_the_caller_stays(server, driver):
    async with world(server, driver) as here:
        first, far, offer = await answered(here, driver)
        second = await here.worker()
        first.die()
        again = await asyncio.wait_for(second.offers.get(), 10)
        assert (again.call, again.resume.cause) == (offer.call, "failover")
        assert again.epoch > offer.epoch
        await here.event(WorkerLost)
        await here.event(CallClaimed, 2)
        await speak(second, again, VOICE)
        await here.until(lambda: carries(far.heard(), VOICE))
        await far.hangs_up()


async def test_a_worker_that_fails_before_the_answer_is_no_end(server, driver):
    async with world(server, driver) as here:
        first = await here.worker(on_offer=accept_unready)
        far = await driver.dials("bestellung")
        offer = await asyncio.wait_for(first.offers.get(), 10)
        second = await here.worker()
        await here.event(CallClaimed)
        await first.command(offer, Failed(epoch=offer.epoch, reason=Reason.MODEL_UNREACHABLE))
        await asyncio.wait_for(second.offers.get(), 10)
        await far.wait_answered()
        await far.hangs_up()


async def test_the_agent_hangs_up(server, driver):
    async with world(server, driver) as here:
        worker, far, offer = await answered(here, driver)
        await worker.command(offer, HangUp(epoch=offer.epoch, reason=Reason.AGENT_HUNG_UP))
        await far.wait_over()
        assert (await here.event(CallEnded)).termination.reason is Reason.AGENT_HUNG_UP
        assert len(here.of(CallEnded)) == 1


async def test_a_drain_refuses_new_calls(server, driver):
    async with world(server, driver) as here:
        await here.worker()
        here.legs.draining = True
        far = await driver.dials("bestellung")
        await far.wait_refused()
        assert (await here.event(CallEnded)).termination.reason is Reason.DRAINING


async def test_a_full_gateway_refuses(server, driver):
    async with world(server, driver, capacity=1) as here:
        _, far, _ = await answered(here, driver)
        other = await driver.dials("bestellung")
        await other.wait_refused()
        assert (await here.event(CallEnded)).termination.reason is Reason.AT_CAPACITY
        await far.hangs_up()


# -- outbound ---------------------------------------------------------------------------------------------------------


async def placed(here, driver, behaviour: str):
    worker = await here.worker()
    number = await driver.callee(behaviour)
    reply = await here.originate(driver.entrance, Originate(to=number, agent="bestellung", ring_timeout_s=2))
    assert reply.ok, reply.error
    offer = await asyncio.wait_for(worker.offers.get(), 10)
    assert (offer.call, offer.direction, offer.state.answered) == (reply.call, "outbound", False)
    return worker, offer


async def test_a_call_is_placed_and_both_hear_each_other(server, driver):
    async with world(server, driver) as here:
        worker, offer = await placed(here, driver, "answers")
        far = await driver.picked_up()
        await here.event(CallAnswered)
        await asyncio.gather(far.says(VOICE), speak(worker, offer, OTHER))
        await here.until(lambda: carries(far.heard(), OTHER))
        await here.until(lambda: carries(uplink(worker), VOICE))
        await far.hangs_up()
        assert (await here.event(CallEnded)).termination.reason is Reason.CALLEE_HUNG_UP


async def test_a_busy_callee_ends_the_call(server, driver):
    async with world(server, driver) as here:
        await placed(here, driver, "busy")
        assert (await here.event(CallEnded)).termination.reason is Reason.CALLEE_BUSY


async def test_a_callee_who_does_not_answer_ends_the_call(server, driver):
    async with world(server, driver) as here:
        await placed(here, driver, "silent")
        await here.event(CallRinging)
        assert (await here.event(CallEnded)).termination.reason is Reason.CALLEE_NO_ANSWER


async def test_a_placed_call_is_given_up_while_it_rings(server, driver):
    async with world(server, driver) as here:
        _, offer = await placed(here, driver, "silent")
        await here.event(CallRinging)
        assert (await here.command(offer.call, HangUp())).ok
        assert (await here.event(CallEnded)).termination.reason is Reason.OPERATOR_HUNG_UP
