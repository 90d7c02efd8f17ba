"""baresip's media against ours: SDES-SRTP by libre, G.722 by SpanDSP, RTCP, none of which we wrote."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from libs.audio import rtcp
from libs.audio.compare import best_correlation
from libs.audio.tone import tone
from libs.contracts.media import MediaStatistics
from libs.sip.sdes import MASTER_BYTES, SrtpPolicy
from libs.sip.sdp import LocalMedia
from services.sip_gateway.ticker import Ticker
from tests.support.baresip import Account, baresip
from tests.unit.softphone.test_media import Gateway

pytestmark = [pytest.mark.peer, pytest.mark.timeout(60)]

SPOKEN_S = 2


@pytest.fixture
async def gateway(monkeypatch):
    monkeypatch.setattr(rtcp, "INTERVAL_S", 0.5)
    gateway = await Gateway.open()
    gateway.ticker = Ticker(lambda *_: None, lambda _: None)
    async with gateway:
        yield gateway
    gateway.ticker.close()


async def converse(gateway: Gateway, folder: Path, account: Account) -> tuple[MediaStatistics, bytes]:
    """A call in which the gateway echoes; gives its media statistics, and what baresip heard of its tone."""
    says = tone(440, 1000 * 30, account.rate_hz)
    async with baresip(folder, account, says=says) as phone, asyncio.timeout(30):
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
        return got, await phone.recording()


def check_echo(heard: bytes, rate_hz: int) -> None:
    assert best_correlation(tone(440, 400, rate_hz), heard)[0] > 0.95


@pytest.mark.parametrize("policy", ["optional", "required"])
async def test_an_encrypted_call_is_heard_both_ways(gateway: Gateway, tmp_path: Path, policy: SrtpPolicy) -> None:
    gateway.local = LocalMedia("127.0.0.1", 0, srtp=policy, srtp_key=bytes(range(MASTER_BYTES)))
    got, heard = await converse(gateway, tmp_path, Account("kunde", srtp="srtp-mand"))
    assert gateway.leg.agreed.srtp is not None
    assert got.rtp_unauthentic <= 1  # it opens its firewall with a packet in the clear
    assert (got.rtp_malformed, got.rtcp_malformed) == (0, 0)
    assert got.rtcp_received > 1
    assert got.remote_fraction_lost == 0
    check_echo(heard, 8000)


async def test_a_wideband_call_is_heard_both_ways_at_16_khz(gateway: Gateway, tmp_path: Path) -> None:
    gateway.local = LocalMedia("127.0.0.1", 0, ("G722", "PCMA"))
    gateway.agent._config = replace(gateway.agent._config, codecs=("G722", "PCMA"))
    got, heard = await converse(gateway, tmp_path, Account("kunde", codec="G722"))
    assert gateway.leg.agreed.codec == "G722"
    assert (got.rtp_malformed, got.rtp_lost, got.rtcp_malformed) == (0, 0, 0)
    check_echo(heard, 16_000)


async def test_one_port_for_rtp_and_rtcp(gateway: Gateway, tmp_path: Path) -> None:
    got, _ = await converse(gateway, tmp_path, Account("kunde", codec="pcmu", rtcp_mux=True))
    assert gateway.leg.agreed.rtcp_mux
    assert (got.rtp_malformed, got.rtcp_malformed) == (0, 0)
    assert got.rtcp_received > 0
    assert got.round_trip_ms is not None
    assert 0 <= got.round_trip_ms < 200
    assert got.rtp_jitter_ms is not None
    assert got.rtp_jitter_ms < 20
