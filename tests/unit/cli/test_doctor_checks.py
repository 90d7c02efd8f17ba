"""Findings of `callbus doctor` about this machine, the endpoint, the clock and recorders, each with its remedy."""

import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from cli.bus import connected
from cli.bus_checks import age_findings, check_clock, clock_finding, recorder_findings
from cli.doctor import _carried_out
from cli.findings import Finding, Site
from cli.machine_checks import check_disk, check_ntp, check_object_store, check_ports
from cli.model_endpoint import check_model, unknown_models
from cli.settings import CliSettings
from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.config import Fallback, RouteConfig
from libs.contracts.rpc import RpcReply
from libs.runtime.streams import provision
from services.ai_session.settings import Settings
from tests.support.nats import nats_server
from tests.unit.cli.model_endpoint import model_endpoint

OF_THE_USER = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OBJECT_STORE_URL", "RTP_PORTS", "MAX_CALLS", "SIP_SERVER")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    for name in OF_THE_USER:
        monkeypatch.delenv(name, raising=False)
    given = {"callbus_var": tmp_path / "var", "sip_listen_host": "127.0.0.1", "sip_listen_port": 0}
    return Site(CliSettings(**given, _env_file=None), None)


def told(found: list[Finding]) -> tuple[str, str]:
    (one,) = found
    assert (one.state == "ok") != bool(one.remedy)
    return one.state, one.text


def with_key(site: Site, url: str, key: str = "k") -> Site:
    return Site(site.settings.model_copy(update={"openai_api_key": key, "openai_base_url": url}), None)


# -- the model -------------------------------------------------------------------------------------------------------


async def test_a_key_that_is_refused_is_told(site: Site) -> None:
    async with model_endpoint("right") as url:
        assert told(await check_model(with_key(site, url, "wrong"))) == ("fail", f"{url} refuses the key (401)")


async def test_an_endpoint_that_cannot_be_reached_is_told(site: Site) -> None:
    state, text = told(await check_model(with_key(site, "http://127.0.0.1:1/v1")))
    assert state == "fail"
    assert text.startswith("http://127.0.0.1:1/v1 cannot be reached: ")


@pytest.mark.parametrize(("status", "state"), [(500, "warn"), (404, "ok")])
async def test_an_endpoint_that_is_ill_is_told_and_one_without_a_listing_is_fine(
    site: Site, status: int, state: str
) -> None:
    async with model_endpoint("k", status=status) as url:
        assert told(await check_model(with_key(site, url)))[0] == state


async def test_models_that_the_endpoint_does_not_know_are_named_with_their_agents() -> None:
    agents = [
        AgentConfig(name="good", model="gpt-realtime"),
        AgentConfig(name="typo", model="gpt-raeltime"),
        AgentConfig(name="script", backend="scripted"),
    ]
    async with model_endpoint("k", "gpt-realtime") as url:
        workers = Settings(openai_api_key="k", openai_base_url=url, _env_file=None)
        text = "the endpoint does not know model gpt-raeltime of agent typo"
        assert told(await unknown_models(agents, workers)) == ("fail", text)
    async with model_endpoint("k", status=404) as url:
        assert await unknown_models(agents, Settings(openai_base_url=url, _env_file=None)) == []


# -- this machine ------------------------------------------------------------------------------------------------------


async def test_an_rtp_range_that_is_too_small_or_taken_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTP_PORTS", "30000-30099")
    _, small = await check_ports(site)
    assert (small.state, small.text) == ("warn", "RTP_PORTS 30000-30099 has room for 50 calls, MAX_CALLS is 150")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = min(taken.getsockname()[1], 65000)
        monkeypatch.setenv("RTP_PORTS", f"{port // 2 * 2}-{port // 2 * 2 + 3}")
        monkeypatch.setenv("MAX_CALLS", "2")
        _, shared = await check_ports(site)
        assert shared.state == "warn"
        assert "taken by another program" in shared.text


async def test_a_wrong_setting_of_the_gateway_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTP_PORTS", "some")
    _, wrong = await check_ports(site)
    assert wrong.state == "fail"
    assert "RTP_PORTS" in wrong.text


async def test_a_setting_of_the_workers_that_is_no_json_is_a_finding(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCP_TOKENS", "s3cret")
    [found] = await _carried_out(check_model, with_key(site, "http://127.0.0.1:1/v1"))
    assert (found.check, found.state) == ("model", "fail")
    assert "mcp_tokens" in found.text
    assert "s3cret" not in found.text


@pytest.mark.parametrize(("free", "state"), [(5 << 30, "ok"), (500 << 20, "warn"), (10 << 20, "fail")])
async def test_a_disk_that_fills_is_told(site: Site, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert told(await check_disk(site))[0] == state


async def test_a_spool_that_is_no_folder_is_told(site: Site) -> None:
    spool = site.settings.callbus_var / "recordings"
    spool.mkdir(parents=True)
    assert told(await check_disk(site))[0] != "fail"
    spool.rmdir()
    spool.touch()
    state, text = told(await check_disk(site))
    assert (state, str(spool) in text) == ("fail", True)


async def test_an_object_store_that_cannot_be_written_is_told(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(await check_object_store(site))[0] == "ok"
    assert not list((tmp_path / "var" / "objects" / "doctor").glob("*"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OBJECT_STORE_URL", str(tmp_path / "file" / "objects"))
    assert told(await check_object_store(site))[0] == "fail"
    monkeypatch.setenv("OBJECT_STORE_URL", "ftp://somewhere")
    state, text = told(await check_object_store(site))
    assert state == "fail"
    assert "s3://BUCKET/PREFIX" in text


@pytest.mark.parametrize(("said", "states"), [("yes", ["ok"]), ("no", ["warn"]), ("", [])])
async def test_a_system_clock_that_nothing_keeps_is_told(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, states: list[str]
) -> None:
    script = tmp_path / "timedatectl"
    script.write_text(f"#!/bin/sh\necho {said}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [one.state for one in await check_ntp(site)] == states


# -- the bus -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        (100.3, ("ok", "the bus server's clock and ours agree")),
        (99.7, ("ok", "the bus server's clock and ours agree")),
        (130.0, ("fail", "the bus server's clock is 29.5 s ahead of ours")),
        (40.0, ("fail", "the bus server's clock is 60.0 s behind ours")),
    ],
)
def test_a_bus_whose_clock_is_off_is_told(theirs: float, expected: tuple[str, str]) -> None:
    assert told(clock_finding(theirs, 100.0, 100.5)) == expected


async def test_the_clock_of_a_real_server_is_read(site: Site) -> None:
    async with nats_server() as server, connected(server.url) as client:
        assert await check_clock(Site(site.settings, None, client)) == []
        await provision(client.jetstream())
        assert told(await check_clock(Site(site.settings, None, client)))[0] == "ok"


async def test_a_recorder_is_missed_only_where_somebody_wants_one(site: Site) -> None:
    voicemail = Fallback(kind="voicemail", message_ulaw_b64="//8=")
    documents = [
        AgentConfig(name="quiet"),
        AgentConfig(name="kept", recording="announce"),
        RouteConfig(name="night", match=("*",), agent="quiet", after_hours=None, fallback=voicemail),
    ]
    async with nats_server() as server, connected(server.url) as client:
        on_the_bus = Site(site.settings, None, client)
        assert await recorder_findings(on_the_bus, documents[:1]) == []
        text = "no recorder runs, and one is wanted by agent kept, route night (voicemail)"
        assert told(await recorder_findings(on_the_bus, documents)) == ("fail", text)

        async def answer(message: object) -> None:
            await message.respond(RpcReply(ok=False, error="no key").to_json())  # type: ignore[attr-defined]

        await client.subscribe(subjects.rpc("recorder", "read"), cb=answer)
        assert told(await recorder_findings(on_the_bus, documents)) == ("ok", "a recorder runs")


def test_agents_of_an_older_or_a_newer_callbus_are_told() -> None:
    old, new = AgentConfig(name="old", schema_version=0), AgentConfig(name="new", schema_version=9)
    assert told(age_findings([old])) == ("warn", "agent old was published by an older callbus (version 0)")
    assert told(age_findings([new])) == ("warn", "agent new was published by a newer callbus (version 9)")
    assert age_findings([AgentConfig(name="now")]) == []
