"""`callbus trace`: live and ended calls, statistics, capture files, and calls that have none of it."""

import asyncio
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cli.bus import connected
from cli.errors import CliError
from cli.main import app
from cli.settings import CliSettings
from cli.trace import Trace, TraceOptions, media_lines, sip_messages, trace_call
from libs.contracts import events as ev
from libs.contracts.commands import CommandReply
from libs.contracts.media import MediaStatistics
from libs.contracts.termination import Reason
from libs.runtime.streams import provision
from tests.support.nats import nats_server
from tests.unit.cli.fake_gateway import CALL, FakeGateway
from tests.unit.cli.test_pcap import packets

INVITE = """
INVITE sip:100@127.0.0.1 SIP/2.0
Call-ID: a@b
CSeq: 1 INVITE
Proxy-Authorization: Digest username="u", response="SECRET"

"""
OK = "SIP/2.0 200 OK\nCall-ID: a@b\nCSeq: 1 INVITE\n\n"
BYE = "BYE sip:100@127.0.0.1 SIP/2.0\nCall-ID: a@b\nCSeq: 2 BYE\n\n"
BYE_OK = "SIP/2.0 200 OK\nCall-ID: a@b\nCSeq: 2 BYE\n\n"
STATISTICS = MediaStatistics(rtp_received=990, rtp_lost=10, rtp_sent=1000, up_concealed=10)


async def whole_call(gateway: FakeGateway) -> None:
    """The answer to the BYE comes after the call's end, as on the wire."""
    await gateway.offered()
    await gateway.sip("in", INVITE)
    await gateway.sip("out", OK, transport="tls")
    await gateway.publish(ev.CallAnswered, codec="PCMA", rate_hz=8000)
    await gateway.sip("in", BYE)
    await gateway.ended(Reason.CALLER_HUNG_UP, media=STATISTICS)
    await gateway.sip("out", BYE_OK)


def shown(url: str, *words: str) -> str:
    result = CliRunner().invoke(app, ["trace", *words, "--nats", url], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.stderr
    return result.output


async def test_an_ended_call_is_shown_with_its_statistics_and_without_credentials() -> None:
    async with nats_server() as server, connected(server.url) as client:
        await whole_call(await FakeGateway(client).start())
        text = await asyncio.to_thread(shown, server.url, CALL)
        document = json.loads(await asyncio.to_thread(shown, server.url, "last", "--json"))
    rows = text.splitlines()
    assert [word for word in ("INVITE sip", "200 OK", "BYE sip") if word not in text] == []
    assert rows[0].split() == ["127.0.0.1:5060", "192.0.2.7:5070", "udp"]
    assert rows[-2].strip() == "RTP  received 990, lost 10 (1.0 %), sent 1000"
    assert rows[-1].strip() == "to the agent  concealed 10"
    assert document["ended"]["reason"] == "caller_hung_up"
    assert [message["text"].split("\r\n")[0] for message in document["messages"]] == [
        "INVITE sip:100@127.0.0.1 SIP/2.0",
        "SIP/2.0 200 OK",
        "BYE sip:100@127.0.0.1 SIP/2.0",
        "SIP/2.0 200 OK",
    ]
    assert "SECRET" not in text + json.dumps(document)


async def test_a_live_call_tells_its_statistics_itself() -> None:
    async with nats_server() as server, connected(server.url) as client:
        gateway = await FakeGateway(client).start()
        await gateway.entry()
        await gateway.sip("in", INVITE)
        media = {"rtp_received": 5, "rtp_lost": 0, "rtp_jitter_ms": 1.25, "round_trip_ms": 30.0, "remote_lost": None}
        gateway.command_reply = CommandReply(ok=True, details={"phase": "talking", "media": media})
        rows = (await asyncio.to_thread(shown, server.url, CALL)).splitlines()
        assert [row.strip() for row in rows[-2:]] == [
            "RTP  received 5, lost 0, jitter 1.2 ms",
            "RTCP  round trip 30.0 ms",
        ]
        gateway.command_reply = CommandReply(ok=False, error="not available in this version")
        rows = (await asyncio.to_thread(shown, server.url, CALL)).splitlines()
        assert rows[-1] == "no RTP statistics yet: they come with the call's end"


async def test_following_ends_a_moment_after_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.trace.LAST_WORDS_S", 0.2)
    async with nats_server() as server, connected(server.url) as client, asyncio.timeout(10):
        gateway = await FakeGateway(client).start()
        await gateway.sip("in", INVITE)
        trace, seen = Trace(CALL), []
        async for message in sip_messages(client, trace, follow=True):
            seen.append(message.text.split()[0])
            if seen == ["INVITE"]:
                await gateway.sip("in", BYE)
                await gateway.ended(Reason.CALLER_HUNG_UP)
                await gateway.sip("out", BYE_OK)
        assert seen == ["INVITE", "BYE", "SIP/2.0"]
        assert trace.ended is not None


async def test_a_capture_file_holds_the_messages_with_their_addresses(tmp_path: Path) -> None:
    path = tmp_path / "call.pcap"
    async with nats_server() as server, connected(server.url) as client:
        await whole_call(await FakeGateway(client).start())
        text = await asyncio.to_thread(shown, server.url, CALL, "--pcap", str(path))
    assert f"4 messages written to {path}; those over TLS stand there as UDP" in text.splitlines()
    found = packets(path.read_bytes())
    assert [packet[28:].split(b"\r\n")[0] for _, _, packet in found[:2]] == [
        b"INVITE sip:100@127.0.0.1 SIP/2.0",
        b"SIP/2.0 200 OK",
    ]
    (begun, _, invite), (then, _, answer) = found[:2]
    assert then - begun == pytest.approx(0.02, abs=1e-5)
    assert invite[12:16] == answer[16:20] == bytes([192, 0, 2, 7])
    assert b"SECRET" not in path.read_bytes()


async def test_a_call_without_sip_and_one_without_events_are_sentences() -> None:
    async with nats_server() as server, connected(server.url) as client:

        async def trace(call: str) -> None:
            await trace_call(Console(quiet=True), CliSettings(), server.url, call, TraceOptions())

        with pytest.raises(CliError, match="no event stream yet"):
            await trace(CALL)
        await provision(client.jetstream())
        with pytest.raises(CliError, match=r"nothing of call .* is on the bus: .* kept for 7 days"):
            await trace(CALL)
        gateway = await FakeGateway(client).start()
        await gateway.offered(entrance="browser")
        with pytest.raises(CliError, match=f"no SIP message of call {CALL} is known: it came by another entrance"):
            await trace(CALL)


def test_counters_of_newer_gateways_are_shown_too() -> None:
    lines = media_lines({"rtp_received": 0, "remote_fraction_lost": 0.015, "dn_played": 7, "surprise": 3, "text": "x"})
    assert [line.plain.strip() for line in lines] == [
        "RTP  received 0",
        "the other side says  lost 1.5 % lately",
        "from the agent  played 7",
        "media  surprise 3",
    ]
