"""What a SIP stack must do beyond a call that goes well; for the two stacks of the SIP gateway."""

from __future__ import annotations

import asyncio
import re

import pytest

from libs.contracts.commands import Transfer
from libs.contracts.events import CallAnswered, CallEnded
from libs.contracts.originate import Originate
from libs.contracts.termination import Reason
from libs.sip.sdp import Direction
from tests.conformance.conftest import DRIVERS, made
from tests.conformance.test_calls import answered, placed
from tests.conformance.world import world
from tests.support.fake_worker import accept_unready

STRANGER = "127.0.0.66"


@pytest.fixture(params=[name for name in DRIVERS if name in ("sip", "pyvoip")])
def driver(request):
    """The stacks of the SIP gateway alone."""
    return made(request)


class Line(asyncio.DatagramProtocol):
    """A peer that says exactly what the test wants."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self._changed = asyncio.Event()

    @classmethod
    async def open(cls, host: str = "127.0.0.1") -> Line:
        transport, line = await asyncio.get_running_loop().create_datagram_endpoint(cls, (host, 0))
        line.transport, line.address = transport, transport.get_extra_info("sockname")
        return line

    async def __aenter__(self) -> Line:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.transport.close()

    def datagram_received(self, data: bytes, addr) -> None:
        self.received.append(data.decode())
        self._changed.set()

    async def until(self, count: int, pattern: str, limit_s: float = 8.0) -> list[str]:
        async with asyncio.timeout(limit_s):
            while len(found := [text for text in self.received if re.search(pattern, text)]) < count:
                self._changed.clear()
                await self._changed.wait()
        return found

    def request(
        self, method: str, target: tuple[str, int], *, call: str = "c1", sdp: str = "", to_tag: str = ""
    ) -> None:
        host, port = self.address
        body = sdp and sdp.format(host=host)
        lines = [
            f"{method} sip:bestellung@{target[0]}:{target[1]} SIP/2.0",
            f"Via: SIP/2.0/UDP {host}:{port};branch=z9hG4bK{call}{method};rport",
            "Max-Forwards: 70",
            f"From: <sip:+4930123456@{host}>;tag=far",
            f"To: <sip:bestellung@{target[0]}>{to_tag}",
            f"Call-ID: {call}@{host}",
            f"CSeq: 1 {method}",
            f"Contact: <sip:far@{host}:{port}>",
            *(["Content-Type: application/sdp"] if body else []),
            f"Content-Length: {len(body)}",
        ]
        self.transport.sendto(("\r\n".join(lines) + "\r\n\r\n" + body).encode(), target)


PCMU = "v=0\r\no=- 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\n"
PCMU += "m=audio 40000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
G729 = PCMU.replace("AVP 0", "AVP 18").replace("0 PCMU", "18 G729")


async def test_options_are_answered(server, driver):
    async with world(server, driver), await Line.open() as line:
        line.request("OPTIONS", driver.sip_address)
        assert (await line.until(1, "^SIP/2.0 200"))[0]


async def test_only_unknown_codecs_get_488(server, driver):
    async with world(server, driver) as here, await Line.open() as line:
        await here.worker()
        line.request("INVITE", driver.sip_address, sdp=G729)
        await line.until(1, "^SIP/2.0 488")


async def test_an_invite_that_comes_three_times_is_one_call(server, driver):
    async with world(server, driver) as here, await Line.open() as line:
        worker = await here.worker(on_offer=accept_unready)
        for _ in range(3):
            line.request("INVITE", driver.sip_address, sdp=PCMU)
        await asyncio.wait_for(worker.offers.get(), 10)
        await line.until(1, "^SIP/2.0 180")
        assert len(here.legs) == 1
        assert worker.offers.empty()


async def test_an_answer_without_ack_is_repeated(server, driver):
    async with world(server, driver) as here, await Line.open() as line:
        await here.worker()
        line.request("INVITE", driver.sip_address, sdp=PCMU)
        await line.until(3, "^SIP/2.0 200")


async def test_a_bye_for_an_unknown_call_gets_481(server, driver):
    async with world(server, driver), await Line.open() as line:
        line.request("BYE", driver.sip_address, call="unknown", to_tag=";tag=x")
        await line.until(1, "^SIP/2.0 481")


async def test_a_held_caller_is_told_recvonly(server, driver):
    async with world(server, driver) as here:
        _, far, _ = await answered(here, driver)
        assert await far.holds(True) is Direction.SENDONLY  # the caller's own, after our recvonly
        await here.until(lambda: any(leg.leg.held for leg in here.legs._calls.values()))
        assert await far.holds(False) is Direction.SENDRECV
        await far.hangs_up()


async def test_a_stranger_gets_no_answer_at_all(server, driver):
    async with world(server, driver), await Line.open(STRANGER) as stranger, await Line.open() as friend:
        stranger.request("OPTIONS", driver.sip_address)
        friend.request("OPTIONS", driver.sip_address)
        await friend.until(1, "^SIP/2.0 200")
        assert stranger.received == []


async def test_the_first_invite_is_repeated_when_it_is_lost(server, driver):
    async with world(server, driver) as here:
        await here.worker()
        number = await driver.callee("answers")
        driver.side.loses = 1
        assert (await here.originate("sip", Originate(to=number, agent="bestellung", ring_timeout_s=20))).ok
        await here.event(CallAnswered)


async def test_a_provider_that_says_nothing_holds_up_no_other_call(server, driver):
    async with world(server, driver) as here:
        worker = await here.worker()
        number = await driver.callee("answers")
        driver.side.loses = 100
        assert (await here.originate("sip", Originate(to=number, agent="bestellung", ring_timeout_s=20))).ok
        await asyncio.wait_for(worker.offers.get(), 10)
        async with asyncio.timeout(2):
            far = await driver.dials("bestellung")
            await far.wait_answered()
        await far.hangs_up()


async def test_a_call_is_transferred_by_refer(server, driver):
    async with world(server, driver) as here:
        _, offer = await placed(here, driver, "answers")
        await driver.picked_up()
        await here.event(CallAnswered)
        reply = await here.command(offer.call, Transfer(target="+49307654321", mode="refer"))
        assert reply.ok, reply.error
        assert (await here.event(CallEnded)).termination.reason is Reason.TRANSFERRED
