"""Tools: one look-up for many calls, placeholders side by side, a second try of what may be tried twice."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from libs.contracts.agent import AgentConfig, Limits
from libs.contracts.offer import Offer
from services.ai_session.tools import MOST_REPLY_BYTES, ToolCaller, descriptions_in, parse_arguments, read_reply
from tests.unit.ai_session.conftest import gateway, running_worker


def offer(**fields):
    agent = AgentConfig(name="x", tools=("price",), limits=Limits(tool_timeout_s=0.3), **fields)
    return Offer(call="c", org="default", gw="g", epoch=1, caller="a", callee="b", agent=agent)


async def offered(client, *, idempotent):
    """`price` describes itself on the bus; nobody serves it yet."""
    metadata = {"description": "d", "idempotent": str(idempotent).lower()}
    info = json.dumps({"endpoints": [{"subject": "v1.*.tool.price", "metadata": metadata}]}).encode()

    async def describe(msg):
        await msg.respond(info)

    subscription = await client.subscribe("$SRV.INFO", cb=describe)
    await client.flush()
    return subscription


async def test_twenty_calls_with_a_missing_tool_ask_once(server):
    async with running_worker(server.url) as worker:
        worker.tools._refreshed_at = float("-inf")
        before = worker.tools.counters["discoveries"]
        began = time.monotonic()
        await asyncio.gather(
            *(worker.tools.descriptions(AgentConfig(name="x", tools=("no_such_tool",))) for _ in range(20))
        )
        assert time.monotonic() - began < 1
        assert worker.tools.counters["discoveries"] - before <= 2  # the worker's own first one may be under way


async def test_slow_placeholders_share_one_budget(server, monkeypatch):
    monkeypatch.setattr("services.ai_session.tools.PROMPT_TOOL_TIMEOUT_S", 0.3)
    async with running_worker(server.url) as worker, gateway(server.url) as client:

        async def slow(_):
            await asyncio.sleep(5)

        async def quick(msg):
            await msg.respond(b'{"ok": true, "output": ["Bogen"]}')

        for name in "abc":
            await client.subscribe(f"v1.*.tool.{name}", cb=slow)
        await client.subscribe("v1.*.tool.d", cb=quick)
        await client.flush()
        caller = ToolCaller(offer(), worker._bus, worker.tools)
        began = time.monotonic()
        filled = await caller.fill("{{tool:a}} {{tool:b}} {{tool:c}} {{tool:d}} {{tool:d}}")
        assert filled == "(unknown) (unknown) (unknown) Bogen Bogen"
        assert time.monotonic() - began < 0.6


@pytest.mark.parametrize(("idempotent", "asked"), [(True, 2), (False, 1)])
async def test_only_a_tool_that_may_be_asked_twice_is(server, idempotent, asked):
    async with running_worker(server.url) as worker, gateway(server.url) as client:
        description = await offered(client, idempotent=idempotent)
        await worker.tools.refresh()
        requests = []

        async def answer(msg):
            requests.append(json.loads(msg.data))
            if len(requests) == 2:
                await msg.respond(b'{"ok": true, "output": 4}')

        await client.subscribe("v1.*.tool.price", cb=answer)
        for _ in range(2):  # a flush writes its PING before the SUB that waits
            await client.flush()
        reply = await ToolCaller(offer(), worker._bus, worker.tools).call("t", "price", {})
        assert reply.ok is idempotent
        assert len(requests) == asked
        assert {request["tool_call_id"] for request in requests} == {"t"}
        await description.unsubscribe()


async def test_a_service_that_restarts_is_asked_again(server):
    async with running_worker(server.url) as worker, gateway(server.url) as client:
        description = await offered(client, idempotent=True)
        await worker.tools.refresh()

        async def answer(msg):
            await msg.respond(b'{"ok": true, "output": 4}')

        calling = asyncio.create_task(ToolCaller(offer(), worker._bus, worker.tools).call("t", "price", {}))
        await asyncio.sleep(0.1)  # the first attempt has found nobody
        await client.subscribe("v1.*.tool.price", cb=answer)
        for _ in range(2):  # a flush writes its PING before the SUB that waits
            await client.flush()
        assert (await calling).output == 4
        await description.unsubscribe()


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' + "[" * 300 + "]" * 300 + "}", '{"a": "\\ud800"}', '{"a": NaN}', '{"a": 1e999}'],
)
def test_arguments_that_could_not_be_written_down_are_no_arguments(text):
    assert parse_arguments(text) is None


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("x", '{"type": "string"}'),
        ("x", "[]"),
        ("x", '"object"'),
        ("x", "{}"),
        ("x", "[" * 100_000),
        ("x" * 65, '{"type": "object"}'),
    ],
)
def test_a_tool_that_the_api_would_refuse_with_the_whole_session_is_no_tool(name, parameters):
    def info(name, parameters):
        metadata = {"description": "d", "parameters": parameters}
        return {"subject": f"v1.*.tool.{name}", "metadata": metadata}

    endpoints = [info(name, parameters), info("good", '{"type": "object"}')]
    assert [tool.name for _, tool in descriptions_in(json.dumps({"endpoints": endpoints}).encode())] == ["good"]


async def test_an_organisation_s_own_tool_comes_before_everybody_s_and_its_time_limit_holds(server):
    async with running_worker(server.url) as worker, gateway(server.url) as client:
        endpoints = [
            {"subject": f"v1.{org}.tool.price", "metadata": {"description": whose, "timeout_ms": limit_ms}}
            for org, whose, limit_ms in (("*", "everybody's", "8000"), ("default", "ours", "100"))
        ]

        async def describe(msg):
            await msg.respond(json.dumps({"endpoints": endpoints}).encode())

        async def never(_):
            pass

        subscriptions = [await client.subscribe("$SRV.INFO", cb=describe)]
        subscriptions.append(await client.subscribe("v1.*.tool.price", cb=never))
        await client.flush()
        await worker.tools.refresh()
        assert worker.tools.find("default", "price").description == "ours"
        assert worker.tools.find("other", "price").description == "everybody's"
        asking = offer()
        patient = asking.agent.model_copy(update={"limits": Limits(tool_timeout_s=8)})
        caller = ToolCaller(asking.model_copy(update={"agent": patient}), worker._bus, worker.tools)
        began = time.monotonic()
        assert "in time" in (await caller.call("t", "price", {})).error
        assert time.monotonic() - began < 2
        for subscription in subscriptions:
            await subscription.unsubscribe()


def test_an_answer_that_would_fill_the_model_s_context_is_a_sentence():
    padded = b'{"ok": false, "error": "' + b"x" * MOST_REPLY_BYTES + b'"}'
    assert "too much to be told" in read_reply("price", padded).error
