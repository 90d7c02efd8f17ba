"""One ticker serves all calls: it runs while there are any, and never makes up for slots that it missed."""

import asyncio
import time

import pytest

from services.sip_gateway.ticker import SLOT_S, Ticker
from tests.unit.sip_gateway.media import udp


class Session:
    """What the ticker needs of a call."""

    def __init__(self, on_tick=None) -> None:
        self.sock = udp()
        self.rtcp = udp()
        self.fileno, self.rtcp_fileno = self.sock.fileno(), self.rtcp.fileno()
        self.reads, self.rtcp_reads, self.ticks = 0, 0, 0
        self.finished_at = None
        self._on_tick = on_tick
        self.ticked = asyncio.Event()

    def read(self, now: float) -> None:
        self.reads += 1
        self.sock.recv(2048)

    def read_rtcp(self, now: float) -> None:
        self.rtcp_reads += 1
        self.rtcp.recv(2048)

    def finish(self, now: float) -> None:
        self.finished_at = now

    def close(self) -> None:
        self.sock.close()
        self.rtcp.close()

    def tick(self, now: float) -> None:
        self.ticks += 1
        self.ticked.set()
        if self._on_tick:
            self._on_tick()


@pytest.fixture
async def ticker():
    lateness = []
    failed = []
    ticker = Ticker(lambda late, now: lateness.append(late), failed.append)
    ticker.lateness, ticker.failed = lateness, failed
    yield ticker
    ticker.close()


async def test_sockets_are_read_only_when_something_came_and_every_call_is_ticked(ticker):
    quiet, busy = Session(), Session()
    ticker.add(quiet)
    ticker.add(busy)
    busy.sock.sendto(b"x", busy.sock.getsockname())
    await busy.ticked.wait()
    await quiet.ticked.wait()
    assert (quiet.reads, busy.reads, busy.rtcp_reads) == (0, 1, 0)
    busy.ticked.clear()
    busy.rtcp.sendto(b"x", busy.rtcp.getsockname())
    await busy.ticked.wait()
    assert (quiet.rtcp_reads, busy.reads, busy.rtcp_reads) == (0, 1, 1)
    assert busy.finished_at is None
    ticker.remove(quiet)
    ticker.remove(busy)
    assert busy.finished_at is not None
    quiet.close()
    busy.close()


async def test_it_stands_still_without_calls_and_starts_again(ticker):
    session = Session()
    ticker.add(session)
    await session.ticked.wait()
    ticker.remove(session)
    await asyncio.sleep(4 * SLOT_S)
    slots = ticker.slots
    await asyncio.sleep(4 * SLOT_S)
    assert ticker.slots == slots
    session.ticked.clear()
    ticker.add(session)
    await asyncio.wait_for(session.ticked.wait(), 1)
    ticker.remove(session)
    session.close()


async def test_a_call_may_end_within_a_slot(ticker):
    first = Session(lambda: ticker.remove(first))
    second = Session()
    ticker.add(first)
    ticker.add(second)
    async with asyncio.timeout(1):
        while second.ticks < 3:
            second.ticked.clear()
            await second.ticked.wait()
    assert first.ticks == 1
    ticker.remove(second)
    first.close()
    second.close()


async def test_a_stall_is_reported_and_its_slots_are_not_made_up(ticker):
    session = Session()
    ticker.add(session)
    await session.ticked.wait()
    before = session.ticks
    time.sleep(0.15)  # noqa: ASYNC251  the stall under test
    session.ticked.clear()
    await session.ticked.wait()
    await asyncio.sleep(0)
    assert session.ticks == before + 1
    assert max(ticker.lateness) > 0.12
    ticker.remove(session)
    session.close()


@pytest.mark.parametrize("where", ["read", "tick"])
async def test_one_call_that_fails_is_dropped_and_the_others_go_on(ticker, where):
    def fail(*_):
        raise ZeroDivisionError("a defect in one call")

    broken, healthy = Session(), Session()
    setattr(broken, where, fail)
    ticker.add(broken)
    ticker.add(healthy)
    broken.sock.sendto(b"x", broken.sock.getsockname())
    async with asyncio.timeout(1):
        while healthy.ticks < 3:
            healthy.ticked.clear()
            await healthy.ticked.wait()
    assert ticker.failed == [broken]
    ticker.remove(healthy)
    broken.close()
    healthy.close()
