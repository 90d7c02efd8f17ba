"""Kamailio as the provider: the gateway registers with digest and takes the calls that the provider sends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tenacity import AsyncRetrying, retry_if_result, stop_after_delay, wait_fixed

from libs.audio.tone import tone
from libs.contracts.config import RouteConfig
from libs.contracts.events import CallEnded, CallOffered
from libs.contracts.termination import Reason
from libs.softphone.call import CallRejected
from libs.softphone.phone import Softphone
from tests.support.kamailio import Provider
from tests.support.platform import ECHO_AGENT, Platform, platform

pytestmark = [pytest.mark.peer, pytest.mark.timeout(60)]

USER, PASSWORD = "1234567t0", "geheim"
NUMBER = "+493012345678"


@pytest.fixture(params=["MD5", "SHA-256"])
def provider(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Provider]:
    running = Provider(
        tmp_path, passwords={USER: PASSWORD}, numbers={NUMBER: USER}, trunks=(NUMBER,), algorithm=request.param
    )
    running.start()
    yield running
    running.stop()


@pytest.fixture
async def running(provider: Provider) -> AsyncIterator[Platform]:
    account = {
        "SIP_SERVER": "127.0.0.1",
        "SIP_PORT": str(provider.port),
        "SIP_USERNAME": USER,
        "SIP_PASSWORD": PASSWORD,
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
