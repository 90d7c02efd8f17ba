"""Whether a call is recorded: its agent's policy from the answer on, then whatever is commanded."""

import asyncio

import pytest

from libs.contracts.agent import AgentConfig
from libs.contracts.commands import Record
from libs.contracts.termination import Reason
from tests.support.fake_recorder import FakeRecorder
from tests.support.fake_worker import FakeWorker
from tests.unit.call_leg.at_gateway import until


def agent(policy):
    return AgentConfig(name="test", recording=policy, limits={"ready_timeout_s": 0.3})


async def recordings(gateway, shell):
    return [event.state for event in await gateway.events(shell) if event.kind == "call.recording"]


@pytest.mark.parametrize("policy", ["on", "announce"])
async def test_a_call_is_recorded_from_its_answer_to_its_end(server, gateway, policy):
    async with FakeWorker(server.url) as worker, FakeRecorder(server.url) as recorder:
        await gateway.knows(worker)
        shell, _ = await gateway.talking(agent=agent(policy))
        assert shell.audience.is_recording
        await until(lambda: shell.audio.is_overheard)
        (request,) = recorder.requests
        assert (request.call, request.gw) == (shell.new.call, gateway.gw)
        shell.caller_gone(Reason.CALLER_HUNG_UP)
        await until(lambda: not len(gateway.legs))
        assert not shell.audience.is_recording
        assert await recordings(gateway, shell) == ["started", "stopped"]


@pytest.mark.parametrize("policy", ["on", "announce"])
async def test_nothing_is_recorded_while_a_callee_is_rung(server, gateway, policy):
    async with FakeWorker(server.url) as worker, FakeRecorder(server.url) as recorder:
        await gateway.knows(worker)
        shell, caller = gateway.call(direction="outbound", agent=agent(policy))
        await asyncio.wait_for(caller.dialled.wait(), 2)
        shell.ringing(183, early_media=True)
        assert not shell.audience.is_recording
        shell.answered("PCMA", 8000)
        assert shell.audience.is_recording
        await until(lambda: recorder.requests)


async def test_a_call_whose_agent_does_not_record_is_recorded_on_command_alone(server, gateway):
    async with FakeWorker(server.url) as worker, FakeRecorder(server.url) as recorder:
        await gateway.knows(worker)
        shell, _ = await gateway.talking(agent=agent("off"))
        assert not shell.audience.is_recording
        assert (await gateway.command(shell, Record(on=True))).ok
        await until(lambda: shell.audio.is_overheard)
        assert (await gateway.command(shell, Record(on=False))).ok
        await asyncio.wait_for(recorder.over.wait(), 1)
        assert len(recorder.requests) == 1
        assert await recordings(gateway, shell) == ["started", "stopped"]


async def test_an_agents_policy_is_no_obstacle_to_stopping(server, gateway):
    async with FakeWorker(server.url) as worker, FakeRecorder(server.url) as recorder:
        await gateway.knows(worker)
        shell, _ = await gateway.talking(agent=agent("on"))
        await until(lambda: shell.audio.is_overheard)
        assert (await gateway.command(shell, Record(on=False))).ok
        await asyncio.wait_for(recorder.over.wait(), 1)
        assert not shell.audience.is_recording
