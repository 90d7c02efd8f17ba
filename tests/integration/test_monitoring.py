"""Rules and dashboards on a real Prometheus that scrapes calls, a failover and troubles of models.

Every panel's query is executed and has to give data: that proves metrics, labels and PromQL. How Grafana renders it is
not proved here.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from cli.checkout import ROOT
from cli.demo.caller import read_clips
from cli.ports import free_port
from cli.state import ProcessIdentity, UpState
from deploy.prometheus.beside_up import by_service
from libs.audio.tone import tone
from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.config import OrgConfig, RouteConfig
from libs.contracts.events import CallClaimed, LatencyMeasured
from libs.contracts.spending import DaySpending, spending_key
from libs.runtime.spending_copy import today
from libs.runtime.streams import bucket
from libs.softphone.call import CallRejected, PhoneCall
from libs.softphone.phone import Softphone
from tests.integration.peers import require
from tests.support.calling import place
from tests.support.monitoring import DEPLOY, Monitoring, monitoring
from tests.support.platform import ECHO_AGENT, ECHO_ROUTE, EventFeed, Platform, platform
from tests.support.registrar import Registrar

pytestmark = [pytest.mark.peer, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

TOOLS = ("search_products", "order_add")
AGENTS = [
    AgentConfig(
        name=backend, backend=backend, prompt="[scenario: bestellung]", greeting="Guten Tag.", tools=TOOLS,
        recording="on", **more,
    )
    for backend, more in (("realtime", {}), ("pipeline", {"model": "gpt-5.6-luna"}))
]  # fmt: skip
SPENT = OrgConfig(name="spent", max_usd_per_day=1.0)
DOCUMENTS = [
    ECHO_AGENT,
    ECHO_ROUTE,
    SPENT,
    OrgConfig(name="default", max_usd_per_day=50.0),
    *AGENTS,
    *(RouteConfig(name=agent.name, match=(agent.name,), agent=agent.name) for agent in AGENTS),
    RouteConfig(name="spent", org="spent", match=("spent",), agent="echo"),
    ECHO_AGENT.model_copy(update={"org": "spent"}),
]
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
CLIP = read_clips()["bestellung-1"].pcm
REFUSED = ("nobody", "spent")


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("promtool", ("check", "config", "prometheus/prometheus.yml")),
        ("promtool", ("test", "rules", "prometheus/tests/alerts.yml")),
        ("amtool", ("check-config", "alertmanager/alertmanager.yml")),
    ],
)
async def test_the_files_pass_the_checks_of_their_own_tools(program: str, arguments: tuple[str, ...]) -> None:
    done = await asyncio.create_subprocess_exec(
        require(program), *arguments, cwd=DEPLOY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    told, _ = await done.communicate()
    assert done.returncode == 0, told.decode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scraped(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Monitoring]:
    """A Prometheus that has seen what happens in `live_through`."""
    for program in ("prometheus", "prometheus-alertmanager"):
        require(program)
    async with AsyncExitStack() as stack:
        registrar = await stack.enter_async_context(await Registrar.open())
        trunk = {
            "SIP_SERVER": "127.0.0.1",
            "SIP_PORT": str(registrar.address[1]),
            "SIP_USERNAME": "callbus",
            "SIP_PASSWORD": "registrar-takes-any",
        }
        running = await stack.enter_async_context(
            platform(
                documents=DOCUMENTS, workers=2, catalog=True, store=True, recorder=True, rehearsal=True,
                environment=trunk, worker_environment={"WORKER_SPARE_SESSIONS": "1"},
            )
        )  # fmt: skip
        ports = {name: port for name in running.names if (port := running.programs[name].health_port)}
        targets = by_service(ports)
        watched = await stack.enter_async_context(monitoring(targets, tmp_path_factory.mktemp("monitoring")))
        await asyncio.sleep(2.5)  # two scrapes of what has not happened yet
        await live_through(running)
        await asyncio.sleep(4.0)  # scrapes of what did
        watched.ports = ports
        yield watched


async def live_through(running: Platform) -> None:
    """Conversations with both kinds of models, tools, interruptions, refusals, troubles of models and a failover."""
    spend = await bucket(running.client.jetstream(), subjects.KV_SPEND)
    await spend.put(spending_key("spent", today(), "wk-x"), DaySpending(usd=2.0).to_json())
    async with running.events() as feed, await Softphone.open() as phone, asyncio.TaskGroup() as tasks:
        story = Story(running, feed, phone)
        echoing = [tasks.create_task(story.echo()) for _ in range(3)]
        for user in REFUSED:
            with pytest.raises(CallRejected):
                await phone.call(running.sip_uri(user))
        await asyncio.gather(*(story.order(agent.name) for agent in AGENTS))
        await fault(running, {"kind": "close", "code": 1011, "after_deltas": 3})
        await fault(running, {"kind": "refuse", "on": "chat", "status": 503})
        await asyncio.gather(*(story.order(agent.name) for agent in AGENTS))
        running.signal(await who_has_least_to_tell(running), signal.SIGKILL)
        await feed.wait_for(CallClaimed, len(feed.of(CallClaimed)) + 1)
        await asyncio.sleep(1.0)  # the successor is heard
        await asyncio.gather(*(story.order(agent.name) for agent in AGENTS))  # a rate needs a count that grew
        for task in echoing:
            task.cancel()


async def who_has_least_to_tell(running: Platform) -> str:
    """A worker with a call, whose turns will be missed least: nobody scrapes them any more."""
    turns = {
        name: await running.metric(name, "callbus_turn_latency_seconds_count")
        for name in running.workers
        if await running.metric(name, "callbus_worker_sessions")
    }
    return min(turns, key=lambda name: turns[name])


class Story:
    """What callers do."""

    def __init__(self, running: Platform, feed: EventFeed, phone: Softphone) -> None:
        self._running, self._feed, self._phone = running, feed, phone

    async def place(self, user: str) -> tuple[PhoneCall, str]:
        """A call that is answered, and its id; a machine that stalls may refuse it at first."""
        tries = AsyncRetrying(
            stop=stop_after_attempt(4), wait=wait_fixed(1), retry=retry_if_exception_type(CallRejected)
        )
        placed: tuple[PhoneCall, str] = await tries(place, self._running, self._feed, self._phone, user)
        return placed

    async def echo(self) -> None:
        """Talk until somebody has enough of it."""
        call, _ = await self.place("echo")
        try:
            await call.play(tone(440, 60_000, 8000)).wait()
        finally:
            await call.hang_up()

    async def order(self, agent: str) -> None:
        """Interrupt the greeting, and wait for what the agent says to it."""
        call, mine = await self.place(agent)
        await call.wait_for_speech()
        await call.play(CLIP).wait()
        await self._feed.wait_where(LatencyMeasured, lambda event: event.call == mine)
        await call.wait_for_speech()
        await call.hang_up()


async def fault(running: Platform, what: dict[str, Any]) -> None:
    url = f"{running.rehearsal_url}/rehearsal/faults"
    async with aiohttp.ClientSession() as client, client.post(url, json=what) as response:
        assert response.status < 300, await response.text()


def queries(path: Path) -> list[tuple[str, str]]:
    """Title and query of every panel, and the query of the alerts that are drawn into all of them."""
    dashboard = json.loads(path.read_text("utf-8"))
    drawn = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", ())]
    return drawn + [(one["name"], one["expr"]) for one in dashboard["annotations"]["list"]]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
async def test_every_query_of_a_dashboard_gives_data(scraped: Monitoring, path: Path) -> None:
    empty = [(title, expr) for title, expr in queries(path) if not await scraped.series(expr)]
    assert not empty


async def test_the_variables_of_dashboards_have_values(scraped: Monitoring) -> None:
    for path in DASHBOARDS:
        for variable in json.loads(path.read_text("utf-8"))["templating"]["list"]:
            if variable["type"] == "query":
                assert await scraped.label_values(variable["query"]), variable["query"]


async def test_all_services_are_scraped_under_their_names(scraped: Monitoring) -> None:
    found = {(one["metric"]["job"], one["metric"]["service"]) for one in await scraped.series("callbus_build_info")}
    assert all(job == service for job, service in found)
    assert {job for job, _ in found} == {"sip_gateway", "ai_session", "catalog_tools", "transcript_store", "recorder"}


async def test_what_happened_is_what_the_numbers_say(scraped: Monitoring) -> None:
    assert await scraped.value('sum(callbus_calls_ended_total{reason="budget_spent"})') == 1
    assert await scraped.value('sum(callbus_calls_ended_total{reason="no_route"})') == 1
    assert await scraped.value('sum(callbus_calls_ended_total{result="success"})') == 9  # three of them echoes
    assert await scraped.value("max(callbus_workers)") == 1
    assert await scraped.value('max by (org) (callbus_budget_used_ratio{org="spent"})') == 2.0
    assert await scraped.value("sum(callbus_turn_latency_seconds_count)") >= 2  # of the worker that lives
    assert await scraped.value("sum(callbus_store_pending_events)") == 0


async def test_an_alert_reaches_its_receiver_through_alertmanager(scraped: Monitoring) -> None:
    path, alive = await scraped.inbox.wait_for("CallbusWatchdog")
    assert (path, alive["status"]) == ("/watchdog", "firing")
    path, lost = await scraped.inbox.wait_for("CallbusWorkerLost")
    assert (path, lost["status"], lost["labels"]["severity"]) == ("/team", "firing", "warning")
    assert lost["annotations"]["runbook"] == "docs/monitoring.md#callbusworkerlost"


async def test_the_latency_of_turns_beside_callbus_up_is_one_command_away(scraped: Monitoring, tmp_path: Path) -> None:
    """As docs/monitoring.md says: Prometheus beside `up`, then a question."""
    mine = ProcessIdentity.of(os.getpid())
    UpState(supervisor=mine, nats_url="", sip="", health_ports=scraped.ports).write(tmp_path / "run" / "up.json")
    port = free_port()
    beside = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "deploy.prometheus.beside_up", f"--port={port}",
        cwd=ROOT, env={**os.environ, "CALLBUS_VAR": str(tmp_path)}, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert await beside.stdout.readline() == f"Prometheus: http://127.0.0.1:{port}\n".encode()
        question = "histogram_quantile(0.95, sum by (backend, le) (callbus_turn_latency_seconds_bucket))"
        answer = b""
        async with asyncio.timeout(30):
            while b"realtime" not in answer:
                asked = await asyncio.create_subprocess_exec(
                    require("promtool"), "query", "instant", f"http://127.0.0.1:{port}", question,
                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                )  # fmt: skip
                answer, _ = await asked.communicate()
                await asyncio.sleep(0.2)
    finally:
        beside.terminate()
        await beside.wait()
