"""Scanners cost almost nothing: 2,000 requests a second from a stranger beside twenty calls."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from libs.audio.tone import tone
from libs.contracts.events import CallEnded
from libs.softphone.phone import CallOptions, Softphone
from tests.support.platform import ECHO_AGENT, ECHO_ROUTE, EventFeed, Platform, platform

pytestmark = [pytest.mark.peer, pytest.mark.timeout(180)]

CALLS, TALK_MS, RATE = 20, 8000, 2000
STRANGER = "127.0.0.66"
NOISE = 0.001  # of all frames: what two runs on one machine differ by without any flood


@asynccontextmanager
async def scanner(running: Platform) -> AsyncIterator[list[int]]:
    """A process of its own floods for as long as the calls talk; afterwards: sent, received."""
    counted: list[int] = []
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.load.sip_flood", STRANGER, "127.0.0.1", str(running.sip_port),
        str(RATE), str(TALK_MS / 1000 + 1), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield counted
        output, _ = await process.communicate()
        counted += map(int, output.split())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def lost_frames(running: Platform, feed: EventFeed, before: int) -> tuple[int, int]:
    """Twenty calls talk and are echoed: frames lost on either way, and how many there were."""
    async with await Softphone.open() as phone:
        options, uri = CallOptions(sends_silence=False), running.sip_uri("echo")
        calls = await asyncio.gather(*(phone.call(uri, options=options) for _ in range(CALLS)))
        await asyncio.gather(*(call.play(tone(400, TALK_MS, 8000)).wait() for call in calls))
        await asyncio.sleep(0.5)
        await asyncio.gather(*(call.hang_up() for call in calls))
        ended = (await feed.wait_for(CallEnded, before + CALLS))[before:]
    sent = sum(call.packets_sent for call in calls)
    up = sent - sum(end.media.rtp_received for end in ended) + sum(end.media.rtp_late for end in ended)
    down = sum(call.stats.lost for call in calls)
    return up + down, sent + sum(call.stats.packets for call in calls)


async def test_a_flood_from_strangers_costs_running_calls_no_frames():
    async with (
        platform(documents=[ECHO_AGENT, ECHO_ROUTE], environment={"SIP_ALLOWED_SOURCES": "127.0.0.1/32"}) as running,
        running.events() as feed,
    ):
        quiet, frames = await lost_frames(running, feed, 0)
        async with scanner(running) as flood:
            flooded, flooded_frames = await lost_frames(running, feed, CALLS)
        sent, answered = flood
        ignored = await running.metric("sip_gateway", "callbus_sip_events_total", event="source_not_allowed")
        print(f"lost {quiet} of {frames} without, {flooded} of {flooded_frames} beside {sent} requests")
    assert sent >= 0.9 * RATE * TALK_MS / 1000
    assert answered == 0, "a stranger got an answer"
    assert ignored >= 0.9 * sent, "the flood did not reach the gateway"
    assert flooded / flooded_frames <= quiet / frames + NOISE
