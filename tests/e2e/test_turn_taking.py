"""Turn-taking as the caller hears it: real processes, recorded speech, the model's own record of what it was told."""

import asyncio
import time

import numpy as np
import pytest
import pytest_asyncio

from libs.audio.wav import read_wav
from libs.contracts.agent import AgentConfig, TurnTaking
from libs.contracts.commands import Mute
from libs.contracts.events import AgentTurn, CallerTurn, CallOffered
from libs.softphone.phone import Softphone
from tests.load.interruptions import (
    CLIPS,
    MODES,
    SCENARIO,
    SILENT_WITHIN_MS,
    TOLD_WITHIN_MS,
    measure,
    talkative_platform,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

GREETING = "Guten Tag, hier ist der Probebetrieb. Was kann ich für Sie tun?"
MUTED_WITHIN_MS = 40.0
MACHINE_MS = 25.0  # what a busy machine may add


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running():
    scenario = SCENARIO | {
        "name": "back-channel",
        "greeting": GREETING,
        "turns": [{"caller": "Mhm.", "answer": "Gern."}],
    }
    listener = AgentConfig(
        name="back-channel",
        greeting=GREETING,
        prompt="[scenario: back-channel]",
        turn_taking=TurnTaking(barge_in="local"),
    )
    async with talkative_platform(scenario, more=[listener]) as started:
        yield started


async def test_an_interrupted_agent_is_silent_at_once_and_the_model_knows_what_was_heard(running):
    both = await asyncio.gather(*(measure(*running, mode, calls=3, times=2, seed=7) for mode in MODES))
    for found in both:
        assert len(found) >= 6
        assert max(one.error_ms for one in found) <= TOLD_WITHIN_MS, found
        silent = sorted(one.silent_after_ms for one in found if one.silent_after_ms is not None)
        assert silent[len(silent) // 2] <= SILENT_WITHIN_MS, found
        assert silent[-1] <= 2 * SILENT_WITHIN_MS, found  # the machine is busy


async def test_a_back_channel_stops_the_voice_for_a_moment_and_every_word_is_heard(running):
    platform, _ = running
    clip = read_wav(next(iter(sorted(CLIPS.glob("*.wav")))).read_bytes()).pcm
    async with platform.events() as feed, await Softphone.open() as phone:
        call = await phone.call(platform.sip_uri("back-channel"), from_user="+49305559001")
        await call.wait_for_speech()
        await asyncio.sleep(0.7)
        await call.play(clip[: 2 * 8 * 400]).wait()
        said = await feed.wait_where(CallerTurn, lambda turn: turn.text == "Mhm.")
        heard = await feed.wait_where(AgentTurn, lambda turn: turn.call == said.call)
        await call.hang_up()
    assert (heard.interrupted, heard.heard_ms) == (False, heard.audio_ms)
    assert heard.text == heard.heard_text == GREETING
    stopped = heard.at - said.at
    assert stopped.total_seconds() > 1  # most of it came after the interruption that was none
    assert len(feed.of(AgentTurn, said.call)) == 1  # and nobody answers a "mhm"


async def test_a_muted_agent_is_silent_within_two_frames_and_goes_on_unheard(running):
    platform, _ = running
    async with platform.events() as feed, await Softphone.open() as phone:
        call = await phone.call(platform.sip_uri("server"), from_user="+49305559002")
        await call.wait_for_speech()
        offered = await feed.wait_where(CallOffered, lambda event: event.caller == "+49305559002")
        await asyncio.sleep(0.5)
        assert (await platform.tell(offered.call, Mute(muted=True))).ok
        muted_at = time.monotonic()
        await asyncio.sleep(0.6)
        assert (await platform.tell(offered.call, Mute(muted=False))).ok
        await call.wait_for_speech()
        await call.hang_up()
    pcm = np.frombuffer(call.heard, "<i2").astype(np.int32)
    loud_at = [
        packet.arrived_at + 0.02
        for packet in call.heard_positions
        if np.abs(pcm[packet.position_samples : packet.position_samples + packet.samples]).max() > 300
    ]
    last_before = max(at for at in loud_at if at < muted_at + 0.3)
    assert (last_before - muted_at) * 1000 <= MUTED_WITHIN_MS + MACHINE_MS
