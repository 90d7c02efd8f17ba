"""A recorded call: who said what stands in its channel, and a killed recorder costs less than a second."""

import asyncio
import base64
import signal
from statistics import median

import numpy as np
import pytest
import pytest_asyncio

from libs.audio.compare import best_correlation
from libs.audio.g711 import Law
from libs.audio.tone import tone
from libs.audio.wav import read_wav
from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.commands import Listen, Record
from libs.contracts.config import Fallback, RouteConfig
from libs.contracts.events import CallRecording, RecordingStored
from libs.contracts.termination import Reason
from tests.support.calling import place
from tests.support.platform import platform
from tests.support.speech import sections, the_speech
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MELODY = [[f"tone:{hz}:700" for hz in (440, 660, 550, 880)], ["silence:20"]]
AGENT = AgentConfig(
    name="recorded", backend="scripted", recording="on",
    turn_taking={"interruptible": False}, backend_options={"mode": "talk", "say": MELODY}, greeting="...",
)  # fmt: skip
MESSAGE = base64.b64encode(Law.PCMU.encode(tone(500, 600, 8000))).decode()
VOICEMAIL = Fallback(kind="voicemail", message_ulaw_b64=MESSAGE, max_recording_s=20)
NOBODY = RouteConfig(name="nobody", match=("nobody",), agent="not-there", fallback=VOICEMAIL)
SILENT = AGENT.model_copy(update={"name": "silent", "recording": "off"})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running():
    routes = [RouteConfig(name=agent.name, match=(agent.name,), agent=agent.name) for agent in (AGENT, SILENT)]
    async with platform(documents=[AGENT, SILENT, NOBODY, *routes], recorder=True, store=True) as started:
        yield started


def channels(running, stored):
    wav = read_wav((running.directory / "objects" / stored.key).read_bytes())
    assert wav.channels == 2
    samples = np.frombuffer(wav.pcm, "<i2").reshape(-1, 2)
    return samples[:, 0].tobytes(), samples[:, 1].tobytes()


def likeness(said, recorded):
    """The median over seconds: a stall of a busy machine may cost one of them a frame."""
    return median(best_correlation(section, around)[0] for section, around in sections(said, recorded) if any(section))


async def told(feed, call):
    """What became of the recording, once it is over."""
    await feed.wait_where(CallRecording, lambda event: event.call == call and event.state == "stopped")
    return [event.state for event in feed.of(CallRecording, call)]


async def parts(feed, call, count):
    """What is stored of it, once it is so many parts."""
    await until(lambda: len(feed.of(RecordingStored, call)) >= count)
    return feed.of(RecordingStored, call)


async def test_the_caller_is_left_the_agent_right_and_each_is_whole(running, feed, phone):
    call, mine = await place(running, feed, phone, "recorded")
    await asyncio.sleep(3.2)
    await call.play(the_speech()).wait()
    await call.hang_up()
    [stored] = await parts(feed, mine, 1)
    left, right = channels(running, stored)
    assert stored.is_complete
    assert likeness(the_speech(), left) > 0.99
    assert likeness(bytes(call.heard)[: 2 * 8000 * 3], right) > 0.98
    a, b = (np.frombuffer(side, "<i2").astype(float) for side in (left, right))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.1
    assert await told(feed, mine) == ["started", "stopped"]


async def test_a_killed_recorder_leaves_what_it_heard_and_the_next_one_goes_on(running, feed, phone):
    call, mine = await place(running, feed, phone, "recorded")
    playing = call.play(the_speech())
    await feed.wait_where(CallRecording, lambda event: event.call == mine and event.state == "started")
    began = asyncio.get_running_loop().time()
    await asyncio.sleep(2.5)
    running.signal("recorder", signal.SIGKILL)
    lasted_s = asyncio.get_running_loop().time() - began
    [spooled] = (running.directory / "recordings").glob(f"{mine}*.wav")
    assert read_wav(spooled.read_bytes()).duration_ms / 1000 > lasted_s - 1
    await running.start("recorder")
    await until(lambda: [event.state for event in feed.of(CallRecording, mine)].count("started") == 2)
    await asyncio.sleep(0.5)  # of which it hears something, however long it took to start
    await playing.wait()
    await call.hang_up()
    assert sorted(part.is_complete for part in await parts(feed, mine, 2)) == [False, True]
    assert await told(feed, mine) == ["started", "lost", "started", "stopped"]


async def test_a_call_is_recorded_by_command_and_not_before(running, feed, phone):
    call, mine = await place(running, feed, phone, "silent")
    assert (await running.tell(mine, Record(on=True))).ok
    await feed.wait_where(CallRecording, lambda event: event.call == mine and event.state == "started")
    await asyncio.sleep(0.5)
    assert (await running.tell(mine, Record(on=False))).ok
    stored = await feed.wait_where(RecordingStored, lambda event: event.call == mine)
    assert 200 < stored.duration_ms < 3000
    await call.hang_up()


async def test_a_caller_whom_no_agent_serves_leaves_a_message(running, feed, phone):
    call = await phone.call(running.sip_uri("nobody"), from_user="+4930777001")
    await asyncio.sleep(2.5)
    await call.play(the_speech()).wait()
    await call.hang_up()
    end = await feed.end_of("+4930777001")
    assert end.termination.reason is Reason.UNKNOWN_AGENT
    stored = await feed.wait_where(RecordingStored, lambda event: event.call == end.call)
    left, _ = channels(running, stored)
    assert likeness(the_speech(), left) > 0.95


async def test_whoever_listens_hears_what_the_caller_hears_while_the_lease_lives(running, feed, phone):
    call, mine = await place(running, feed, phone, "silent")
    heard = await running.client.subscribe(subjects.audio("default", "*", "*", mine, "out"))
    reply = await running.tell(mine, Listen(by="tap", lease_s=0.5))
    assert reply.ok
    assert (reply.details["rate_hz"], reply.details["recording"]) == (8000, False)
    await heard.next_msg(timeout=1)
    await asyncio.sleep(1.0)
    count = heard.pending_msgs
    assert 20 <= count <= 32
    await asyncio.sleep(0.3)
    assert heard.pending_msgs == count
    await call.hang_up()
