"""`callbus doctor`: each check finds what is broken and says what to do."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from typer.testing import CliRunner

from cli.bus import connected
from cli.doctor import BUS_CHECKS, CHECKS, Finding, findings
from cli.main import app
from cli.settings import CliSettings
from cli.state import ProcessIdentity, UpState
from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.config import OrgConfig, RouteConfig
from libs.contracts.heartbeat import GatewayHeartbeat, WorkerHeartbeat
from libs.contracts.rpc import RpcReply
from libs.contracts.spending import DaySpending, spending_key
from libs.runtime.spending_copy import today
from libs.runtime.streams import bucket
from tests.support.nats import nats_server
from tests.unit.cli.fake_gateway import AGENT, FakeGateway
from tests.unit.cli.model_endpoint import model_endpoint


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliSettings:
    for name in ("NATS_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "SIP_LISTEN_PORT"):
        monkeypatch.delenv(name, raising=False)
    return CliSettings(callbus_var=tmp_path, sip_listen_host="127.0.0.1", sip_listen_port=0, _env_file=None)


@asynccontextmanager
async def beating(client: Client, *heartbeats: WorkerHeartbeat | GatewayHeartbeat) -> AsyncIterator[None]:
    async def beat() -> None:
        while True:
            for heartbeat in heartbeats:
                subject = (
                    subjects.worker_heartbeat(heartbeat.wk)
                    if isinstance(heartbeat, WorkerHeartbeat)
                    else subjects.gateway_heartbeat(heartbeat.gw)
                )
                await client.publish(subject, heartbeat.to_json())
            await asyncio.sleep(0.05)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()


async def stores(client: Client) -> None:
    async def answer(message: object) -> None:
        await message.respond(RpcReply(ok=True, data={}).to_json())  # type: ignore[attr-defined]

    for service, verb in (("transcript_store", "list"), ("catalog_tools", "orders")):
        await client.subscribe(subjects.rpc(service, verb), cb=answer)


def of(found: list[Finding], check: str) -> list[tuple[str, str]]:
    return [(one.state, one.text) for one in found if one.check == check]


async def test_a_whole_installation_has_no_complaint(settings: CliSettings) -> None:
    async with nats_server() as server, connected(server.url) as client:
        await FakeGateway(client).start()
        await stores(client)
        route = RouteConfig(name="r", match=("*",), agent=AGENT.name)
        await (await bucket(client.jetstream(), subjects.KV_CONFIG)).put(route.key, route.to_json())
        beats = (
            WorkerHeartbeat(wk="wk-1", calls=3, capacity=50),
            WorkerHeartbeat(wk="op-anna", calls=1, capacity=0),
            GatewayHeartbeat(gw="gw-1", calls=3, capacity=150),
        )
        async with beating(client, *beats), model_endpoint("k", "gpt-realtime-2.1") as url:
            update = {"openai_api_key": "k", "openai_base_url": url}
            found = await findings(settings.model_copy(update=update), server.url)
    assert [one for one in found if one.state == "fail"] == []
    assert of(found, "workers") == [("ok", "1 worker, 3 of 50 calls")]
    assert of(found, "gateways") == [("ok", "1 gateway, 3 of 150 calls")]
    assert of(found, "trunks") == [("ok", "provider is registered")]
    assert of(found, "configuration") == [("ok", "1 agents and 1 routes fit together")]
    assert of(found, "model") == [("ok", f"agents speak through {url}: it takes the key, 1 models")]
    assert of(found, "object_store") == [("ok", f"recordings can be written to {settings.callbus_var}/objects")]
    assert ("ok", "the bus server's clock and ours agree") in of(found, "clock")
    assert of(found, "recorder") == []
    assert of(found, "stores") == [("ok", "conversations and orders are stored")]


async def test_on_an_empty_bus_everything_that_is_missing_is_named(settings: CliSettings) -> None:
    async with nats_server() as server:
        found = await findings(settings, server.url)
    missing = [("fail", "missing: stream EVENTS, bucket calls, bucket config, bucket slots, bucket spend")]
    assert of(found, "streams") == missing
    assert of(found, "workers") == [("fail", "no worker sends heartbeats")]
    assert of(found, "gateways") == [("fail", "no gateway sends heartbeats")]
    assert of(found, "configuration") == [("fail", "no agent and route is published")]
    assert [state for state, _ in of(found, "stores")] == ["fail", "fail"]
    assert all(one.remedy for one in found if one.state != "ok")


async def test_trunks_that_do_not_register_and_routes_that_lead_nowhere_are_broken(settings: CliSettings) -> None:
    async with nats_server() as server, connected(server.url) as client:
        gateway = await FakeGateway(client).start()
        gateway.trunks = [
            [
                {"name": "provider", "server": "sip.example.net", "state": "failed", "problem": "403 Forbidden"},
                {"name": "pbx", "registers": False},
            ]
        ]
        store = await bucket(client.jetstream(), subjects.KV_CONFIG)
        for document in (
            RouteConfig(name="r", match=("1",), agent="gone"),
            AgentConfig(name="b", tools=("order_add", "theirs", "everybody_s", "end_call", "transfer_call")),
        ):
            await store.put(document.key, document.to_json())
        await store.put("agent.default.broken", b"{")

        async def describe(message: Msg) -> None:
            endpoints = [{"subject": "v1.other.tool.theirs"}, {"subject": "v1.*.tool.everybody_s"}]
            await message.respond(json.dumps({"endpoints": endpoints}).encode())

        await client.subscribe("$SRV.INFO", cb=describe)
        await client.flush()
        beats = (
            WorkerHeartbeat(wk="wk-1", calls=2, capacity=2),
            GatewayHeartbeat(gw="g", calls=0, capacity=1, draining=True),
        )
        async with beating(client, *beats):
            found = await findings(settings, server.url)
    assert of(found, "trunks") == [
        ("fail", "provider at sip.example.net has failed (403 Forbidden)"),
        ("ok", "pbx works without a registration"),
    ]
    assert of(found, "configuration") == [
        ("fail", "the document agent.default.broken cannot be read"),
        ("fail", "route r leads to agent gone, which is not published: its calls are refused"),
        ("warn", "agent b has tools that no service offers: order_add, theirs"),
    ]
    assert of(found, "workers") == [("warn", "1 worker, 2 of 2 calls: new calls are refused")]
    assert of(found, "gateways") == [("fail", "1 gateway, 0 of 1 calls, 1 draining: no new call is taken")]


async def test_dead_processes_and_health_pages_that_do_not_answer_are_named(settings: CliSettings) -> None:
    me = ProcessIdentity.of(os.getpid())
    dead = ProcessIdentity(pid=os.getpid(), started_at=1.0)
    state = UpState(
        supervisor=me, processes={"a": me, "sip_gateway": dead}, nats_url="nats://127.0.0.1:1", sip="127.0.0.1:5060",
        health_ports={"sip_gateway": 1}, ready=True,
    )  # fmt: skip
    state.write(settings.state_file)
    found = await findings(settings, None)
    assert of(found, "processes") == [("fail", "not alive: sip_gateway")]
    ((verdict, text),) = of(found, "health")
    assert verdict == "fail"
    assert text.startswith("sip_gateway: its health page at port 1 does not answer")
    ((verdict, text),) = of(found, "bus")
    assert (verdict, text.startswith("nothing answers at nats://127.0.0.1:1")) == ("fail", True)


async def test_a_sip_port_that_somebody_has_is_told(settings: CliSettings) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        found = await findings(settings.model_copy(update={"sip_listen_port": port}), None)
    (verdict, text), _rtp = of(found, "ports")
    assert verdict == "warn"
    assert text.startswith(f"port {port}/udp is taken by ")


def test_from_the_shell_what_is_broken_is_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBUS_VAR", str(tmp_path))
    monkeypatch.setenv("NATS_URL", "nats://127.0.0.1:1")
    monkeypatch.setenv("SIP_LISTEN_PORT", "0")
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 1
    last = json.loads(result.stdout)[-1]
    assert (last["check"], last["state"]) == ("bus", "fail")
    shown = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "200"}).stdout
    assert "✘ bus " in shown
    assert "→ start it with `callbus up`, or name another with --nats" in shown


def test_every_check_says_what_it_looks_at() -> None:
    assert all(check.__doc__ and check.__name__.startswith("check_") for check in (*CHECKS, *BUS_CHECKS))


async def test_models_that_end_and_days_that_are_spent_are_found(
    settings: CliSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.doctor.today", lambda: date(2026, 12, 20))
    async with nats_server() as server, connected(server.url) as client:
        config = await bucket(client.jetstream(), subjects.KV_CONFIG)
        documents = (
            AgentConfig(name="old", model="gpt-realtime"),
            OrgConfig(name="acme", max_usd_per_day=2),
            OrgConfig(name="thrifty", max_usd_per_day=2),
        )
        for document in documents:
            await config.put(document.key, document.to_json())
        spend = await bucket(client.jetstream(), subjects.KV_SPEND)
        for org, usd in (("acme", 2.5), ("thrifty", 0.5), ("free", 0.25)):
            await spend.put(spending_key(org, today(), "wk-1"), DaySpending(usd=usd).to_json())
        found = await findings(settings, server.url)
    text = "model gpt-realtime of agent old ends on 2027-01-20, in 31 days"
    assert of(found, "models") == [("warn", text)]
    assert of(found, "spending") == [
        ("warn", "acme spent 2.50 USD today (UTC), its budget of 2: new calls are refused"),
        ("ok", "free spent 0.25 USD today (UTC)"),
        ("ok", "thrifty spent 0.50 USD today (UTC), of 2"),
    ]
