"""Plug-ins on the bus, called as a worker calls them; and a worker that meets any kind of answer."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest_asyncio

from libs.contracts import subjects
from libs.contracts.agent import AgentConfig, Limits
from libs.contracts.offer import Offer
from libs.contracts.tool import ToolReply, ToolRequest
from libs.plugins.host import PluginHost
from libs.runtime.bus import Bus
from services.ai_session.tools import ToolCaller, ToolDirectory
from tests.support.nats import nats_server
from tests.unit.plugins import samples


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server():
    async with nats_server() as running:
        yield running


@asynccontextmanager
async def hosted(url, *plugins):
    bus = await Bus.connect(url, "pl-1")
    host, stopping = PluginHost(bus, plugins), asyncio.Event()
    up = asyncio.Event()
    task = asyncio.create_task(host.run(stopping, up.set))
    try:
        async with asyncio.timeout(20):
            await up.wait()
        yield host
    finally:
        stopping.set()
        await task
        await bus.close()


@asynccontextmanager
async def worker(url, *tools, offered=None):
    """A worker's way to tools, once it has found those that its agent has, or what else is `offered`."""
    bus = await Bus.connect(url, "wk-1")
    directory = ToolDirectory(bus)
    async with asyncio.timeout(20):
        while not all(directory.find("default", name) for name in offered or tools):
            await directory.refresh()
    agent = AgentConfig(name="x", tools=tools, limits=Limits(tool_timeout_s=0.6))
    offer = Offer(call="c", org="default", gw="g", epoch=1, caller="+49301234567", callee="b", agent=agent)
    try:
        yield directory, ToolCaller(offer, bus, directory)
    finally:
        await bus.close()


async def test_a_worker_finds_a_plug_in_and_calls_it(server):
    plugins = (samples.Stock(), samples.Started(), samples.NeverStarts())
    async with hosted(server.url, *plugins) as host, worker(server.url, "stock", "started") as (directory, caller):
        described = {
            tool.name: tool for tool in await directory.descriptions(AgentConfig(name="x", tools=("stock", "started")))
        }
        assert described["stock"] == samples.Stock.describe()
        assert (await caller.call("1", "stock", {"article": "4711"})).output["caller"] == "+49301234567"
        assert (await caller.call("2", "started", {"article": "4711"})).output == "open"
        assert not (await caller.call("3", "counting", {"article": "4711"})).ok  # not in the agent's list
        assert host.counters["not_started"] == 1


async def test_a_tool_that_is_offered_but_not_in_the_agent_s_list_is_not_called(server):
    async with (
        hosted(server.url, samples.Stock()) as host,
        worker(server.url, "started", offered=["stock"]) as (_, caller),
    ):
        assert "no tool" in (await caller.call("1", "stock", {"article": "4711"})).error
        assert not host.counters["answered"]


async def test_a_request_in_the_name_of_another_organisation_or_tool_is_refused(server):
    async with hosted(server.url, samples.Stock()) as host, worker(server.url, "stock") as (_, caller):
        for fields in ({"org": "other"}, {"name": "started"}):
            request = ToolRequest(
                **{"org": "default", "name": "stock"} | fields,
                call="c",
                epoch=1,
                tool_call_id="1",
                arguments={"article": "4711"},
                deadline_at=datetime.now(UTC) + timedelta(seconds=5),
            )
            answer = await caller.bus.request(subjects.tool("default", "stock"), request.to_json(), 5)
            assert "another tool or organisation" in ToolReply.model_validate_json(answer).error
        assert not host.counters["answered"]


async def test_faults_reach_the_model_as_sentences(server):
    for name in ("hangs", "blocks", "raises", "NaN"):
        async with hosted(server.url, samples.fault(samples.FAULTS[name])), worker(server.url, "faulty") as (_, caller):
            reply = await caller.call(name, "faulty", {})
            assert not reply.ok
            assert "faulty" in reply.error


async def test_a_plug_in_runs_as_a_process_of_its_own(server):
    command = [sys.executable, "-m", "libs.plugins", "tests.unit.plugins.samples:Stock"]
    environment = {"NATS_URL": server.url, "PATH": "", "PYTHONPATH": ".", "HEALTH_PORT": "0"}
    process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with worker(server.url, "stock") as (_, caller):
            assert (await caller.call("1", "stock", {"article": "1"})).output["stock"] == 7
    finally:
        process.terminate()
        assert await process.wait() == 0
