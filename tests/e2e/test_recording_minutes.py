"""The two channels of a recording stay together over a real call of two minutes, a failover in it.

How late the echo was, the phone knows as well: what its ear got and the recording must agree.
"""

import asyncio
import signal

import numpy as np
import pytest

from libs.audio.tone import silence, tone
from libs.audio.wav import read_wav
from libs.contracts.events import CallOffered, RecordingStored, WorkerLost
from libs.softphone.phone import Softphone
from tests.support.platform import ECHO_AGENT, ECHO_ROUTE, platform

MINUTES = 2
EVERY_S = 5
RATE_HZ = 8000


def bursts(samples):
    """Where each burst begins, in ms."""
    loud = np.flatnonzero(np.abs(samples.astype(int)) > 4000)
    return loud[np.r_[True, np.diff(loud) > RATE_HZ]] / (RATE_HZ / 1000)


@pytest.mark.minutes
@pytest.mark.timeout(240)
async def test_caller_and_echo_are_as_far_apart_at_the_end_as_at_the_beginning():
    agent = ECHO_AGENT.model_copy(update={"recording": "on"})
    said = (tone(700, 200, RATE_HZ, -9.0) + silence(EVERY_S * 1000 - 200, RATE_HZ)) * (MINUTES * 60 // EVERY_S)
    async with platform(documents=[agent, ECHO_ROUTE], workers=2, recorder=True) as running:
        async with running.events() as feed, await Softphone.open() as phone:
            call = await phone.call(running.sip_uri("echo"))
            playing = call.play(silence(1000, RATE_HZ) + said)
            await asyncio.sleep(MINUTES * 60 / 2 + 3)
            assert len(feed.of(CallOffered)) == 1
            for worker in running.workers:
                if "session begins" in running.log(worker):
                    running.signal(worker, signal.SIGKILL)
            await feed.wait_for(WorkerLost)
            await playing.wait()
            await call.hang_up()
            [stored] = await feed.wait_for(RecordingStored)
        wav = read_wav((running.directory / "objects" / stored.key).read_bytes())
    left, right = np.frombuffer(wav.pcm, "<i2").reshape(-1, 2).T
    caller, echo = bursts(left), bursts(right)
    assert len(caller) == MINUTES * 60 // EVERY_S
    at_the_ear = bursts(np.frombuffer(bytes(call.heard), "<i2"))
    assert len(caller) - 1 <= len(echo) == len(at_the_ear)  # the failover may cost one
    recorded_ms = np.array([at - caller[np.abs(caller - at).argmin()] for at in echo])
    true_ms = at_the_ear - np.round((at_the_ear - at_the_ear[0]) / (EVERY_S * 1000)) * EVERY_S * 1000
    off_ms = (recorded_ms - np.median(recorded_ms)) - (true_ms - np.median(true_ms))
    print(f"recorded {np.median(recorded_ms):.1f} ms apart; off by {off_ms.min():.1f} to {off_ms.max():.1f} ms")
    assert 0 <= np.median(recorded_ms) <= 150  # the echo's own way
    assert np.quantile(np.abs(off_ms), 0.9) <= 20  # a stalled machine delays the phone's own packets, too
