"""More workers, more calls: the load spreads evenly, and a worker that is drained drops nobody."""

import asyncio
import signal

import pytest

from libs.contracts.agent import AgentConfig
from libs.contracts.config import RouteConfig
from libs.contracts.events import CallClaimed, CallEnded
from libs.contracts.termination import Result
from libs.softphone.phone import Softphone
from tests.support.platform import platform

AGENT = AgentConfig(name="quiet", backend="scripted", backend_options={"mode": "talk", "say": []})
ROUTE = RouteConfig(name="quiet", match=("quiet",), agent="quiet")
APART_S = 0.2


@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [1, 2, 4])
async def test_the_load_spreads_within_one_call_of_even_and_a_drained_worker_drops_nobody(workers):
    count = 3 * workers + 1
    async with (
        platform(documents=[AGENT, ROUTE], workers=workers) as running,
        running.events() as feed,
        await Softphone.open() as phone,
    ):
        calls = []
        for _ in range(count):
            calls.append(await phone.call(running.sip_uri("quiet")))
            await asyncio.sleep(APART_S)
        owners = {claim.call: claim.wk for claim in await feed.wait_for(CallClaimed, count)}
        shares = [list(owners.values()).count(wk) for wk in set(owners.values())]
        assert len(shares) == workers
        assert max(shares) - min(shares) <= 1
        if workers > 1:
            await drain_one(running, feed, owners)
        assert feed.of(CallEnded) == []
        for call in calls:
            await call.hang_up()
        assert all(end.termination.result is Result.SUCCESS for end in await feed.wait_for(CallEnded, count))


async def drain_one(running, feed, owners):
    """SIGTERM to one worker: its calls go to the others, and it ends with 0."""
    leaving = running.workers[0]
    [wk] = {wk for wk in owners.values() if wk in running.log(leaving)}
    running.signal(leaving, signal.SIGTERM)
    its = {call for call, owner in owners.items() if owner == wk}
    claims = await feed.wait_for(CallClaimed, len(owners) + len(its))
    assert {claim.call for claim in claims[len(owners) :]} == its
    assert wk not in {claim.wk for claim in claims[len(owners) :]}
    async with asyncio.timeout(10):
        assert await running.supervisor._processes[leaving].wait() == 0
