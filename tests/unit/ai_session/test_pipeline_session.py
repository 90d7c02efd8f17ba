"""Pipeline calls in a worker, over a real bus, against the rehearsal server: what is said, heard, told and paid."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import pytest

from libs.audio.tone import silence
from libs.contracts.agent import AgentConfig, Limits
from services.ai_session.__main__ import Backends
from services.ai_session.backends.realtime import Endpoint
from services.ai_session.resume import read_events
from services.rehearsal.faults import parse_fault
from tests.support.fake_leg import FakeLeg
from tests.unit.ai_session.conftest import ended, gateway, running_worker
from tests.unit.ai_session.pipeline_support import MODELS, MS_PER_CHARACTER, ToneVoice, babble, stages_at
from tests.unit.ai_session.test_pipeline import LONG, rehearsed
from tests.unit.ai_session.test_session_end import hung_up, left

GREETING = "Guten Tag. Was darf es sein?"
TURN = babble(400) + silence(1000, 8000)


def agent(**fields):
    return AgentConfig(name="unit", prompt="Be kind.", greeting=GREETING, backend="pipeline", **fields)


@asynccontextmanager
async def a_call(server, config=None, **rehearsal_settings):
    async with rehearsed(**rehearsal_settings) as rehearsal:
        stages = stages_at(rehearsal.base_url, ToneVoice())
        endpoint = Endpoint(rehearsal.base_url, "k", "gpt-realtime-2.1", MODELS)
        async with (
            running_worker(server.url, Backends(endpoint, None, stages)) as worker,
            gateway(server.url) as client,
        ):
            leg = FakeLeg(client, config or agent())
            await leg.start()
            leg.rehearsal = rehearsal
            reply = await leg.offer(worker.id)
            assert reply.accepted, reply
            try:
                yield worker, leg
            finally:
                await leg.release()
                await ended(worker)
                await stages.close()


async def events_of(worker, leg, kind):
    await worker._around.outbox.flush(2)
    events = await read_events(worker._bus.js, "default", leg.call)
    return [event for event in events if event.kind == kind]


def samples(text):
    return 8 * MS_PER_CHARACTER * len(text)


def messages(leg):
    return [(one["role"], one.get("content")) for one in leg.rehearsal.requests.conversation(leg.call).messages]


async def greeted(leg):
    await leg.until_ready()
    await leg.run_until(lambda: len(leg.heard) >= 2 * samples(GREETING))


async def test_greeting_and_answer_are_heard_and_recorded(server):
    async with a_call(server) as (worker, leg):
        await greeted(leg)
        await leg.run(1400, TURN)
        await leg.run_until(
            lambda: len(leg.heard) >= 2 * (samples(GREETING) + samples(LONG) - 8 * MS_PER_CHARACTER * 2)
        )
        await leg.run(200)
        assert [turn.text for turn in await events_of(worker, leg, "agent.turn")] == [GREETING, LONG]
        assert [turn.text for turn in await events_of(worker, leg, "caller.turn")] == ["Zehn Bögen."]
        assert await events_of(worker, leg, "session.trouble") == []
        usage = await events_of(worker, leg, "usage.reported")
        assert {one.source for one in usage} == {"transcription", "response", "speech"}
        (latency,) = await events_of(worker, leg, "latency.measured")
        assert 0 < latency.stopped_to_first_delta_ms < 2000
        assert messages(leg)[1:] == [("assistant", GREETING), ("user", "Zehn Bögen.")]


async def test_after_an_interruption_the_model_knows_what_was_heard(server):
    async with a_call(server) as (worker, leg):
        await greeted(leg)
        await leg.run(1400, TURN)
        await leg.run_until(lambda: len(leg.heard) >= 2 * (samples(GREETING) + samples(LONG) // 2))
        await leg.run(1800, babble(700) + silence(1100, 8000))
        await leg.run_until(lambda: len(messages(leg)) > 4)
        turn = (await events_of(worker, leg, "agent.turn"))[-1]
        assert turn.interrupted
        assert 0 < turn.heard_ms < turn.audio_ms
        _, _, _, (role, told), _ = messages(leg)[:5]
        assert role == "assistant"
        assert LONG.startswith(told)
        assert abs(len(told) * MS_PER_CHARACTER - turn.heard_ms) < 15 * MS_PER_CHARACTER  # a word or two
        assert messages(leg)[4] == ("user", "Was kosten sie?")


async def test_a_short_sound_does_not_cut_the_agent_off(server):
    async with a_call(server) as (worker, leg):
        await greeted(leg)
        await leg.run(1400, TURN)
        await leg.run_until(lambda: len(leg.heard) >= 2 * (samples(GREETING) + 4000))
        await leg.run(800, babble(80) + silence(700, 8000))
        whole = 2 * (samples(GREETING) + samples(LONG) - 4 * 8 * MS_PER_CHARACTER)
        await leg.run_until(lambda: len(leg.heard) >= whole)
        await leg.run(300)
        turns = await events_of(worker, leg, "agent.turn")
        assert [turn.heard_text for turn in turns] == [GREETING, LONG]
        assert len(await events_of(worker, leg, "caller.turn")) == 1


async def test_a_tool_is_run_and_its_result_is_spoken(server):
    async with a_call(server, agent(tools=("price", "stock"))) as (worker, leg):

        async def answer(msg):
            await msg.respond(json.dumps({"ok": True, "output": {"eur": 4}}).encode())

        for name in ("price", "stock"):
            metadata = {"description": name, "parameters": '{"type":"object"}'}
            endpoints = [{"subject": f"v1.*.tool.{name}", "metadata": metadata}]
            info = {"type": "io.nats.micro.v1.info_response", "endpoints": endpoints}

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
        await greeted(leg)
        for count in (1, 2):
            await leg.run(1400, TURN)
            await leg.run_until(lambda count=count: len(leg.heard) >= 2 * samples(GREETING) * (count + 1))
            await leg.run(6000, tick_s=0.001)
        turns = [turn.text for turn in await events_of(worker, leg, "agent.turn")]
        assert turns[-2:] == ["Ich schaue nach.", "Das macht 4 Euro."]
        assert sorted(one.name for one in await events_of(worker, leg, "tool.returned")) == ["price", "stock"]


@pytest.mark.parametrize(
    ("fault", "endpoint", "reason"),
    [
        ("refuse:status=401", "chat", "model_failed"),
        ("refuse:status=429", "transcriptions", "model_failed"),
        ("refuse:status=500", "chat", "model_failed"),
    ],
)
async def test_a_call_that_cannot_go_on_is_given_back_with_its_reason(server, fault, endpoint, reason):
    async with a_call(server) as (worker, leg):
        await greeted(leg)
        leg.rehearsal.inject(parse_fault(fault, endpoint), 50)
        await leg.run(1400, TURN)
        await leg.run_until(lambda: bool(leg.commanded("failed")), limit_s=12)
        assert leg.commanded("failed")[0].reason == reason
        assert [turn.heard_text for turn in await events_of(worker, leg, "agent.turn")][:1] == [GREETING]


async def test_a_chat_model_that_stumbles_costs_a_moment_and_no_call(server):
    async with a_call(server) as (_, leg):
        await greeted(leg)
        leg.rehearsal.inject(parse_fault("refuse:status=503", "chat"), 4)
        await leg.run(1400, TURN)
        whole = 2 * (samples(GREETING) + samples(LONG) - 4 * 8 * MS_PER_CHARACTER)
        await leg.run_until(lambda: len(leg.heard) >= whole, limit_s=10)
        assert not leg.commanded("failed")


async def test_words_that_were_not_understood_are_asked_for_again(server):
    async with a_call(server) as (worker, leg):
        await greeted(leg)
        leg.rehearsal.inject(parse_fault("refuse:status=400", "transcriptions"))
        await leg.run(1400, TURN)
        await leg.run_until(lambda: bool(messages(leg)))
        assert "ask them to repeat" in messages(leg)[0][1]
        assert [turn.failed for turn in await events_of(worker, leg, "caller.turn")] == [True]


async def test_a_wrong_key_ends_the_call_before_it_is_answered(server):
    async with a_call(server, agent(limits=Limits(ready_timeout_s=3)), api_key="right") as (_, leg):
        await leg.until(lambda: bool(leg.commanded("failed")))
        assert leg.commanded("failed")[0].reason == "model_refused"


async def test_what_was_said_last_is_stored_after_the_call(server):
    async with a_call(server, transcribe_ms=300) as (worker, leg):
        await greeted(leg)
        await leg.run(1440, TURN)
        await hung_up(leg)
        await left(worker)
        assert [turn.text for turn in await events_of(worker, leg, "caller.turn")] == ["Zehn Bögen."]
