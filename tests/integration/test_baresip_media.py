"""baresip's media against ours: SDES-SRTP by libre, G.722 by SpanDSP, RTCP, none of which we wrote."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cli.ports import free_port
from libs.audio import rtcp
from libs.audio.compare import best_correlation
from libs.audio.tone import tone
from libs.audio.wav import read_wav, write_wav
from libs.contracts.events import MediaStatistics
from libs.sip.sdes import MASTER_BYTES, SrtpPolicy
from libs.sip.sdp import LocalMedia
from services.sip_gateway.ticker import Ticker
from tests.integration.peers import free_udp_ports, require
from tests.integration.test_baresip import CONFIG, MODULES, Baresip, _connect
from tests.unit.softphone.test_media import Gateway

pytestmark = [pytest.mark.peer, pytest.mark.timeout(60)]

SPOKEN_S = 2


@asynccontextmanager
async def baresip(folder: Path, rate_hz: int, account: str, extra: str) -> AsyncIterator[Baresip]:
    """One that says a tone, with the modules that the other tests do without."""
    program = require("baresip")
    control_port, rtp_port = free_port(), free_udp_ports(8)
    config = CONFIG.format(
        folder=folder, modules=MODULES, sip_port=free_port(transport="udp"), control_port=control_port,
        rtp_port=rtp_port, last_rtp_port=rtp_port + 15,
    )  # fmt: skip
    for name in ("ausrc_srate", "auplay_srate"):
        config = config.replace(f"{name} 8000", f"{name} {rate_hz}")
    config = config.replace("module g711.so", "module g711.so\nmodule g722.so\nmodule srtp.so")
    (folder / "config").write_text(f"{config}{extra}\n")
    (folder / "accounts").write_text(f"<sip:kunde@127.0.0.1>;regint=0;{account}\n")
    (folder / "contacts").write_text("")
    (folder / "uuid").write_text(str(uuid.uuid4()))
    (folder / "silence.wav").write_bytes(write_wav(tone(440, 1000 * 30, rate_hz), rate_hz))
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(program, "-4", "-f", str(folder)), cwd=folder,
            stdin=asyncio.subprocess.PIPE, stdout=log, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
    try:
        reader, writer = await _connect(control_port, process)
        yield Baresip(folder, reader, writer)
        writer.close()
    except BaseException:
        print((folder / "log").read_text("utf-8", "replace")[-4000:])
        raise
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


@pytest.fixture
async def gateway(monkeypatch):
    monkeypatch.setattr(rtcp, "INTERVAL_S", 0.5)
    gateway = await Gateway.open()
    gateway.ticker = Ticker(lambda *_: None, lambda _: None)
    async with gateway:
        yield gateway
    gateway.ticker.close()


async def converse(gateway: Gateway, folder: Path, rate_hz: int, account: str, extra: str = "") -> MediaStatistics:
    """A call in which the gateway echoes; gives its media statistics."""
    async with baresip(folder, rate_hz, account, extra) as phone, asyncio.timeout(30):
        phone.command("dial", gateway.uri)
        await phone.event("CALL_ESTABLISHED")
        rtp = gateway.leg.rtp
        while rtp.received_at is None:  # noqa: ASYNC110  the socket's first packet has no event
            await asyncio.sleep(0.01)
        await asyncio.sleep(SPOKEN_S)
        while rtp.statistics().round_trip_ms is None:  # noqa: ASYNC110  baresip reports every five seconds
            await asyncio.sleep(0.05)
        got = rtp.statistics()
        phone.command("hangup")
        await asyncio.sleep(0.3)
    return got


def check_echo(folder: Path, rate_hz: int) -> None:
    (file,) = folder.glob("dump-*-dec.wav")
    wav = read_wav(file.read_bytes())
    assert wav.rate_hz == rate_hz
    assert best_correlation(tone(440, 400, rate_hz), wav.pcm)[0] > 0.95


@pytest.mark.parametrize("policy", ["optional", "required"])
async def test_an_encrypted_call_is_heard_both_ways(gateway: Gateway, tmp_path: Path, policy: SrtpPolicy) -> None:
    gateway.local = LocalMedia("127.0.0.1", 0, srtp=policy, srtp_key=bytes(range(MASTER_BYTES)))
    got = await converse(gateway, tmp_path, 8000, "mediaenc=srtp-mand;audio_codecs=pcma/8000/1")
    assert gateway.leg.agreed.srtp is not None
    assert got.rtp_unauthentic <= 1  # it opens its firewall with a packet in the clear
    assert (got.rtp_malformed, got.rtcp_malformed) == (0, 0)
    assert got.rtcp_received > 1
    assert got.remote_fraction_lost == 0
    check_echo(tmp_path, 8000)


async def test_a_wideband_call_is_heard_both_ways_at_16_khz(gateway: Gateway, tmp_path: Path) -> None:
    gateway.local = LocalMedia("127.0.0.1", 0, ("G722", "PCMA"))
    gateway.agent._config = replace(gateway.agent._config, codecs=("G722", "PCMA"))
    got = await converse(gateway, tmp_path, 16_000, "audio_codecs=G722/16000/1")
    assert gateway.leg.agreed.codec == "G722"
    assert (got.rtp_malformed, got.rtp_lost, got.rtcp_malformed) == (0, 0, 0)
    check_echo(tmp_path, 16_000)


async def test_one_port_for_rtp_and_rtcp(gateway: Gateway, tmp_path: Path) -> None:
    got = await converse(gateway, tmp_path, 8000, "audio_codecs=pcmu/8000/1", "rtcp_mux yes")
    assert gateway.leg.agreed.rtcp_mux
    assert (got.rtp_malformed, got.rtcp_malformed) == (0, 0)
    assert got.rtcp_received > 0
    assert got.round_trip_ms is not None
    assert 0 <= got.round_trip_ms < 200
    assert got.rtp_jitter_ms is not None
    assert got.rtp_jitter_ms < 20
