"""The realtime backend in a worker against the rehearsal server, over a real bus."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from libs.audio.g711 import Law
from libs.audio.tone import silence, tone
from libs.contracts.agent import AgentConfig, Limits
from libs.contracts.offer import CallState, Resume
from services.ai_session.__main__ import Backends
from services.ai_session.backends.realtime import Endpoint
from services.ai_session.costs import load
from services.ai_session.resume import read_events
from services.ai_session.settings import BUILT_IN_MODELS
from services.rehearsal.faults import parse_fault
from services.rehearsal.scenario import Scenario
from services.rehearsal.server import Rehearsal
from services.rehearsal.settings import RehearsalSettings
from tests.support.fake_leg import FakeLeg
from tests.unit.ai_session.conftest import ended, gateway, running_worker

SPEECH = tone(300, 400, 8000, -15)
SCENARIO = Scenario.model_validate(
    {
        "name": "unit",
        "greeting": "Guten Tag. Was darf es sein?",
        "turns": [
            {"caller": "Zehn Bögen.", "answer": "Zehn Bögen sind notiert. Noch etwas? Ich höre Ihnen gerne zu."},
            {
                "caller": "Was kosten sie?",
                "steps": [{"calls": [{"tool": "price", "arguments": {"n": 1}}, {"tool": "stock", "arguments": {}}]}],
                "answer": "Das macht {{ price.eur }} Euro.",
            },
        ],
    }
)


class Speech:
    """Half a second of tone for every text, so that nothing depends on clips."""

    def pcm(self, text: str) -> bytes:
        return tone(440, 1500 if len(text) > 40 else 500, 8000, -20)

    def encoded(self, text: str, audio_format: str) -> bytes:
        law = {"audio/pcmu": Law.PCMU, "audio/pcma": Law.PCMA}.get(audio_format)
        return law.encode(self.pcm(text)) if law else tone(440, 500, 24000, -20)


def agent(**fields):
    return AgentConfig(
        name="unit", prompt="[scenario: unit] {{tool:nothing}}", greeting="Guten Tag. Was darf es sein?", **fields
    )


@asynccontextmanager
async def a_call(server, config=None, fault=None, state=None):
    settings = RehearsalSettings(
        default_scenario="unit", first_byte_ms=10, tool_call_ms=10, transcription_delay_ms=20, speed=20, self_check=True
    )
    async with Rehearsal.start(settings, scenarios=[SCENARIO], speech=Speech()) as rehearsal:
        if fault is not None:
            rehearsal.inject(parse_fault(fault))
        endpoint = Endpoint(rehearsal.base_url, "k", "gpt-realtime-2.1", load(Path(BUILT_IN_MODELS)))
        async with (
            running_worker(server.url, Backends(endpoint)) as worker,
            gateway(server.url) as client,
        ):
            leg = FakeLeg(client, config or agent())
            if state is not None:
                leg.state = state
            await leg.start()
            leg.rehearsal = rehearsal
            await leg.offer(worker.id)
            try:
                yield worker, leg
            finally:
                await leg.release()
                await ended(worker)


async def events_of(worker, leg):
    await worker._around.outbox.flush(2)
    return await read_events(worker._bus.js, "default", leg.call)


def of_kind(events, kind):
    return [event for event in events if event.kind == kind]


async def test_greeting_and_answer_are_heard_and_recorded(server):
    async with a_call(server) as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 8000)
        await leg.run(400, SPEECH)
        await leg.run_until(lambda: len(leg.heard) >= 8000 + 24000)
        await leg.run(200)
        events = await events_of(worker, leg)
        assert [e.text for e in of_kind(events, "agent.turn")] == [
            "Guten Tag. Was darf es sein?",
            "Zehn Bögen sind notiert. Noch etwas? Ich höre Ihnen gerne zu.",
        ]
        assert [e.text for e in of_kind(events, "caller.turn")] == ["Zehn Bögen."]
        sentences = of_kind(events, "agent.text")
        assert [e.text for e in sentences][-3:] == [
            "Zehn Bögen sind notiert.",
            "Noch etwas?",
            "Ich höre Ihnen gerne zu.",
        ]
        assert [e.from_sample for e in sentences] == sorted(e.from_sample for e in sentences)
        usage = of_kind(events, "usage.reported")
        assert {e.source for e in usage} == {"response", "transcription"}
        assert all(e.cost_usd is not None and e.cost_usd > 0 for e in usage)
        latency = of_kind(events, "latency.measured")
        assert len(latency) == 1
        assert latency[0].stopped_to_first_delta_ms <= latency[0].stopped_to_heard_ms


async def test_two_tools_of_one_response_are_answered_once(server):
    async with a_call(server, agent(tools=("price", "stock"))) as (worker, leg):

        async def answer(msg):
            await msg.respond(json.dumps({"ok": True, "output": {"eur": 4}}).encode())

        for name in ("price", "stock"):
            info = {
                "type": "io.nats.micro.v1.info_response",
                "endpoints": [
                    {
                        "subject": f"v1.*.tool.{name}",
                        "metadata": {"description": name, "parameters": '{"type":"object"}'},
                    }
                ],
            }

            async def describe(msg, info=info):
                await msg.respond(json.dumps(info).encode())

            await leg.nats.subscribe("$SRV.INFO", cb=describe)
            await leg.nats.subscribe(f"v1.*.tool.{name}", cb=answer)
        await leg.nats.flush()
        await leg.until_ready()
        await leg.release()
        await worker.tools.refresh()
        leg.commands.clear()
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 8000)
        await leg.run(400, SPEECH)
        await leg.run_until(lambda: len(leg.heard) >= 8000 + 24000)
        await leg.run(400, SPEECH)
        await leg.run_until(lambda: len(leg.heard) >= 8000 + 24000 + 8000)
        await leg.run(100)
        events = await events_of(worker, leg)
        assert sorted(e.name for e in of_kind(events, "tool.returned")) == ["price", "stock"]
        assert of_kind(events, "agent.turn")[-1].text == "Das macht 4 Euro."
        assert of_kind(events, "session.trouble") == []
        truth = leg.rehearsal.sessions.all()[-1]
        assert truth.client_errors == []
        assert [call["output"] for call in truth.as_json()["tool_calls"]] == [{"eur": 4}, {"eur": 4}]


async def test_a_barge_in_truncates_the_models_item_to_what_was_played(server):
    async with a_call(server) as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 8000)
        await leg.run(400, SPEECH)
        await leg.run_until(lambda: len(leg.heard) >= 8000 + 8000)
        await leg.run(600, SPEECH)
        turn = of_kind(await events_of(worker, leg), "agent.turn")[-1]
        assert turn.interrupted
        assert 0 < turn.heard_ms < turn.audio_ms
        truth = leg.rehearsal.sessions.all()[-1]
        assert truth.find(turn.item).truncated_at_ms == int(turn.heard_ms)
        assert truth.client_errors == []
        assert of_kind(await events_of(worker, leg), "session.trouble") == []


@pytest.mark.parametrize(
    ("state", "rate_hz"), [(CallState(codec="PCMA"), 8000), (CallState(codec="G722", rate_hz=16000), 16000)]
)
async def test_other_codecs_are_heard_as_sound_and_not_as_noise(server, state, rate_hz):
    async with a_call(server, state=state) as (_, leg):
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= rate_hz // 2)
        import numpy as np

        samples = np.frombuffer(bytes(leg.heard), "<i2").astype(float)[: rate_hz // 2]
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
        assert abs(np.argmax(spectrum) * rate_hz / len(samples) - 440) < 5


@pytest.mark.parametrize(
    "fault",
    [
        "close:code=1000,after_deltas=2",
        "close:code=1001,after_deltas=2",
        "close:code=1011,after_deltas=2",
        "abort:after_deltas=2",
    ],
)
async def test_a_lost_connection_is_replaced_and_the_caller_stays(server, fault):
    async with a_call(server, fault=fault) as (worker, leg):
        await leg.until_ready()
        await leg.run(500)
        await leg.run_until(lambda: worker.counters["reconnected"] > 0)
        before = len(leg.heard)
        await leg.run(400, SPEECH)
        await leg.run_until(lambda: len(leg.heard) > before + 8000)
        assert leg.commanded("failed") == []


@pytest.mark.parametrize(
    "fault",
    [
        "malformed_json",
        "malformed_base64",
        "odd_bytes",
        "unknown_event",
        "extra_field",
        "missing_field",
        "binary_frame",
        "duplicate_deltas",
        "error:after_deltas=1",
    ],
)
async def test_bad_frames_are_survived(server, fault):
    async with a_call(server, fault=fault) as (_, leg):
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 4000)
        await leg.run(400, SPEECH)
        await leg.run_until(lambda: len(leg.heard) >= 24000)
        assert leg.commanded("failed") == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("refuse:status=401", "model_refused"),
        ("refuse:status=403", "model_refused"),
        ("refuse:status=500,times=5", "model_unreachable"),
        ("refuse:status=429,times=5", "model_unreachable"),
    ],
)
async def test_a_refused_upgrade_has_its_reason(server, fault, reason):
    settings = RehearsalSettings(default_scenario="unit")
    async with Rehearsal.start(settings, scenarios=[SCENARIO], speech=Speech()) as rehearsal:
        rehearsal.inject(parse_fault(fault), count=5)
        endpoint = Endpoint(rehearsal.base_url, "k", "gpt-realtime-2.1", load(Path(BUILT_IN_MODELS)))
        async with running_worker(server.url, Backends(endpoint)) as worker, gateway(server.url) as client:
            leg = FakeLeg(client, agent())
            await leg.start()
            await leg.offer(worker.id)
            await leg.until(lambda: leg.commanded("failed"))
            assert leg.commanded("failed")[0].reason == reason
            await leg.release()


@pytest.mark.parametrize("fault", ["no_session_created", "no_session_updated", "hang_upgrade"])
async def test_a_server_that_hangs_while_opening_is_given_up_in_time(server, fault):
    config = agent(limits=Limits(ready_timeout_s=0.5))
    async with a_call(server, config, fault=fault) as (_, leg):
        await leg.run_until(lambda: leg.commanded("failed"), limit_s=1.5)
        assert leg.commanded("failed")[0].reason == "model_unreachable"


async def test_a_codec_that_the_server_changes_once_is_asked_for_again(server):
    async with a_call(server, fault="pcm_instead:times=2") as (_, leg):
        await leg.run_until(lambda: leg.commanded("failed"))
        assert leg.commanded("failed")[0].reason == "model_failed"
        assert "audio/pcmu" in leg.commanded("failed")[0].detail


async def test_the_worker_feeds_silence_as_well(server):
    async with a_call(server) as (worker, leg):
        await leg.until_ready()
        await leg.run(400, silence(400, 8000))
        assert worker._sessions[leg.call].bridge.counters["up_dropped"] == 0


async def test_a_model_that_stalls_in_the_middle_is_replaced(server, monkeypatch):
    monkeypatch.setattr("services.ai_session.backends.realtime.STALL_S", 0.3)
    async with a_call(server, fault="stall:after_deltas=2,duration_ms=0") as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: worker.counters["reconnected"] > 0)
        assert leg.commanded("failed") == []


async def test_a_caller_who_was_cut_off_by_a_dead_worker_is_served_by_the_next_one(server):
    async with a_call(server) as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 8000)
        await leg.run(400, SPEECH)
        await leg.run_until(lambda: len(leg.heard) >= 8000 + 4000)
        played = {1: leg.played}
        await worker._around.outbox.flush(2)
        endpoint = Endpoint(leg.rehearsal.base_url, "k", "gpt-realtime-2.1", load(Path(BUILT_IN_MODELS)))
        async with running_worker(server.url, Backends(endpoint)) as other:
            resume = Resume(cause="failover", previous_wk=worker.id, previous_epoch=1, played=played)
            await leg.release()
            await leg.offer(other.id, resume=resume)
            await leg.until_ready()
            before = len(leg.heard)
            await leg.run_until(lambda: len(leg.heard) > before + 8000)
            truth = leg.rehearsal.sessions.all()[-1]
            assert [(item.role, item.text) for item in truth.items()][:3] == [
                ("assistant", "Guten Tag. Was darf es sein?"),
                ("user", "Zehn Bögen."),
                ("assistant", "Zehn Bögen sind notiert."),
            ]
            assert truth.client_errors == []
            await leg.release()
            await ended(other)
