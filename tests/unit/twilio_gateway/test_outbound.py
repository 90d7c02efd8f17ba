"""Outbound calls through Twilio's REST API: each attempt ends in one `Termination`."""

import asyncio

import pytest

from libs.contracts.commands import HangUp
from libs.contracts.config import OrgConfig
from libs.contracts.events import CallAnswered, CallEnded, CallOffered, CallRinging
from libs.contracts.termination import Reason
from tests.support.fake_worker import accept_unready
from tests.unit.twilio_gateway.conftest import AGENT, ROUTE, world
from tests.unit.twilio_gateway.test_calls import VOICE, is_heard, speak


async def dialled(here):
    """The call at Twilio, once the gateway has asked for it."""
    await here.until(lambda: here.twilio.calls)
    return next(iter(here.twilio.calls.values()))


async def nothing(_) -> None:
    """The callee's telephone stays dark."""


async def test_a_call_is_placed_when_the_agent_is_ready_and_talks_once_answered(server):
    async with world(server) as here:
        worker = await here.worker()
        reply = await here.originate("030 1111111")
        assert (reply.ok, reply.gw) == (True, here.legs.gw)
        call = await dialled(here)
        assert (call.caller, call.to) == ("+4930555000", "+49301111111")
        offer = await worker.offers.get()
        assert (offer.direction, offer.callee) == ("outbound", "+49301111111")
        await here.event(CallAnswered)
        await call.until(lambda: call.marks)
        await speak(worker, offer)
        await call.says(VOICE)
        await call.until(lambda: is_heard(call.heard_pcm()))
        assert is_heard(b"".join(frame.payload for frame in worker.frames))
        await call.hang_up()
        ended = await here.event(CallEnded)
        assert ended.termination.reason is Reason.CALLEE_HUNG_UP
        assert [type(event).__name__ for event in here.events] == [
            "CallOffered", "CallClaimed", "CallRinging", "CallAnswered", "CallEnded",
        ]  # fmt: skip


async def test_nobody_is_called_before_the_agent_is_ready(server):
    async with world(server) as here:
        worker = await here.worker(on_offer=accept_unready)
        assert (await here.originate()).ok
        await worker.offers.get()
        await asyncio.sleep(0.1)
        assert here.twilio.api_requests == []


@pytest.mark.parametrize(
    ("status", "sip", "reason"),
    [
        ("busy", "486", Reason.CALLEE_BUSY),
        ("no-answer", "", Reason.CALLEE_NO_ANSWER),
        ("failed", "404", Reason.NUMBER_INVALID),
        ("failed", "603", Reason.CALLEE_DECLINED),
        ("failed", "503", Reason.TRUNK_FAILED),
        ("canceled", "", Reason.TRUNK_FAILED),
    ],
)
async def test_an_attempt_that_fails_ends_with_its_reason(server, status, sip, reason):
    async with world(server) as here:
        await here.worker()

        async def fails(call) -> None:
            await call.status("ringing")
            await call.status(status, SipResponseCode=sip)

        here.twilio.on_create = fails
        assert (await here.originate()).ok
        assert (await here.event(CallEnded)).termination.reason is reason
        await here.until(lambda: not here.gateway.is_busy)
        assert len(here.of(CallEnded)) == len(here.of(CallRinging)) == 1
        assert here.of(CallAnswered) == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ((400, 21211, "Invalid 'To' Phone Number"), Reason.NUMBER_INVALID),
        ((400, 21215, "Account not authorized to call"), Reason.NUMBER_NOT_ALLOWED),
        ((401, 20003, "Authenticate"), Reason.TRUNK_FAILED),
        ((500, 0, ""), Reason.TRUNK_FAILED),
    ],
)
async def test_a_refusal_of_the_api_ends_the_attempt_with_its_reason(server, error, reason):
    async with world(server) as here:
        await here.worker()
        here.twilio.api_error = error
        assert (await here.originate()).ok
        end = (await here.event(CallEnded)).termination
        assert end.reason is reason
        assert error[2] in end.detail


async def test_an_api_that_cannot_be_reached_ends_the_attempt(server):
    async with world(server, twilio_api_base_url="http://127.0.0.1:9") as here:
        await here.worker()
        assert (await here.originate()).ok
        end = (await here.event(CallEnded)).termination
        assert (end.reason, "cannot be reached" in end.detail) == (Reason.TRUNK_FAILED, True)


async def test_a_ringing_call_that_is_given_up_ends_at_twilio(server):
    async with world(server) as here:
        await here.worker()
        here.twilio.on_create = nothing
        reply = await here.originate()
        call = await dialled(here)
        await call.status("ringing")
        await here.event(CallRinging)
        await here.bus.request(f"v1.default.ctl.{reply.call}.leg", HangUp().to_json(), 1)
        assert (await here.event(CallEnded)).termination.reason is Reason.OPERATOR_HUNG_UP
        await call.until(lambda: call.is_over)
        assert here.twilio.api_requests[-1][1] == {"Status": "completed"}


@pytest.mark.parametrize(
    ("to", "caller", "says"),
    [
        ("+4990012345", None, "special-rate"),
        ("+33142685300", None, "may not be called"),
        ("+49301111111", "+4930777", "none of TWILIO_FROM"),
    ],
)
async def test_what_may_not_be_called_is_refused_with_a_sentence(server, to, caller, says):
    async with world(server) as here:
        await here.worker()
        reply = await here.originate(to, caller=caller)
        assert not reply.ok
        assert says in reply.error
        assert (await here.event(CallEnded)).termination.reason is Reason.NUMBER_NOT_ALLOWED
        assert here.of(CallOffered)[0].direction == "outbound"
        assert here.twilio.api_requests == []


async def test_without_a_number_of_ours_nobody_is_called(server):
    async with world(server, twilio_from="") as here:
        await here.worker()
        reply = await here.originate()
        assert (reply.ok, reply.reason) == (False, Reason.TRUNK_FAILED)


async def test_a_callee_whose_stream_never_comes_is_hung_up_on_our_side(server, monkeypatch):
    monkeypatch.setattr("services.twilio_gateway.call.STREAM_WITHIN_S", 0.2)
    async with world(server) as here:
        await here.worker()
        here.twilio.on_create = lambda call: call.status("in-progress")
        assert (await here.originate()).ok
        end = (await here.event(CallEnded)).termination
        assert (end.reason, end.detail) == (Reason.CALLEE_HUNG_UP, "no media stream came")


async def test_a_stream_that_is_faster_than_the_answers_of_the_api_is_let_in(server):
    async with world(server) as here:
        await here.worker()

        async def stream_first(call) -> None:
            call.follow(call.twiml)

        here.twilio.on_create = stream_first
        assert (await here.originate()).ok
        await here.event(CallAnswered)
        call = await dialled(here)
        await call.until(lambda: call.marks)
        await call.status("in-progress")
        await call.hang_up()
        assert (await here.event(CallEnded)).termination.reason is Reason.CALLEE_HUNG_UP
        assert len(here.of(CallAnswered)) == 1


async def test_placed_calls_count_towards_the_organisations_limit(server):
    limited = OrgConfig(name="default", max_calls=1)
    async with world(server, AGENT, ROUTE, limited) as here:
        await here.worker()
        assert (await here.originate()).ok
        reply = await here.originate()
        assert (reply.ok, reply.reason) == (False, Reason.AT_CAPACITY)
