"""The tools that are about the call itself, and answers of tools in any language: the call goes on, the model knows."""

from __future__ import annotations

import asyncio
import json

import pytest
from pydantic import ValidationError

from libs.contracts.agent import AgentConfig
from libs.contracts.transfers import Transfers, TransferTarget
from libs.plugins.host import PluginHost
from libs.runtime.bus import Bus
from services.ai_session import call_tools
from services.ai_session.tools import MOST_REPLY_BYTES, descriptions_in, read_reply
from tests.unit.ai_session.test_session_end import hung_up, left
from tests.unit.ai_session.test_session_state import changed
from tests.unit.ai_session.test_worker import a_call, agent, events_of
from tests.unit.plugins import samples

TRANSFERS = Transfers(
    targets={
        "Verkauf": TransferTarget(
            number="+49301111", description="Fragen zu Angeboten", announcement="Ein Installateur."
        ),
        "Werkstatt": TransferTarget.model_validate("101"),
    }
)


def calls(tool, **arguments):
    """The model says a word, calls the tool, and says another one when it has the result."""
    return {
        "say": [
            ["text:Moment.", "tone:440:200", f"tool:{tool}:{json.dumps(arguments)}"],
            ["text:Danach.", "tone:440:200"],
        ]
    }


async def returned(worker, leg):
    found = [event for event in await events_of(worker, leg) if event.kind == "tool.returned"]
    assert len(found) == 1
    return found[0]


async def test_a_transfer_begins_after_the_last_words_and_its_failure_brings_the_agent_back(server):
    config = agent(
        greeting="x", tools=("transfer_call",), transfers=TRANSFERS, options=calls("transfer_call", target="verkauf")
    )
    async with a_call(server, config) as (worker, leg):
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.run_until(lambda: leg.commanded("transfer"))
        assert len(leg.heard) >= 3200  # "Moment."
        command = leg.commanded("transfer")[0]
        assert (command.epoch, command.target, command.mode) == (1, "+49301111", "auto")
        assert command.announcement == "Ein Installateur."
        await changed(leg, transfer="pending")
        await leg.run(200)
        await changed(leg, transfer="failed")
        await leg.run_until(lambda: len(leg.heard) >= 6400)
        await leg.run(200)
        result = await returned(worker, leg)
        assert not result.ok
        assert "back with you" in result.output["error"]
        assert [e.text for e in await events_of(worker, leg) if e.kind == "agent.text"] == ["Moment.", "Danach."]


async def test_a_transfer_that_succeeds_is_on_the_record(server):
    config = agent(
        greeting="x", tools=("transfer_call",), transfers=TRANSFERS, options=calls("transfer_call", target="Werkstatt")
    )
    async with a_call(server, config) as (worker, leg):
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.run_until(lambda: leg.commanded("transfer"))
        await hung_up(leg)
        await left(worker)
        assert (await returned(worker, leg)).output == {"status": "connected", "target": "Werkstatt"}


@pytest.mark.parametrize(
    ("tool", "arguments", "why"),
    [
        ("transfer_call", {"target": "+491701234567"}, "no target"),
        ("transfer_call", {}, "needs target"),
        ("transfer_call", {"target": "Verkauf"}, "not possible: no trunk"),
        ("send_dtmf", {"digits": "abc!"}, "digits is not right"),
        ("send_dtmf", {"digits": "1 2-3"}, "not now"),
    ],
)
async def test_what_cannot_be_done_is_told_to_the_model_and_the_call_goes_on(server, tool, arguments, why):
    config = agent(
        greeting="x", tools=("transfer_call", "send_dtmf"), transfers=TRANSFERS, options=calls(tool, **arguments)
    )
    async with a_call(server, config) as (worker, leg):
        leg.refuse = {"transfer": "no trunk", "send_dtmf": "not now"}
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 6400)
        result = await returned(worker, leg)
        assert not result.ok
        assert why in result.output["error"]


async def test_keys_are_pressed_with_the_sessions_epoch(server):
    config = agent(greeting="x", tools=("send_dtmf",), options=calls("send_dtmf", digits="4 7-1#"))
    async with a_call(server, config) as (worker, leg):
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.run_until(lambda: leg.commanded("send_dtmf"))
        command = leg.commanded("send_dtmf")[0]
        assert (command.epoch, command.digits) == (1, "471#")


@pytest.mark.parametrize("name", call_tools.ENDS_CALL)
async def test_the_agent_hangs_up_when_its_goodbye_was_heard(server, name):
    async with a_call(server, agent(greeting="x", tools=(name,), options=calls(name))) as (worker, leg):
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.run_until(lambda: leg.commanded("hang_up"))
        assert len(leg.heard) >= 3200
        assert (await returned(worker, leg)).ok


@pytest.mark.parametrize("name", call_tools.NAMES)
async def test_only_an_agent_that_lists_them_has_them(server, name):
    config = agent(greeting="x", transfers=TRANSFERS, options=calls(name, target="Verkauf", digits="1"))
    async with a_call(server, config) as (worker, leg):
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 6400)
        assert not (await returned(worker, leg)).ok
        assert not leg.commanded("transfer")
        assert not leg.commanded("hang_up")
        assert not leg.commanded("send_dtmf")


def test_the_model_is_told_the_targets_by_name_and_never_their_numbers():
    config = AgentConfig(name="x", tools=("transfer_call", "end_call"), transfers=TRANSFERS)
    transfer = next(t for t in call_tools.descriptions(config, config.tools) if t.name == "transfer_call")
    assert transfer.parameters["properties"]["target"]["enum"] == ["Verkauf", "Werkstatt"]
    assert "Fragen zu Angeboten" in transfer.description
    assert "+49301111" not in transfer.model_dump_json()


def test_without_targets_there_is_no_transfer():
    config = AgentConfig(name="x", tools=("transfer_call", "end_call"))
    assert [tool.name for tool in call_tools.descriptions(config, config.tools)] == ["end_call"]


def test_a_free_number_is_only_called_where_that_is_allowed():
    for allowed in (False, True):
        config = AgentConfig(name="x", transfers=Transfers(any_number=allowed))
        target = call_tools.CallTools(config, 1, None, None).target("+49 (170) 1234567")
        assert (target.number if target else None) == ("+491701234567" if allowed else None)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"ok": true, "output": NaN}', "cannot be used"),
        (b'{"ok": true, "output": "' + b"x" * MOST_REPLY_BYTES + b'"}', "too much"),
        (b'{"ok": false}', "The tool price failed."),
        (b'{"ok": false, "error": "' + b"x" * 5000 + b'"}', "xxx"),
    ],
)
def test_any_answer_becomes_a_sentence(data, why):
    reply = read_reply("price", data)
    assert not reply.ok
    assert why in reply.error
    assert len(reply.error) <= 500


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b'"ok"', b'{"ok": "perhaps"}', b'{"output": 1}', b"[" * 10_000])
def test_what_is_no_answer_is_refused(data):
    with pytest.raises(ValidationError):
        read_reply("price", data)


async def test_a_tool_that_answers_nonsense_does_not_end_the_call(server):
    async with a_call(server, agent(greeting="x", tools=("price",), options=calls("price"))) as (worker, leg):

        async def price(msg):
            await msg.respond(b"<html>502 Bad Gateway</html>")

        await leg.nats.subscribe("v1.*.tool.price", cb=price)
        await leg.nats.flush()
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 6400)
        assert (await returned(worker, leg)).output == {"error": "The tool price failed."}


def test_a_tool_of_one_organisation_is_told_from_those_of_all():
    endpoints = [
        {"subject": f"v1.{org}.tool.price", "metadata": {"description": org}} for org in ("*", "default", "not a token")
    ]
    found = descriptions_in(json.dumps({"endpoints": endpoints}).encode())
    assert [(org, tool.description) for org, tool in found][:2] == [("*", "*"), ("default", "default")]


@pytest.mark.parametrize("fault", ["raises", "hangs", "blocks", "exits", "NaN", "a cycle", "huge"])
async def test_a_call_survives_whatever_a_plug_in_does(server, fault):
    bus = await Bus.connect(server.url, "pl-1")
    host, stopping = PluginHost(bus, [samples.fault(samples.FAULTS[fault])]), asyncio.Event()
    serving = asyncio.create_task(host.run(stopping, lambda: None))
    try:
        async with a_call(server, agent(greeting="x", tools=("faulty",), options=calls("faulty"))) as (worker, leg):
            async with asyncio.timeout(5):
                while worker.tools.find("default", "faulty") is None:
                    await worker.tools.refresh()
            await leg.offer(worker.id)
            await leg.until_ready()
            await leg.run_until(lambda: len(leg.heard) >= 6400)  # "Danach.": the model goes on
            result = await returned(worker, leg)
            assert not result.ok
            assert "faulty" in result.output["error"]
            assert worker.sessions == 1
    finally:
        stopping.set()
        await serving
        await bus.close()
