"""Calls at 16 kHz (browser, G.722): the model's 24 kHz both ways, ledger and turns in the call's samples."""

import asyncio

from libs.audio.compare import best_correlation
from libs.audio.tone import tone
from libs.contracts.agent import AgentConfig
from libs.contracts.frame import Codec
from libs.contracts.offer import CallState
from services.ai_session.backends.wire_audio import WireAudio
from tests.support.fake_leg import FakeLeg
from tests.unit.ai_session.conftest import ended, gateway, running_worker
from tests.unit.ai_session.test_realtime import a_call, events_of, of_kind

WIDEBAND = CallState(codec="L16", rate_hz=16000)
SPEECH = tone(300, 400, 16000, -15)


def test_a_wideband_calls_audio_goes_to_24_khz_and_back():
    audio = WireAudio("audio/pcm", 16000)
    sound = tone(1000, 400, 16000)
    frames = [audio.encode(sound[at : at + 640]) for at in range(0, len(sound), 640)]
    assert {len(frame) for frame in frames} == {960}  # 20 ms at 24 kHz, every time
    back = b"".join(audio.decode(frame) for frame in frames)
    assert len(back) == len(sound)
    assert best_correlation(sound[640:-1280], back)[0] > 0.999


def test_what_an_interrupted_response_left_over_is_not_in_the_next_one():
    audio, fresh = WireAudio("audio/pcm", 16000), WireAudio("audio/pcm", 16000)
    audio.decode(tone(440, 100, 24000)[:-1])
    audio.begin_response()
    sound = tone(700, 100, 24000)
    assert audio.decode(sound) == fresh.decode(sound)


async def test_a_wideband_call_speaks_with_the_realtime_model(server):
    async with a_call(server, state=WIDEBAND) as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 16000)  # half a second of greeting
        await leg.run(400, SPEECH)
        await leg.run_until(lambda: len(leg.heard) >= 16000 + 16000)
        await leg.run(200)
        assert {frame.codec for frame in leg.frames} == {Codec.PCM16_16000}
        assert best_correlation(tone(440, 300, 16000), bytes(leg.heard))[0] > 0.99
        events = await events_of(worker, leg)
        assert [event.text for event in of_kind(events, "caller.turn")] == ["Zehn Bögen."]
        greeting = of_kind(events, "agent.turn")[0]
        assert greeting.audio_ms == greeting.heard_ms
        assert 450 < greeting.audio_ms < 550


async def test_a_scripted_agent_talks_and_hears_at_16_khz(server):
    agent = AgentConfig(
        name="talk", backend="scripted", greeting="Guten Tag.",
        backend_options={"mode": "talk", "say": [["text:Guten Tag.", "tone:440:600"], ["text:Ja.", "tone:700:600"]]},
    )  # fmt: skip
    async with running_worker(server.url) as worker, gateway(server.url) as client:
        leg = FakeLeg(client, agent)
        leg.state = WIDEBAND
        await leg.start()
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 2 * 9600)
        await leg.run(300, SPEECH)
        await leg.run_until(lambda: len(leg.heard) >= 4 * 9600)
        assert best_correlation(tone(440, 400, 16000), bytes(leg.heard))[0] > 0.99
        assert best_correlation(tone(700, 400, 16000), bytes(leg.heard))[0] > 0.99
        await leg.release()
        await ended(worker)


async def test_the_echo_returns_16_khz_sample_by_sample(server):
    agent = AgentConfig(name="echo", backend="scripted", backend_options={"mode": "echo"})
    async with running_worker(server.url) as worker, gateway(server.url) as client:
        leg = FakeLeg(client, agent)
        leg.state = WIDEBAND
        await leg.start()
        assert (await leg.offer(worker.id)).pacing == "continuous"
        await leg.until_ready()
        await leg.run(400, SPEECH)
        async with asyncio.timeout(5):
            while SPEECH not in b"".join(frame.payload for frame in leg.frames):
                await leg.tick()
                await asyncio.sleep(0.004)
        await leg.release()
        await ended(worker)
