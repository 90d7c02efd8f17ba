"""A model that restarts, drops every connection, talks nonsense, or refuses to begin."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from libs.contracts import subjects
from libs.contracts.agent import AgentConfig, Limits
from libs.contracts.commands import CommandReply, SayNow
from services.ai_session.__main__ import Backends
from services.ai_session.backends.realtime_link import Endpoint
from services.ai_session.costs import load
from services.ai_session.reconnects import LOSSES_IN_A_ROW, STEADY_S, Losses, Patience
from services.ai_session.settings import BUILT_IN_MODELS
from tests.support.fake_leg import FakeLeg
from tests.unit.ai_session.conftest import ended, gateway, running_worker
from tests.unit.ai_session.fake_model import configured, fake_model
from tests.unit.ai_session.test_realtime import events_of, of_kind

AGENT = AgentConfig(name="unit", prompt="Be kind.", greeting="Guten Tag.")


@asynccontextmanager
async def a_call(server, model, config=AGENT):
    endpoint = Endpoint(model.base_url, "k", "gpt-realtime-2.1", load(BUILT_IN_MODELS))
    async with running_worker(server.url, Backends(endpoint)) as worker, gateway(server.url) as client:
        leg = FakeLeg(client, config)
        await leg.start()
        await leg.offer(worker.id)
        try:
            yield worker, leg
        finally:
            await leg.release()
            await ended(worker)


# -- the core -------------------------------------------------------------------------------------------


def test_attempts_back_off_within_the_callers_patience():
    row = Patience(3.0, 10.0)
    assert [row.pause_s(now) for now in (10.0, 10.1, 10.4, 11.4)] == [0.1, 0.3, 1.0, 1.0]
    assert row.left_s(12.5) == 0.5
    assert row.pause_s(12.5) is None


def test_losses_without_anything_heard_in_between_are_counted_together():
    losses = Losses()
    now = 0.0
    for _ in range(LOSSES_IN_A_ROW):
        losses.opened(0, now)
        assert losses.may_replace(0, now + 0.1)
    losses.opened(0, now)
    assert not losses.may_replace(0, now + 0.1)


def test_a_connection_that_spoke_or_lasted_begins_a_new_count():
    losses = Losses()
    for number in range(5 * LOSSES_IN_A_ROW):
        losses.opened(160 * number, 0.0)
        assert losses.may_replace(160 * (number + 1), 0.1)
    for number in range(5 * LOSSES_IN_A_ROW):
        losses.opened(0, 20.0 * number)
        assert losses.may_replace(0, 20.0 * number + STEADY_S)


# -- in a call --------------------------------------------------------------------------------------------


async def test_a_model_that_restarts_is_awaited_within_the_session(server):
    async with fake_model() as model, a_call(server, model) as (worker, leg):
        await leg.until_ready()
        await leg.run(100)
        await model.stop()
        await leg.run(500, tick_s=0.02)
        await model.start()
        await leg.run_until(lambda: worker.counters["reconnected"] == 1)
        assert leg.commanded("failed") == []
        await leg.run_until(lambda: len(model.of_type("response.create")) == 2)  # nothing was heard: greeted anew


async def test_a_model_that_drops_every_connection_is_given_up(server):
    async def drop(model, socket, event):
        await configured(model, socket, event)
        if event["type"] == "response.create":
            await socket.close(code=1011)

    async with fake_model(drop) as model, a_call(server, model) as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: leg.commanded("failed"))
        assert leg.commanded("failed")[0].reason == "model_failed"
        assert "1011" in leg.commanded("failed")[0].detail
        assert model.connections == 1 + LOSSES_IN_A_ROW
        troubles = of_kind(await events_of(worker, leg), "session.trouble")
        assert [trouble.fatal for trouble in troubles] == [False] * (1 + LOSSES_IN_A_ROW) + [True]


async def test_nonsense_is_no_sign_of_life(server, monkeypatch):
    monkeypatch.setattr("services.ai_session.backends.realtime.STALL_S", 0.3)

    async def babble(model, socket, event):
        await configured(model, socket, event)
        if event["type"] == "input_audio_buffer.append":
            await socket.send_str("\x00garbage{")

    async with fake_model(babble) as model, a_call(server, model) as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: leg.commanded("failed"), limit_s=8)
        assert model.connections == 1 + LOSSES_IN_A_ROW
        stalled = of_kind(await events_of(worker, leg), "session.trouble")[0]
        assert stalled.code == "stalled"


async def test_a_request_renews_the_wait_of_a_server_that_had_nothing_to_say(server, monkeypatch):
    monkeypatch.setattr("services.ai_session.backends.realtime.STALL_S", 0.4)
    config = AgentConfig(name="unit", prompt="Be kind.")  # no greeting: nothing is due
    async with fake_model() as model, a_call(server, model, config) as (worker, leg):
        await leg.until_ready()
        await leg.run(1000, tick_s=0.02)
        worker._sessions[leg.call]._model.backend.start_response("Say something.")
        await leg.run(200, tick_s=0.02)
        assert model.connections == 1
        await leg.run_until(lambda: model.connections == 2)


async def test_a_transient_error_while_opening_is_tried_again_and_a_final_one_is_not(server):
    async def refuse_once(model, socket, event):
        if event["type"] == "session.update" and model.connections == 1:
            error = {"type": model.kind, "code": model.code, "message": "no", "param": None, "event_id": None}
            await socket.send_json({"type": "error", "error": error})
        else:
            await configured(model, socket, event)

    for kind, code, outcome in [
        ("server_error", "server_error", "ready"),
        ("invalid_request_error", None, "model_refused"),
        ("server_error", "insufficient_quota", "model_refused"),
    ]:
        async with fake_model(refuse_once) as model:
            model.kind, model.code = kind, code
            async with a_call(server, model) as (_, leg):
                await leg.until(lambda leg=leg: leg.commands)
                assert getattr(leg.commands[0], "reason", leg.commands[0].kind) == outcome


async def test_nonsense_while_opening_is_named(server):
    config = AgentConfig(name="unit", limits=Limits(ready_timeout_s=10))
    html = "<html>502 Bad Gateway</html>"

    async with fake_model(greeting=html) as model, a_call(server, model, config) as (_, leg):
        await leg.run_until(lambda: leg.commanded("failed"), limit_s=8)
        assert leg.commanded("failed")[0].reason == "model_unreachable"
        assert "1 frame that was not understood" in leg.commanded("failed")[0].detail


@pytest.mark.parametrize("code", ["insufficient_quota", "account_deactivated"])
async def test_a_spent_quota_ends_the_session_without_another_attempt(server, code):
    async with fake_model() as model, a_call(server, model) as (_, leg):
        await leg.until_ready()
        await leg.run_until(lambda: model.of_type("response.create"))
        await model.say(type="error", error={"type": "server_error", "code": code, "message": "no more"})
        await leg.run_until(lambda: leg.commanded("failed"))
        assert (leg.commanded("failed")[0].reason, leg.commanded("failed")[0].detail) == ("model_failed", "no more")
        assert model.connections == 1


async def test_a_rate_limit_without_an_id_is_waited_for_and_the_greeting_comes(server):
    async def limited(model, socket, event):
        await configured(model, socket, event)
        if event["type"] == "response.create" and len(model.of_type("response.create")) <= 2:
            error = {"type": "server_error", "code": "rate_limit_exceeded", "message": "slow down", "event_id": None}
            await socket.send_json({"type": "error", "error": error})

    async with fake_model(limited) as model, a_call(server, model) as (_, leg):
        await leg.until_ready()
        await leg.run_until(lambda: len(model.of_type("response.create")) == 3)
        asked = [event["response"]["instructions"] for event in model.of_type("response.create")]
        assert len(set(asked)) == 1
        assert "Guten Tag." in asked[0]
        assert asked[0].startswith("Be kind.\n\n")  # they replace the session's instructions (openai.md §5.2)
        assert leg.commanded("failed") == []


async def test_a_model_that_stays_limited_fails_the_session(server, monkeypatch):
    monkeypatch.setattr("services.ai_session.attempts.LIMITED_RESPONSES", 3)

    async def limited(model, socket, event):
        await configured(model, socket, event)
        if event["type"] == "response.create":
            error = {"type": "server_error", "code": "rate_limit_exceeded", "message": "slow down", "event_id": None}
            await socket.send_json({"type": "error", "error": error})

    async with fake_model(limited) as model, a_call(server, model) as (_, leg):
        await leg.until_ready()
        await leg.run_until(lambda: leg.commanded("failed"))
        assert leg.commanded("failed")[0].detail == "rate_limit_exceeded: slow down"
        assert len(model.of_type("response.create")) == 3


async def test_the_caller_waits_in_the_ring_while_the_connection_is_behind(server):
    async with fake_model() as model, a_call(server, model) as (worker, leg):
        await leg.until_ready()
        session = worker._sessions[leg.call]
        session._model.backend.behind = True
        await leg.run(400)
        assert session.bridge.counters["up_dropped"] > 0
        session._model.backend.behind = False
        dropped = session.bridge.counters["up_dropped"]
        await leg.run(200)
        assert session.bridge.counters["up_dropped"] <= dropped + 1


async def test_what_a_predecessor_still_says_concerns_nobody(server):
    async with fake_model() as model, a_call(server, model) as (worker, leg):
        await leg.until_ready()
        session = worker._sessions[leg.call]
        before = session._model.backend
        await model.sockets[0].close(code=1011)
        await leg.run_until(lambda: worker.counters["reconnected"] == 1)
        before._over = False
        before.received(json.dumps({"type": "input_audio_buffer.speech_started", "item_id": "late"}).encode())
        await leg.run(40)
        assert "late" not in [getattr(e, "item", "") for e in await events_of(worker, leg)]


async def test_say_is_refused_while_the_model_is_away(server):
    async with fake_model() as model, a_call(server, model) as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: model.of_type("response.create"))
        subject = subjects.control("default", leg.call, "agent")
        answer = await leg.nats.request(subject, SayNow(text="Hallo").to_json(), timeout=1)
        assert CommandReply.model_validate_json(answer.data).ok
        await model.stop()
        async with asyncio.timeout(2):
            while not worker._sessions[leg.call]._reconnecting:
                await leg.tick()
                await asyncio.sleep(0.01)
        answer = await leg.nats.request(subject, SayNow(text="Hallo").to_json(), timeout=1)
        assert not CommandReply.model_validate_json(answer.data).ok
