"""SIPp calls the running platform: its built-in caller, and one that speaks; 100 calls each, none may fail."""

from __future__ import annotations

import asyncio
import csv
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median

import pytest
import pytest_asyncio

from libs.audio.g711 import Law
from libs.contracts.events import CallEnded, CallerTurn, CallOffered
from libs.contracts.termination import Reason, Result
from tests.integration.peers import CLIPS, free_udp_ports, require, sample_documents, speech_8k
from tests.support.platform import Platform, platform

pytestmark = [pytest.mark.peer, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

SPEECH_XML = Path(__file__).parents[1] / "data" / "sipp" / "uac_speech.xml"
CALLS = 100


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Platform]:
    require("sipp")
    async with platform(documents=sample_documents(), workers=2, catalog=True, rehearsal=True) as started:
        yield started


async def sipp(running: Platform, folder: Path, *arguments: str) -> Counter[str]:
    """Run SIPp to its end; what its statistics say of the calls."""
    ports = free_udp_ports(64)
    argv = [
        require("sipp"), f"127.0.0.1:{running.sip_port}", "-i", "127.0.0.1", "-mp", str(ports),
        "-m", str(CALLS), "-r", "10", "-l", "20", "-nostdin", "-timeout", "90", "-timeout_error",
        "-trace_err", "-error_file", "errors.log", "-trace_stat", "-stf", "statistics.csv", "-fd", "1", *arguments,
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *argv, cwd=folder, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        _, problems = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    errors = folder / "errors.log"
    told = problems.decode() + (errors.read_text("utf-8", "replace") if errors.exists() else "")
    assert process.returncode == 0, f"sipp ended with {process.returncode}: {told[-2000:]}"
    rows = list(csv.DictReader((folder / "statistics.csv").read_text().splitlines(), delimiter=";"))
    return Counter({name: int(value) for name, value in rows[-1].items() if name and value and value.isdigit()})


async def check_records(running: Platform, callee: str) -> list[CallEnded]:
    """Every call was offered once and ended once, by its caller."""
    async with running.events() as feed:
        await feed.wait_for(CallEnded, 1)
        calls: set[str] = set()
        async with asyncio.timeout(10):
            while len(calls) < CALLS:
                calls = {event.call for event in feed.of(CallOffered) if event.callee == callee}
                await asyncio.sleep(0.05)
            ends: list[CallEnded] = []
            while len(ends) < CALLS:
                ends = [event for event in feed.of(CallEnded) if event.call in calls]
                await asyncio.sleep(0.05)
    assert len(calls) == CALLS
    assert len(ends) == len({event.call for event in ends}) == CALLS
    assert Counter((event.termination.result, event.termination.reason) for event in ends) == {
        (Result.SUCCESS, Reason.CALLER_HUNG_UP): CALLS
    }
    return ends


async def check_all_is_quiet(running: Platform) -> None:
    """No session runs on and no call is left."""
    async with asyncio.timeout(10):
        while True:
            calls = [await running.metric("sip_gateway", "callbus_calls")]
            calls += [await running.metric(worker, "callbus_worker_sessions") for worker in running.workers]
            if not any(calls):
                return
            await asyncio.sleep(0.1)


async def test_the_built_in_caller_completes_100_of_100_calls(running: Platform, tmp_path: Path) -> None:
    told = await sipp(running, tmp_path, "-sn", "uac", "-s", "echo", "-d", "1000")
    assert (told["SuccessfulCall(C)"], told["FailedCall(C)"]) == (CALLS, 0)
    assert told["Retransmissions(C)"] <= 2
    await check_records(running, "echo")
    await check_all_is_quiet(running)


async def test_a_caller_who_speaks_completes_100_of_100_calls(running: Platform, tmp_path: Path) -> None:
    index = json.loads((CLIPS / "caller" / "index.json").read_text("utf-8"))
    spoken = index["bestellung-3"]
    (tmp_path / "speech.al").write_bytes(Law.PCMA.encode(speech_8k(f"caller/{spoken['file']}")))
    told = await sipp(running, tmp_path, "-sf", str(SPEECH_XML), "-s", "bestellung")
    assert (told["SuccessfulCall(C)"], told["FailedCall(C)"]) == (CALLS, 0)
    ends = await check_records(running, "bestellung")
    packets = spoken["duration_ms"] // 20
    for media in (event.media for event in ends):
        assert media is not None
        assert abs(media.rtp_received - packets) <= 3
        assert media.rtp_lost == media.rtp_malformed == media.rtp_foreign == 0
        assert media.rtp_sent >= 150  # 4 s at 50 packets a second, less what a loaded machine delays
        assert media.dn_played >= 5  # the greeting, until the caller speaks into it
    assert median(event.media.dn_played for event in ends if event.media) >= 25  # and what the agent answered
    calls = {event.call for event in ends}
    async with running.events() as feed:
        async with asyncio.timeout(10):
            while len(calls & {event.call for event in feed.of(CallEnded)}) < CALLS:  # noqa: ASYNC110  the feed has no event of it
                await asyncio.sleep(0.05)
        heard = Counter(event.call for event in feed.of(CallerTurn))
    assert len(calls & heard.keys()) >= CALLS - 2, "the agent did not hear some callers"
    await check_all_is_quiet(running)
