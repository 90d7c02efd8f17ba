"""baresip, a softphone of other people's making, calls the sample agent and records what it hears."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import aiohttp
import pytest

from libs.audio.compare import best_correlation
from libs.audio.wav import read_wav
from libs.contracts.events import AgentTurn, CallEnded
from libs.contracts.termination import Reason
from tests.integration.peers import require, sample_documents
from tests.support.baresip import Account, baresip
from tests.support.platform import Platform, platform

pytestmark = [pytest.mark.peer, pytest.mark.timeout(120)]


@pytest.fixture
async def running() -> AsyncIterator[Platform]:
    require("baresip")
    async with platform(documents=sample_documents(), workers=2, catalog=True, rehearsal=True) as started:
        yield started


async def clip_of(running: Platform, item: str) -> bytes:
    """The model's audio of one item, at 8 kHz."""
    async with aiohttp.ClientSession(running.rehearsal_url) as client:
        async with client.get("/rehearsal/sessions") as response:
            sessions = (await response.json())["sessions"]
        (session,) = [s["id"] for s in sessions if any(i["id"] == item for i in s["items"])]
        async with client.get(f"/rehearsal/sessions/{session}/items/{item}.wav") as response:
            return read_wav(await response.read()).pcm


@pytest.mark.parametrize("codec", ["pcmu", "pcma"])
async def test_it_calls_hears_the_whole_greeting_and_hangs_up(
    running: Platform, tmp_path: Path, codec: Literal["pcma", "pcmu"]
) -> None:
    async with running.events() as feed, baresip(tmp_path, Account("kunde", codec=codec)) as phone:
        async with asyncio.timeout(30):
            phone.command("dial", running.sip_uri("bestellung"))
            await phone.event("CALL_ESTABLISHED")
            (greeting,) = await feed.wait_for(AgentTurn, timeout_s=25)
            await asyncio.sleep(0.5)  # its end is in the jitter buffer
            phone.command("hangup")
            (ended,) = await feed.wait_for(CallEnded)
    assert ended.termination.reason is Reason.CALLER_HUNG_UP
    assert ended.media is not None
    assert ended.media.rtp_lost == ended.media.rtp_malformed == 0
    assert greeting.item is not None
    clip, heard = await clip_of(running, greeting.item), await phone.recording()
    assert len(clip) > 2 * 8000 * 2
    correlation, _ = best_correlation(clip, heard)
    assert correlation >= 0.9
