"""Kamailio as the provider: the gateway registers with digest and takes the calls that the provider sends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tenacity import AsyncRetrying, retry_if_result, stop_after_delay, wait_fixed

from libs.audio.compare import best_correlation
from libs.audio.g711 import Law
from libs.audio.tone import tone
from libs.contracts import subjects
from libs.contracts.commands import HangUp
from libs.contracts.config import RouteConfig
from libs.contracts.events import CallAnswered, CallEnded, CallOffered, CallRinging
from libs.contracts.originate import Originate, OriginateReply
from libs.contracts.termination import Reason
from libs.sip.events import IncomingCall
from libs.softphone.call import CallRejected
from libs.softphone.phone import Softphone
from tests.support.kamailio import FAR_END, Provider
from tests.support.platform import ECHO_AGENT, Platform, platform
from tests.unit.sip_gateway.far_end import Cancelled, FarEnd, answering, refusing, ringing

pytestmark = [pytest.mark.peer, pytest.mark.timeout(60)]

USER, PASSWORD = "1234567t0", "geheim"
NUMBER = "+493012345678"
PICKS_UP, BUSY, NOT_THERE = FAR_END + "1", FAR_END + "2", FAR_END + "3"


@pytest.fixture(params=["MD5", "SHA-256"])
def provider(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Provider]:
    running = Provider(
        tmp_path, passwords={USER: PASSWORD}, numbers={NUMBER: USER}, trunks=(NUMBER,), algorithm=request.param
    )
    running.start()
    yield running
    running.stop()


@pytest.fixture
async def network(provider: Provider) -> AsyncIterator[FarEnd]:
    """The telephone network behind the provider: some pick up, some are busy, some let it ring."""

    def script(far: FarEnd, call: IncomingCall) -> None:
        {PICKS_UP: answering, BUSY: refusing(486), NOT_THERE: ringing}[call.request_uri.user](far, call)

    async with await FarEnd.open(script, port=provider.far_end_port) as far:
        yield far


@pytest.fixture
async def running(provider: Provider) -> AsyncIterator[Platform]:
    account = {
        "SIP_SERVER": "127.0.0.1",
        "SIP_PORT": str(provider.port),
        "SIP_USERNAME": USER,
        "SIP_PASSWORD": PASSWORD,
        "SIP_CALLER": NUMBER,
    }
    route = RouteConfig(name="trunk", match=(NUMBER,), agent="echo")
    async with platform(documents=[ECHO_AGENT, route], environment=account) as started:
        yield started


async def registered(running: Platform) -> None:
    waiting = AsyncRetrying(stop=stop_after_delay(20), wait=wait_fixed(0.1), retry=retry_if_result(lambda v: v != 1))
    await waiting(running.metric, "sip_gateway", "callbus_trunk_state", trunk="default", state="registered")


async def test_a_call_to_the_trunk_reaches_the_agent_of_the_dialled_number(
    running: Platform, provider: Provider
) -> None:
    await registered(running)
    async with await Softphone.open() as phone, running.events() as feed:
        call = await phone.call(f"sip:{NUMBER}@127.0.0.1:{provider.port}", from_user="+4989123456")
        call.play(tone(1000, 1000, 8000))
        await call.wait_for_speech()
        await call.hang_up()
        ended = (await feed.wait_for(CallEnded))[0]
        offered = feed.of(CallOffered)[0]
        assert (offered.callee, offered.caller, offered.route) == (NUMBER, "+4989123456", "trunk")
        assert ended.termination.reason is Reason.CALLER_HUNG_UP


async def test_the_gateway_takes_its_registration_back_when_it_ends(running: Platform, provider: Provider) -> None:
    await registered(running)
    running.signal("sip_gateway", signal.SIGTERM)
    async with await Softphone.open() as phone:
        for _ in range(50):
            try:
                call = await phone.call(f"sip:{NUMBER}@127.0.0.1:{provider.port}", timeout_s=2)
            except CallRejected as rejected:
                if rejected.status == 404:
                    return
            else:
                await call.hang_up()
            await asyncio.sleep(0.1)
    pytest.fail("the provider still knows us")


# -- outbound ---------------------------------------------------------------------------------------------------


async def originate(running: Platform, to: str, ring_timeout_s: float = 30) -> str:
    request = Originate(to=to, agent="echo", ring_timeout_s=ring_timeout_s)
    answer = await running.client.request(subjects.originate("default", "sip"), request.to_json(), 5)
    reply = OriginateReply.model_validate_json(answer.data)
    assert reply.ok, reply.error
    return reply.call


async def test_a_call_through_the_trunk_is_answered_and_both_hear_each_other(
    running: Platform, network: FarEnd
) -> None:
    await registered(running)
    voice = tone(440, 600, 8000)
    async with running.events() as feed:
        await originate(running, PICKS_UP)
        call = await network.call()
        assert call.from_uri.user == NUMBER
        await feed.wait_for(CallAnswered)
        await network.speak(call, voice, Law.PCMA)
        heard = b""
        async with asyncio.timeout(5):
            while best_correlation(voice[:3200], heard)[0] < 0.9:
                await asyncio.sleep(0.1)
                heard += b"".join(Law.PCMA.decode(p.payload) for p in network.packets(call) if p.payload_type == 8)
        network.bye(call)
        ended = (await feed.wait_for(CallEnded))[0]
        assert ended.termination.reason is Reason.CALLEE_HUNG_UP


async def test_a_busy_callee_is_the_calls_end(running: Platform, network: FarEnd) -> None:
    await registered(running)
    async with running.events() as feed:
        await originate(running, BUSY)
        assert (await feed.wait_for(CallEnded))[0].termination.reason is Reason.CALLEE_BUSY


async def test_nobody_answers(running: Platform, network: FarEnd) -> None:
    await registered(running)
    async with running.events() as feed:
        await originate(running, NOT_THERE, ring_timeout_s=1.5)
        await feed.wait_for(CallRinging)
        await network.event(Cancelled)
        assert (await feed.wait_for(CallEnded))[0].termination.reason is Reason.CALLEE_NO_ANSWER


async def test_a_call_that_is_given_up_while_it_rings_is_cancelled(running: Platform, network: FarEnd) -> None:
    await registered(running)
    async with running.events() as feed:
        call = await originate(running, NOT_THERE)
        await feed.wait_for(CallRinging)
        await running.client.request(subjects.control("default", call, "leg"), HangUp().to_json(), 2)
        await network.event(Cancelled)
        assert (await feed.wait_for(CallEnded))[0].termination.reason is Reason.OPERATOR_HUNG_UP
