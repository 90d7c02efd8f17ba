"""Faults of the rehearsal server that a call survives: limits, cut answers, slow and hasty deltas, silent pings."""

from __future__ import annotations

import json

import pytest

from services.rehearsal.faults import parse_fault
from tests.unit.ai_session.test_realtime import SPEECH, a_call, agent, events_of, of_kind


@pytest.mark.parametrize(
    "fault",
    [
        "rate_limit",
        "rate_limit:turn=1",
        "error:error_code=rate_limit_exceeded,turn=1",
        "slow_drip:factor=0.8",
        "burst",
        "transcription_failed",
    ],
)
async def test_the_caller_is_greeted_and_answered(server, fault):
    async with a_call(server, fault=fault) as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 8000)
        await leg.run(400, SPEECH)
        await leg.run_until(lambda: len(leg.heard) >= 8000 + 24000, limit_s=8)
        await leg.run(100)
        events = await events_of(worker, leg)
        assert [e.text for e in of_kind(events, "agent.turn")][:2] == [
            "Guten Tag. Was darf es sein?",
            "Zehn Bögen sind notiert. Noch etwas? Ich höre Ihnen gerne zu.",
        ]
        (turn,) = of_kind(events, "caller.turn")
        assert turn.failed is (fault == "transcription_failed")
        assert leg.commanded("failed") == []
        assert leg.rehearsal.sessions.all()[-1].client_errors == []


async def test_arguments_that_are_no_json_are_answered_with_a_hint(server):
    async with a_call(server, agent(tools=("price", "stock"))) as (worker, leg):

        async def describe(msg):
            endpoints = [{"subject": f"v1.*.tool.{name}", "metadata": {"description": "d"}} for name in leg.agent.tools]
            await msg.respond(json.dumps({"endpoints": endpoints}).encode())

        await leg.nats.subscribe("$SRV.INFO", cb=describe)
        await leg.nats.flush()
        await leg.until_ready()
        await leg.release()
        await worker.tools.refresh()
        leg.rehearsal.inject(parse_fault("invalid_arguments"))
        leg.commands.clear()
        await leg.offer(worker.id)
        await leg.until_ready()
        for heard in (8000, 8000 + 24000):
            await leg.run_until(lambda heard=heard: len(leg.heard) >= heard)
            await leg.run(400, SPEECH)
        await leg.run_until(lambda: worker.counters["tool_failures"] >= 1)
        returned = of_kind(await events_of(worker, leg), "tool.returned")
        assert any("JSON" in tool.output["error"] for tool in returned)
        assert leg.commanded("failed") == []


async def test_a_server_that_answers_no_ping_is_replaced(server, monkeypatch):
    monkeypatch.setattr("services.ai_session.backends.realtime_link.PING_AFTER_S", 0.2)
    monkeypatch.setattr("services.ai_session.backends.realtime_link.PONG_WITHIN_S", 0.2)
    async with a_call(server, fault="no_pong") as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: worker.counters["reconnected"] == 1)
        assert leg.commanded("failed") == []
