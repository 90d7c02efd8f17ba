"""What an agent's document says reaches those who act on it: the turns, the model, the tools."""

from __future__ import annotations

import time
from dataclasses import fields

import pytest

from libs.contracts.agent import AgentConfig, AnsweringMachine, Budget, Fillers, Idle, Limits, TurnTaking
from libs.contracts.offer import Offer
from libs.contracts.tool import ToolDescription
from services.ai_session.backends import live_config, port
from services.ai_session.backends.pipeline import plan_pipeline
from services.ai_session.costs import load
from services.ai_session.settings import BUILT_IN_MODELS
from services.ai_session.tools import ToolCaller
from services.ai_session.turn_rules import TurnRules
from tests.unit.ai_session.conftest import gateway, running_worker
from tests.unit.ai_session.fake_model import configured, fake_model
from tests.unit.ai_session.pipeline_support import offer, stages_at
from tests.unit.ai_session.test_session_reconnects import AGENT, a_call

TOOL = ToolDescription(name="price", description="d", parameters={"type": "object", "properties": {}})


def test_each_rule_of_turns_is_the_agents():
    agent = AgentConfig(
        name="a",
        greeting="Hallo.",
        languages=("en", "de"),
        turn_taking=TurnTaking(
            interruptible=False, barge_in="local", barge_in_min_ms=200, silence_ms=700, back_channels=("so",)
        ),
        idle=Idle(after_s=7),
        fillers=Fillers(texts=("Moment.",)),
        answering_machine=AnsweringMachine(then="leave_message", message="Bitte um Rückruf."),
        limits=Limits(max_duration_s=60),
        budget=Budget(per_call_usd=0.5),
    )
    rules, usual = TurnRules.of(agent), TurnRules.of(AgentConfig(name="b"))
    same = [field.name for field in fields(TurnRules) if getattr(rules, field.name) == getattr(usual, field.name)]
    assert same == []
    assert (rules.idle, rules.fillers, rules.languages) == (agent.idle, agent.fillers, agent.languages)


async def test_the_model_is_told_which_languages_it_speaks(server):
    bilingual = AGENT.model_copy(update={"languages": ("de", "en")})
    async with fake_model() as model, a_call(server, model, bilingual) as (_, leg):
        await leg.until_ready()
        (update,) = model.of_type("session.update")
        assert update["session"]["instructions"].startswith("Be kind.\n\n")
        assert "the language that the caller has just spoken" in update["session"]["instructions"]
        assert update["session"]["audio"]["input"]["transcription"]["languages"] == ["de", "en"]


async def test_calls_of_one_model_share_its_rate_limit(server):
    async def limited(model, socket, event):
        await configured(model, socket, event)
        if event["type"] == "response.create":
            error = {"code": "rate_limit_exceeded", "message": "Please try again in 20s."}
            await socket.send_json({"type": "error", "error": {"type": "server_error", "event_id": None, **error}})

    async with fake_model(limited) as model, a_call(server, model) as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: worker.limits.counted()["refused"] == 1)
        assert not worker.limits.of("realtime gpt-realtime-2.1").is_open(time.monotonic())


async def test_no_tool_takes_longer_than_the_agents_patience(server):
    agent = AgentConfig(name="x", tools=("price",), limits=Limits(tool_timeout_s=0.2))
    asking = Offer(call="c", org="default", gw="g", epoch=1, caller="a", callee="b", agent=agent)
    async with running_worker(server.url) as worker, gateway(server.url) as client:

        async def never(_):
            pass

        subscription = await client.subscribe("v1.*.tool.price", cb=never)
        await client.flush()
        began = time.monotonic()
        assert "in time" in (await ToolCaller(asking, worker._bus, worker.tools).call("t", "price", {})).error
        assert time.monotonic() - began < 2
        await subscription.unsubscribe()


@pytest.mark.parametrize(("wanted", "sent"), [(None, "low"), ("high", "high")])
async def test_the_chat_model_of_the_pipeline_is_bounded_and_thinks_as_the_agent_says(wanted, sent):
    stages = stages_at("http://127.0.0.1:9/v1")
    agent_offer = offer(model="gpt-5.6-luna", max_output_tokens=77, reasoning_effort=wanted)
    backend = plan_pipeline(stages, agent_offer).make(lambda _: None)
    request = backend._request(None)
    assert (request.max_tokens, request.reasoning_effort) == (77, sent)


def test_the_chat_model_of_live_is_bounded_and_thinks_as_the_agent_says():
    agent = AgentConfig(name="a", backend="live", max_output_tokens=77, reasoning_effort="high")
    call = Offer(call="c", org="o", gw="g", epoch=1, caller="1", callee="2", agent=agent)
    opening = port.Opening("Be kind.", (TOOL,), ())
    start = live_config.session(call, opening, "gpt-live-1", "gpt-5.6-luna", load(BUILT_IN_MODELS))
    delegate = start["delegation"]["responses"]
    assert (delegate["max_output_tokens"], delegate["reasoning"]) == (77, {"effort": "high"})
