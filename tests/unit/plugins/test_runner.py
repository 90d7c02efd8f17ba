"""One plug-in at work: whatever it does, there is a reply that a model can speak of."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import BaseModel, field_validator

from libs.contracts.tool import ToolRequest
from libs.plugins import ExternalPlugin
from libs.plugins.runner import PluginRunner
from tests.unit.plugins import samples


def request(name="faulty", tool_call_id="t1", left_s=5.0, **arguments):
    return ToolRequest(
        call="c",
        org="default",
        epoch=1,
        tool_call_id=tool_call_id,
        name=name,
        arguments=arguments,
        deadline_at=datetime.now(UTC) + timedelta(seconds=left_s),
        caller="+4930",
        agent="a",
    )


@asynccontextmanager
async def running(plugin):
    runner = PluginRunner(plugin, Counter())
    await runner.start()
    yield runner
    runner._thread.close()


async def test_a_plug_in_answers():
    async with running(samples.Stock()) as runner:
        reply = await runner.answer(request("stock", article="4711"))
    assert reply.ok
    assert reply.output == {"article": "4711", "stock": 7, "caller": "+4930"}
    assert runner._counters == {"answered": 1}


@pytest.mark.parametrize("fault", samples.FAULTS)
async def test_a_fault_is_a_sentence_in_time(fault):
    async with running(samples.fault(samples.FAULTS[fault])) as runner:
        runner._plugin.parameters = samples.Params
        began = time.monotonic()
        reply = await runner.answer(request(article="1"))
        assert not reply.ok
        assert "faulty" in reply.error
        assert len(reply.error) < 300
        assert time.monotonic() - began < 2
        assert runner._counters.total() == 1


async def test_what_the_plug_in_says_to_the_caller_is_passed_on():
    async with running(samples.Refusing()) as runner:
        assert (await runner.answer(request("refusing", article="1"))).error == "Es gibt keine offene Rechnung."
    async with running(samples.Replying()) as runner:
        assert (await runner.answer(request("replying", article="1"))).error == "no"


async def test_arguments_that_do_not_fit_are_told_to_the_model():
    async with running(samples.Stock()) as runner:
        assert (await runner.answer(request("stock"))).error == "stock needs article."
        wrong = await runner.answer(request("stock", article="1", size={"value": "wide"}))
        assert wrong.error.startswith("stock: size.value is not right")
        assert (await runner.answer(request("stock", article="1", size=None, tags=None, more=None))).ok


async def test_a_repeated_request_is_carried_out_once():
    plugin = samples.Counting()
    async with running(plugin) as runner:
        both = await asyncio.gather(*(runner.answer(request("counting", article="1")) for _ in range(2)))
        later = await runner.answer(request("counting", article="1"))
        other = await runner.answer(request("counting", "t2", article="1"))
        misused = await runner.answer(request("counting", article="2"))
    assert [reply.output for reply in (*both, later, other)] == [1, 1, 1, 2]
    assert "another request" in misused.error
    assert plugin.calls == 2


async def test_who_asked_may_leave_and_come_back():
    plugin = samples.Counting()
    async with running(plugin) as runner:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await runner.answer(request("counting", article="1"))
        assert (await runner.answer(request("counting", article="1"))).output == 1


async def test_what_comes_too_late_is_not_begun():
    plugin = samples.Counting()
    async with running(plugin) as runner:
        reply = await runner.answer(request("counting", left_s=0.05, article="1"))
    assert "too late" in reply.error
    assert plugin.calls == 0


async def test_synchronous_code_runs_side_by_side():
    async with running(samples.Blocking()) as runner:
        began = time.monotonic()
        replies = await asyncio.gather(*(runner.answer(request("blocking", f"t{n}")) for n in range(10)))
        assert [reply.output for reply in replies] == ["slept"] * 10
        assert time.monotonic() - began < 0.6


async def test_a_plug_in_that_blocks_gets_another_thread():
    block = [True]

    def behaviour():
        if block[0]:
            time.sleep(3)
        return "well"

    async with running(samples.fault(behaviour)) as runner:
        for n in range(2):
            assert not (await runner.answer(request(tool_call_id=f"t{n}"))).ok
        block[0] = False
        assert (await runner.answer(request(tool_call_id="t9"))).output == "well"
        assert runner._thread.left_behind == 1


async def test_a_synchronous_plug_in_that_never_returns_does_not_fill_the_process_with_threads(monkeypatch):
    monkeypatch.setattr("libs.plugins.threads.MOST_CALL_THREADS", 4)
    go_on = threading.Event()

    class Hanging(ExternalPlugin):
        name = "hanging"
        description = "Never returns."
        timeout_s = 0.05

        def execute(self, params, context):
            go_on.wait()
            return "at last"

    async with running(Hanging()) as runner:
        before = threading.active_count()
        for n in range(8):
            assert not (await runner.answer(request("hanging", f"t{n}"))).ok
        assert threading.active_count() - before <= 4
        assert runner._counters == {"too_late": 4, "stuck": 4}
        go_on.set()
        for thread in threading.enumerate():
            if thread.name == "plugin-call-hanging":
                await asyncio.to_thread(thread.join, 5)
        assert (await runner.answer(request("hanging", "t9"))).output == "at last"


async def test_a_validator_that_crashes_is_a_sentence():
    class Share(BaseModel):
        of: int

        @field_validator("of")
        @classmethod
        def _share(cls, value):
            return 100 // value

    class Sharing(samples.Stock):
        name = "sharing"
        parameters = Share

    async with running(Sharing()) as runner:
        reply = await runner.answer(request("sharing", of=0))
    assert reply.error == "The tool sharing failed."
    assert runner._counters == {"crashed": 1}
