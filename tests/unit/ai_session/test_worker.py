"""The worker's shell against a real nats-server and a fake leg."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from libs.audio.tone import tone
from libs.contracts import subjects
from libs.contracts.agent import AgentConfig, Limits
from libs.contracts.events import AgentText, CallerTurn, ToolCalled
from libs.contracts.frame import Flag
from libs.contracts.ids import new_call_id
from libs.contracts.offer import Resume
from services.ai_session.resume import read_events
from tests.support.fake_leg import FakeLeg
from tests.support.nats import nats_server
from tests.unit.ai_session.conftest import ended, gateway, running_worker

SPEECH = tone(300, 300, 8000, -15)


def agent(mode="talk", **fields):
    options = {"mode": mode, **fields.pop("options", {})}
    return AgentConfig(name="test", backend="scripted", backend_options=options, **fields)


@asynccontextmanager
async def a_call(server, config, **worker_options):
    async with running_worker(server.url, **worker_options) as worker, gateway(server.url) as client:
        leg = FakeLeg(client, config)
        await leg.start()
        yield worker, leg
        await leg.release()


async def events_of(worker, leg):
    await worker._around.outbox.flush(2)
    return await read_events(worker._bus.js, "default", leg.call)


async def test_an_accepted_offer_is_followed_by_the_claim_frame_and_ready(server):
    async with a_call(server, agent()) as (worker, leg):
        reply = await leg.offer(worker.id)
        assert (reply.accepted, reply.wk, reply.epoch, reply.pacing) == (True, worker.id, 1, "paced")
        await leg.until_ready()
        await leg.until(lambda: leg.frames)
        assert (leg.frames[0].epoch, leg.frames[0].seq, leg.frames[0].payload) == (1, 0, b"")


async def test_the_echo_returns_every_sample(server):
    async with a_call(server, agent("echo")) as (worker, leg):
        reply = await leg.offer(worker.id)
        assert reply.pacing == "continuous"
        await leg.until_ready()
        sound = tone(440, 1000, 8000)
        await leg.run(1000, sound)
        await leg.run_until(lambda: len(leg.heard) >= len(sound))
        assert bytes(leg.heard[: len(sound)]) == sound
        timestamps = [frame.timestamp for frame in leg.frames if frame.payload]
        assert timestamps == list(range(0, 160 * len(timestamps), 160))


async def test_the_greeting_is_paced_and_becomes_an_agent_turn(server):
    say = ["text:Guten Tag.", "tone:440:1000"]
    async with a_call(server, agent(greeting="Guten Tag.", options={"say": [say]})) as (worker, leg):
        await leg.offer(worker.id)
        await leg.until_ready()
        await asyncio.sleep(0.1)
        assert sum(frame.samples for frame in leg.frames) == 1600  # 200 ms ahead of an ear that has heard nothing
        await leg.run_until(lambda: len(leg.heard) >= 16000)
        await leg.run(40)
        flags = [frame.flags for frame in leg.frames if frame.payload]
        assert flags[0] & Flag.TALKSPURT
        assert flags[-1] & Flag.END_OF_RESPONSE
        await leg.run(40)
        events = await events_of(worker, leg)
        assert [e.kind for e in events] == ["agent.text", "agent.turn"]
        assert (events[1].heard_text, events[1].interrupted, events[1].heard_ms) == ("Guten Tag.", False, 1000)


async def test_a_barge_in_flushes_and_truncates_to_what_was_played(server):
    say = ["text:Eins zwei drei vier fünf sechs.", "tone:440:5000"]
    async with a_call(server, agent(greeting="x", options={"say": [say]})) as (worker, leg):
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 16000)
        session = worker._sessions[leg.call]
        await leg.run(200, SPEECH)
        await leg.run(100)
        assert any(frame.flags & Flag.FLUSH for frame in leg.frames)
        played_ms = leg.played // 8
        assert session._model.backend.heard == [f"truncate:agent-2:0:{played_ms}"]
        turn = next(e for e in await events_of(worker, leg) if e.kind == "agent.turn")
        assert turn.interrupted
        assert turn.heard_ms == played_ms
        assert turn.heard_text
        assert len(turn.heard_text) < len(turn.text)


async def test_a_tool_is_called_on_the_bus_and_its_result_goes_to_the_model(server):
    say = [['tool:price:{"article": 7}'], ["text:Vier Euro.", "tone:440:200"]]
    config = agent(greeting="x", tools=("price", "gone"), options={"say": say})
    async with a_call(server, config) as (worker, leg):

        async def price(msg):
            request = json.loads(msg.data)
            await msg.respond(json.dumps({"ok": True, "output": {"article": request["arguments"]}}).encode())

        await leg.nats.subscribe("v1.*.tool.price", cb=price)
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 3200)
        await leg.run(60)
        events = await events_of(worker, leg)
        assert [e.kind for e in events] == ["tool.called", "tool.returned", "agent.text", "agent.turn"]
        assert events[1].output == {"article": {"article": 7}}
        assert events[1].ok


async def test_a_tool_that_nobody_offers_is_unavailable_at_once(server):
    say = [["tool:price:{}"], ["tone:440:100"]]
    async with a_call(server, agent(greeting="x", tools=("price",), options={"say": say})) as (worker, leg):
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 1600, limit_s=2)
        returned = next(e for e in await events_of(worker, leg) if e.kind == "tool.returned")
        assert not returned.ok
        assert "not available" in returned.output["error"]


async def test_a_refused_model_session_is_reported_with_its_reason(server):
    async with a_call(server, agent(options={"refuse": "no such key"})) as (worker, leg):
        await leg.offer(worker.id)
        await leg.until(lambda: leg.commanded("failed"))
        assert leg.commanded("failed")[0].reason == "model_refused"
        assert leg.commanded("failed")[0].detail == "no such key"


async def test_a_released_call_ends_silently_and_its_number_can_be_redialled(server):
    async with a_call(server, agent()) as (worker, leg):
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.release()
        await ended(worker)
        assert leg.commanded("failed") == []
        again = FakeLeg(leg.nats, leg.agent)
        await again.start()
        assert (await again.offer(worker.id)).accepted
        await again.until_ready()
        await again.release()
        await ended(worker)


async def test_offers_beyond_capacity_and_of_old_epochs_are_refused(server):
    async with a_call(server, agent(), capacity=1) as (worker, leg):
        await leg.offer(worker.id)
        other = FakeLeg(leg.nats, leg.agent)
        assert (await other.offer(worker.id)).reason == "at_capacity"
        leg.epoch -= 1
        assert (await leg.offer(worker.id)).reason == "stale_epoch"
        assert (await leg.offer(worker.id)).accepted  # a newer epoch replaces the session


async def test_a_session_without_uplink_ends_after_two_seconds(server):
    async with a_call(server, agent()) as (worker, leg):
        await leg.offer(worker.id)
        await leg.until_ready()
        began = asyncio.get_running_loop().time()
        await ended(worker)
        assert 1.5 < asyncio.get_running_loop().time() - began < 2.8


async def test_a_draining_worker_hands_over_at_the_pause_and_refuses_offers(server):
    async with a_call(server, agent()) as (worker, leg):
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.run(100)
        draining = asyncio.create_task(worker.drain(2))
        await leg.until(lambda: leg.commanded("hand_over"))
        assert leg.commanded("hand_over")[0].epoch == 1
        other = FakeLeg(leg.nats, leg.agent)
        assert (await other.offer(worker.id)).reason == "draining"
        await leg.release()
        await draining
        assert worker.sessions == 0


async def test_the_call_ends_politely_at_its_maximum_duration(server):
    config = agent(limits=Limits(max_duration_s=0.2), goodbye="Tschüss.", options={"say": ["tone:440:200"]})
    async with a_call(server, config) as (worker, leg):
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.run_until(lambda: leg.commanded("hang_up"))
        assert leg.commanded("hang_up")[0].reason == "max_duration"
        assert len(leg.heard) == 3200


async def test_a_lost_model_connection_is_replaced_within_the_call(server):
    say = [["text:Eins.", "tone:440:100", "lose:gone"], ["text:Zwei.", "tone:440:100"]]
    async with a_call(server, agent(greeting="x", options={"say": say})) as (worker, leg):
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 2 * 1600)
        assert leg.commanded("failed") == []
        kinds = [e.kind for e in await events_of(worker, leg)]
        assert "session.trouble" in kinds


async def test_another_worker_goes_on_with_the_conversation(server):
    config = agent(greeting="Hallo", options={"say": ["tone:440:100"]})
    call, at = new_call_id(), datetime.now(UTC)
    common = {"org": "default", "call": call, "at": at, "epoch": 1}
    past = [
        AgentText(event_id="1", item="a", from_sample=0, text="Guten Tag.", **common),
        CallerTurn(event_id="2", item="b", text="Zehn Bögen.", **common),
        ToolCalled(event_id="3", tool_call_id="t", name="order_add", arguments={"n": 10}, **common),
    ]
    async with running_worker(server.url) as worker, gateway(server.url) as client:
        for event in past:
            await worker._bus.js.publish(subjects.event("default", call, event.kind), event.to_json())
        leg = FakeLeg(client, config, call=call)
        await leg.start()
        leg.epoch = 1
        resume = Resume(cause="failover", previous_wk="wk-old", previous_epoch=1, played={1: 8000})
        assert (await leg.offer(worker.id, resume=resume)).epoch == 2
        await leg.until_ready()
        opening = worker._sessions[call]._model.backend.opening
        assert [type(item).__name__ for item in opening.history] == ["Said", "Said", "CalledTool", "ToolOutput"]
        await leg.run_until(lambda: len(leg.heard) >= 1600)
        await leg.release()
        await ended(worker)


@pytest.mark.parametrize("data", [b"", b"nonsense", b"{}"])
async def test_bad_messages_are_counted_and_survived(server, data):
    async with a_call(server, agent()) as (worker, leg):
        await leg.nats.publish(subjects.offer(worker.id), data)
        await leg.nats.publish(subjects.release(worker.id), data)
        await leg.offer(worker.id)
        await leg.until_ready()
        up = subjects.audio("default", leg.gw, worker.id, leg.call, "up")
        await leg.nats.publish(up, data)
        await leg.run(40)
        assert worker.counters["offer_malformed"] == 1
        assert worker.counters["up_malformed"] == 1


async def test_a_defect_in_one_call_ends_it_with_its_reason_and_the_worker_lives(server):
    async with a_call(server, agent()) as (worker, leg):
        await leg.offer(worker.id)
        await leg.until_ready()

        def defect(*_):
            raise RuntimeError("a defect")

        worker._sessions[leg.call].bridge.uplink = defect
        await leg.run(40)
        await leg.until(lambda: leg.commanded("failed"))
        assert leg.commanded("failed")[0].reason == "internal_error"
        await ended(worker)
        other = FakeLeg(leg.nats, leg.agent)
        await other.start()
        assert (await other.offer(worker.id)).accepted
        await other.until_ready()
        await other.release()


async def test_a_session_that_the_leg_refuses_ends_silently(server):
    async with a_call(server, agent()) as (worker, leg):
        leg.refuse["ready"] = "the call has ended"
        await leg.offer(worker.id)
        await ended(worker)
        assert [command.kind for command in leg.commands] == ["ready"] * 3


async def test_a_short_restart_of_the_broker_leaves_the_call_alone():
    say = [["text:Eins zwei drei.", "tone:440:3000"]]
    async with nats_server() as broker, a_call(broker, agent(greeting="x", options={"say": say})) as (worker, leg):
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 16000)
        session = worker._sessions[leg.call]
        broker.kill()
        await asyncio.sleep(0.5)
        await broker.start()
        async with asyncio.timeout(5):
            while worker._bus.media_link.up_at is None or not leg.nats.is_connected:  # noqa: ASYNC110  two clients
                await asyncio.sleep(0.02)
        before = len(leg.heard)
        await leg.run_until(lambda: len(leg.heard) >= before + 8000)
        assert worker._sessions[leg.call] is session
        assert leg.commanded("failed") == []
