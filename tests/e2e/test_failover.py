"""Promises 1, 2 and 4: a call outlives its worker and the bus, and nothing stale is ever heard.

The caller whistles a melody in which each moment has its own pitch, the agent echoes it; so every frame that
is heard tells when it was said.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import numpy as np
import pytest

from libs.audio.g711 import Law
from libs.audio.rtp import RtpPacket
from libs.audio.tone import tone
from libs.contracts.events import CallAnswered, CallClaimed, CallEnded, WorkerLost
from libs.contracts.heartbeat import CallEntry
from libs.contracts.subjects import KV_CALLS
from libs.contracts.termination import Reason
from libs.runtime.streams import bucket
from libs.softphone.call import CallOptions, PhoneCall
from libs.softphone.phone import Softphone
from tests.support.platform import ECHO_AGENT, ECHO_ROUTE, EventFeed, Platform, platform

STEP_MS = 100
STEPS = 48
LOWEST_HZ, SPACING_HZ = 500, 50
LOOP_S = STEPS * STEP_MS / 1000
MELODY = b"".join(tone(LOWEST_HZ + SPACING_HZ * step, STEP_MS, 8000, -12) for step in range(STEPS))
FRESH_S = 0.7  # an echo older than this was said before the trouble; all that a phone, a bus and a worker may hold
LEAST_HEARD_FRAMES = 40


class Listener:
    """When each heard frame was said, by its pitch: ages in seconds, in the order of arrival."""

    def __init__(self) -> None:
        self.started_at: float | None = None
        self.heard: list[tuple[float, float]] = []  # (arrived at, age)

    def take(self, data: bytes, arrived_at: float) -> None:
        """From the softphone, for each datagram."""
        if self.started_at is None:
            return
        samples = np.frombuffer(Law.PCMU.decode(RtpPacket.parse(data).payload), "<i2").astype(float)
        if len(samples) < 160 or np.sqrt(np.mean(samples**2)) < 1000:
            return
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 8000 // 5))
        step = round((np.argmax(spectrum) * 5 - LOWEST_HZ) / SPACING_HZ)
        if 0 <= step < STEPS:
            said_at = (arrived_at - self.started_at) % LOOP_S
            self.heard.append((arrived_at, (said_at - step * STEP_MS / 1000) % LOOP_S))

    def ages_after(self, moment: float) -> list[float]:
        """Ages of what arrived after `moment`. A pitch read one step too high looks a loop old: that is fresh."""
        return [0.0 if age > LOOP_S - 0.2 else age for arrived_at, age in self.heard if arrived_at > moment]


@pytest.fixture
async def running() -> AsyncIterator[Platform]:
    async with platform(documents=[ECHO_AGENT, ECHO_ROUTE], workers=2) as started:
        yield started


async def owner(running: Platform) -> str:
    """Process name of the worker that has the only call."""
    store = await bucket(running.client.jetstream(), KV_CALLS)
    entry = await store.get((await store.keys())[0])
    assert entry.value is not None
    wk = CallEntry.model_validate_json(entry.value).wk
    for name in running.workers:
        if str(wk) in await running.get(name, "/healthz"):
            return name
    raise AssertionError(f"{wk} is none of ours")


async def whistle(running: Platform, phone: Softphone, feed: EventFeed) -> tuple[PhoneCall, Listener]:
    """A call in which the melody is heard back."""
    listener = Listener()
    call = await phone.call(running.sip_uri("echo"), options=CallOptions(on_packet=listener.take))
    await feed.wait_for(CallAnswered)
    handle = call.play(MELODY * 6)
    await handle.started.wait()
    listener.started_at = handle.started_at
    await call.wait_for_speech()
    await asyncio.sleep(1)  # let it be a conversation: the passage of time is what is tested here
    return call, listener


def assert_fresh(listener: Listener, since: float) -> None:
    ages = listener.ages_after(since)
    assert len(ages) >= LEAST_HEARD_FRAMES, f"only {len(ages)} frames of the melody were heard again"
    stale = [round(age, 2) for age in ages if age > FRESH_S]
    assert not stale, f"{len(stale)} of {len(ages)} frames were stale: {stale[:10]}"


async def end(call: PhoneCall, feed: EventFeed) -> CallEnded:
    await call.hang_up()
    ended = (await feed.wait_for(CallEnded))[0]
    assert ended.termination.reason is Reason.CALLER_HUNG_UP
    return ended


async def test_a_killed_worker_is_replaced_and_the_caller_stays(running: Platform) -> None:
    async with await Softphone.open() as phone, running.events() as feed:
        call, listener = await whistle(running, phone, feed)
        struck_at = asyncio.get_running_loop().time()
        running.signal(await owner(running), signal.SIGKILL)
        await feed.wait_for(CallClaimed, 2)
        await asyncio.sleep(2)
        assert_fresh(listener, struck_at)
        lost = feed.of(WorkerLost)
        assert [event.cause for event in lost] == ["gone"]
        assert feed.of(CallClaimed)[1].epoch == 2
        ended = await end(call, feed)
        assert ended.media.rtp_lost == 0
        assert len(feed.of(CallEnded)) == 1


async def test_a_frozen_worker_is_replaced_and_says_nothing_when_it_thaws(running: Platform) -> None:
    async with await Softphone.open() as phone, running.events() as feed:
        call, listener = await whistle(running, phone, feed)
        name = await owner(running)
        struck_at = asyncio.get_running_loop().time()
        running.signal(name, signal.SIGSTOP)
        try:
            await feed.wait_for(CallClaimed, 2)
            await asyncio.sleep(1.5)
        finally:
            running.signal(name, signal.SIGCONT)
        await asyncio.sleep(1.5)
        assert_fresh(listener, struck_at)
        assert [event.cause for event in feed.of(WorkerLost)] == ["silent"]
        assert len(feed.of(CallClaimed)) == 2, "the thawed worker must not get the call back"
        await end(call, feed)
        assert await running.metric(name, "callbus_sessions") == 0


async def test_a_restart_of_the_bus_fails_no_call_over_and_bursts_nothing(running: Platform) -> None:
    async with await Softphone.open() as phone, running.events() as feed:
        call, listener = await whistle(running, phone, feed)
        running.signal("nats-server", signal.SIGKILL)
        await asyncio.sleep(0.5)
        await running.start("nats-server")
        back_at = asyncio.get_running_loop().time()
        await asyncio.sleep(2.5)
        assert_fresh(listener, back_at)
        await call.hang_up()
    async with running.events() as feed:  # read again from the start: the stream survived
        await feed.wait_for(CallEnded)
        assert feed.of(WorkerLost) == []
        assert len(feed.of(CallClaimed)) == 1


async def test_a_draining_worker_hands_its_call_over_and_exits(running: Platform) -> None:
    async with await Softphone.open() as phone, running.events() as feed:
        call, listener = await whistle(running, phone, feed)
        name = await owner(running)
        pid = running.pid(name)
        struck_at = asyncio.get_running_loop().time()
        running.signal(name, signal.SIGTERM)
        await feed.wait_for(CallClaimed, 2)
        await asyncio.sleep(1.5)
        assert_fresh(listener, struck_at)
        assert [event.cause for event in feed.of(WorkerLost)] == ["drain"]
        await end(call, feed)
        assert pid


async def test_a_broker_that_hangs_condemns_nobody_and_the_call_goes_on(running: Platform) -> None:
    async with await Softphone.open() as phone, running.events() as feed:
        call, listener = await whistle(running, phone, feed)
        running.signal("nats-server", signal.SIGSTOP)
        try:
            await asyncio.sleep(1)
        finally:
            running.signal("nats-server", signal.SIGCONT)
        back_at = asyncio.get_running_loop().time()
        await asyncio.sleep(2)
        assert feed.of(WorkerLost) == []
        assert len(listener.ages_after(back_at)) >= LEAST_HEARD_FRAMES
        await end(call, feed)
