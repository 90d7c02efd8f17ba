"""Calls of agents with backend live: a worker, the rehearsal server, and a leg, in real time."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from libs.audio.level import dbfs
from libs.audio.tone import tone
from libs.contracts import subjects
from libs.contracts.agent import AgentConfig, Limits, Transcription, TurnTaking
from libs.contracts.commands import SayNow
from libs.contracts.offer import CallState, Offer
from services.ai_session.__main__ import Backends
from services.ai_session.backends.factory import UnsupportedAgentError
from services.ai_session.backends.live import LiveEndpoint, plan_live
from services.ai_session.backends.port import BackendError
from services.ai_session.backends.realtime_link import Endpoint
from services.ai_session.costs import load
from services.ai_session.settings import BUILT_IN_MODELS
from services.rehearsal.faults import parse_fault
from services.rehearsal.server import Rehearsal
from services.rehearsal.settings import RehearsalSettings
from tests.support.fake_leg import FakeLeg
from tests.unit.ai_session.conftest import ended, gateway, running_worker
from tests.unit.ai_session.test_realtime import SCENARIO, Speech, events_of, of_kind

GREETING = "Guten Tag. Was darf es sein?"
SPEECH = tone(300, 400, 8000, -15)


def agent(**fields):
    prompt = "[scenario: unit] {{tool:nothing}}"
    return AgentConfig(name="unit", backend="live", prompt=prompt, greeting=GREETING, **fields)


def live_fault(text):
    return parse_fault(f"{text}{',' if ':' in text else ':'}on=live")


@asynccontextmanager
async def a_call(server, config=None, faults=(), fault_count=1, state=None, **settings):
    quick = {"first_byte_ms": 10, "tool_call_ms": 10, "transcription_delay_ms": 20, **settings}
    chosen = RehearsalSettings(default_scenario="unit", self_check=True, **quick)
    async with Rehearsal.start(chosen, scenarios=[SCENARIO], speech=Speech()) as rehearsal:
        for fault in faults:
            rehearsal.inject(live_fault(fault), fault_count)
        endpoint = Endpoint(rehearsal.base_url, "k", "gpt-realtime-2.1", load(BUILT_IN_MODELS))
        async with running_worker(server.url, Backends(endpoint)) as worker, gateway(server.url) as client:
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


async def at_line(leg, done, limit_s=10.0):
    """The line goes on in real time until it is so."""
    async with asyncio.timeout(limit_s):
        while not done():
            await leg.tick()
            await asyncio.sleep(0.018)


async def says(leg, pcm=SPEECH):
    for start in range(0, len(pcm), 320):
        await leg.tick(pcm[start : start + 320])
        await asyncio.sleep(0.018)


async def turns_of(worker, leg):
    return [event.text for event in of_kind(await events_of(worker, leg), "agent.turn")]


async def said(worker, leg, count):
    """So many turns of the agent are stored."""
    async with asyncio.timeout(12):
        while len(await turns_of(worker, leg)) < count:
            for _ in range(5):
                await leg.tick()
                await asyncio.sleep(0.018)


def loud(pcm):
    return sum(20 for start in range(0, len(pcm), 320) if dbfs(pcm[start : start + 320]) > -40)


async def test_greeting_and_answer_are_heard_recorded_measured_and_charged(server):
    async with a_call(server) as (worker, leg):
        await leg.until_ready()
        await said(worker, leg, 1)
        assert loud(leg.heard) == 500
        await says(leg)
        await said(worker, leg, 2)
        assert loud(leg.heard) == 2000
        await leg.release()
        await ended(worker)
        events = await events_of(worker, leg)
        assert [e.text for e in of_kind(events, "agent.turn")] == [
            GREETING, "Zehn Bögen sind notiert. Noch etwas? Ich höre Ihnen gerne zu."
        ]  # fmt: skip
        assert not any(e.interrupted for e in of_kind(events, "agent.turn"))
        assert [e.text for e in of_kind(events, "caller.turn")] == ["Zehn Bögen."]
        kinds = [e.kind for e in events if e.kind in ("caller.spoke", "caller.turn", "agent.text", "agent.turn")]
        assert kinds.index("agent.text") < kinds.index("agent.turn") < kinds.index("caller.spoke")
        (latency,) = of_kind(events, "latency.measured")
        assert 0 < latency.stopped_to_first_delta_ms <= latency.stopped_to_heard_ms < 1000
        usage = of_kind(events, "usage.reported")
        (session,) = leg.rehearsal.sessions.all()
        assert {e.model for e in usage} == {"gpt-live-1"}
        assert sum(e.seconds for e in usage) == pytest.approx(session.appended_ms / 1000, abs=1.5)
        assert sum(e.cost_usd for e in usage) == pytest.approx(sum(e.seconds for e in usage) / 60 * 0.05)
        assert session.closed == {"code": 1000, "by": "server"}
        assert session.client_errors == []


async def test_tools_are_delegated_to_the_chat_model_and_its_tokens_are_counted(server):
    async with a_call(server, agent(tools=("price", "stock"))) as (worker, leg):

        async def describe(msg):
            endpoints = [
                {"subject": f"v1.*.tool.{name}", "metadata": {"description": name, "parameters": '{"type":"object"}'}}
                for name in leg.agent.tools
            ]
            info = {"type": "io.nats.micro.v1.info_response", "endpoints": endpoints}
            await msg.respond(json.dumps(info).encode())

        async def answer(msg):
            await msg.respond(json.dumps({"ok": True, "output": {"eur": 4}}).encode())

        await leg.nats.subscribe("$SRV.INFO", cb=describe)
        await leg.nats.subscribe("v1.*.tool.*", cb=answer)
        await leg.nats.flush()
        await leg.until_ready()
        await leg.release()
        await ended(worker)
        await worker.tools.refresh()
        await leg.offer(worker.id)
        await leg.until_ready()
        await said(worker, leg, 1)
        for count in (2, 3):
            await says(leg)
            await said(worker, leg, count)
        events = await events_of(worker, leg)
        assert of_kind(events, "agent.turn")[-1].text == "Das macht 4 Euro."
        assert {e.name for e in of_kind(events, "tool.returned")} == {"price", "stock"}
        (chat,) = [e for e in of_kind(events, "usage.reported") if e.source == "response"]
        assert chat.model == "gpt-5.6-luna"
        assert chat.tokens["text_in"] > 0
        assert chat.cost_usd > 0
        assert leg.rehearsal.sessions.all()[-1].client_errors == []


async def test_a_caller_who_interrupts_is_heard_and_what_was_said_is_recorded(server):
    async with a_call(server) as (worker, leg):
        await leg.until_ready()
        await said(worker, leg, 1)
        await says(leg)
        await at_line(leg, lambda: loud(leg.heard) >= 900)
        await says(leg)
        await said(worker, leg, 2)
        cut = of_kind(await events_of(worker, leg), "agent.turn")[1]
        assert cut.interrupted
        assert loud(leg.heard) < 2000
        assert "Zehn Bögen sind notiert. Noch etwas? Ich höre Ihnen gerne zu.".startswith(cut.heard_text)
        assert 300 < cut.heard_ms < 1700
        assert not [frame for frame in leg.frames if frame.flags & 4]  # nothing was flushed: the model yielded


async def test_the_goodbye_is_heard_before_the_line_is_cut(server):
    config = agent(goodbye="Auf Wiederhören und danke.", limits=Limits(max_duration_s=1.0))
    async with a_call(server, config) as (worker, leg):
        await leg.until_ready()
        await at_line(leg, lambda: bool(leg.commanded("hang_up")))
        assert leg.commanded("hang_up")[0].reason == "max_duration"
        assert await turns_of(worker, leg) == [GREETING, "Auf Wiederhören und danke."]
        assert loud(leg.heard) == 1000


async def test_what_somebody_wants_said_is_said(server):
    async with a_call(server) as (worker, leg):
        await leg.until_ready()
        await said(worker, leg, 1)
        subject = subjects.control(leg.agent.org, leg.call, "agent")
        await leg.nats.request(subject, SayNow(text="Bitte bleiben Sie dran.").to_json(), timeout=2)
        await said(worker, leg, 2)
        assert (await turns_of(worker, leg))[-1] == "Bitte bleiben Sie dran."


async def test_wideband_calls_pass_as_pcm_without_resampling(server):
    async with a_call(server, state=CallState(codec="G722", rate_hz=16000)) as (worker, leg):
        await leg.until_ready()
        await said(worker, leg, 1)
        (session,) = leg.rehearsal.sessions.all()
        assert session.input_format == "audio/pcm"
        assert len(leg.heard) >= 16000 * 0.5 * 2


BROKEN_FRAMES = (
    "malformed_json",
    "binary_frame:after_deltas=2",
    "extra_field:after_deltas=4",
    "unknown_event:after_deltas=5",
    "error:error_code=server_error,after_deltas=6",
    "odd_bytes:after_deltas=8",
)


@pytest.mark.parametrize("faults", [BROKEN_FRAMES, ("stall:after_deltas=10,duration_ms=1500",)])
async def test_faults_that_a_session_survives(server, faults):
    async with a_call(server, faults=faults) as (worker, leg):
        await leg.until_ready()
        await said(worker, leg, 1)
        assert await turns_of(worker, leg) == [GREETING]
        assert worker.counters["reconnected"] == 0
        assert leg.commanded("failed") == []


async def test_a_lost_session_is_replaced_by_one_that_knows_the_conversation(server):
    losses = (*(f"close:code={code},after_deltas=30" for code in (1000, 1001, 1011, 4000)), "abort:after_deltas=30")
    async with asyncio.TaskGroup() as calls:  # side by side: a stream at real-time pace takes its time
        for loss in losses:
            calls.create_task(_lost_and_replaced(server, loss))


async def _lost_and_replaced(server, loss):
    async with a_call(server, faults=(loss,)) as (worker, leg):
        await leg.until_ready()
        await at_line(leg, lambda: worker.counters["reconnected"] == 1)
        await says(leg)
        await said(worker, leg, 2)
        assert leg.commanded("failed") == []
        first, second = leg.rehearsal.sessions.all()
        assert second.conversation.turn == 1
        assert GREETING.startswith(second.items()[0].text)
        assert first.closed is not None
        # Nobody told what the lost one cost: it is reckoned by the clock.
        assert first.session_id in {e.reference for e in of_kind(await events_of(worker, leg), "usage.reported")}


async def test_a_session_that_reaches_its_longest_duration_is_replaced(server):
    async with a_call(server, session_limit_s=2.0) as (worker, leg):
        await leg.until_ready()
        await at_line(leg, lambda: len(leg.rehearsal.sessions.all()) > 1)
        await says(leg)
        await said(worker, leg, 2)
        assert leg.commanded("failed") == []


async def test_a_session_that_does_not_open_ends_with_its_reason(server):
    failures = {
        "refuse:status=401": "model_refused",
        "refuse:status=500": "model_unreachable",
        "hang_upgrade": "model_unreachable",
        "no_session_created": "model_unreachable",
        "pcm_instead": "model_failed",
    }
    async with asyncio.TaskGroup() as calls:
        for fault, reason in failures.items():
            calls.create_task(_not_opened(server, fault, reason))


async def test_a_flood_before_the_session_is_open_is_dropped_and_counted(monkeypatch):
    monkeypatch.setattr("services.ai_session.backends.arrivals.MAX_EARLY_EVENTS", 5)
    endpoint, backend = unopened_backend()
    for _ in range(50):
        backend.received(b'{"type":"session.output_transcript.delta","delta":"la"}')
    assert endpoint.counters["early_events_dropped"] == 45
    backend.disconnected()  # what decides about the opening is not lost in the flood
    with pytest.raises(BackendError, match="the model connection broke"):
        await backend._await_start()


@pytest.mark.parametrize(
    ("code", "reason", "retry"),
    [(1000, "", True), (1008, "policy", True), (1008, "invalid_api_key", False), (4000, "insufficient_quota", False)],
)
async def test_a_close_is_judged_as_the_realtime_apis_is_and_counted(code, reason, retry):
    endpoint, backend = unopened_backend()
    backend.closing(code, reason)
    backend.disconnected()
    assert endpoint.counters[f"lost_closed_{code}"] == 1
    with pytest.raises(BackendError, match=f"closed with {code}") as lost:
        await backend._await_start()
    assert lost.value.retry is retry


@pytest.mark.parametrize(("code", "retry"), [("invalid_value", False), ("rate_limit_exceeded", True)])
async def test_a_limit_is_no_fault_of_the_client_whatever_class_of_error_it_comes_as(code, retry):
    _, backend = unopened_backend()
    error = {"type": "invalid_request_error", "code": code, "message": "no"}
    backend.received(json.dumps({"type": "error", "error": error}).encode())
    with pytest.raises(BackendError, match="no") as refused:
        await backend._await_start()
    assert refused.value.retry is retry


def unopened_backend():
    offer = Offer(call="c", org="o", gw="g", epoch=1, caller="1", callee="2", agent=agent())
    endpoint = LiveEndpoint("http://127.0.0.1:1/v1", "k", "gpt-live-1", load(BUILT_IN_MODELS))
    return endpoint, plan_live(endpoint, offer).make(lambda _: None)


async def _not_opened(server, fault, reason):
    async with a_call(server, agent(limits=Limits(ready_timeout_s=0.7)), faults=[fault], fault_count=9) as (_, leg):
        await leg.until(lambda: leg.commanded("failed"))
        assert leg.commanded("failed")[0].reason == reason


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"turn_taking": TurnTaking(barge_in="local")}, "barge_in"),
        ({"turn_taking": TurnTaking(threshold=0.5)}, "threshold"),
        ({"transcription": Transcription(model="gpt-transcribe")}, "its own transcript"),
        ({"speed": 1.2}, "pace"),
    ],
)
def test_what_live_cannot_do_is_refused_in_a_sentence(fields, word):
    offer = Offer(call="c", org="o", gw="g", epoch=1, caller="1", callee="2", agent=agent(**fields))
    endpoint = LiveEndpoint("http://127.0.0.1:1/v1", "k", "gpt-live-1", load(BUILT_IN_MODELS))
    with pytest.raises(UnsupportedAgentError, match=word):
        plan_live(endpoint, offer)
