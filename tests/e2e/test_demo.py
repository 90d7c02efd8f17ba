"""The demo under trouble: the whole order by phone while its worker is killed or frozen; and no process is left."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import psutil
import pytest

from cli import checkout

LIMIT_S = 130


async def demo(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli", "demo", *arguments, cwd=checkout.ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


@pytest.mark.timeout(LIMIT_S + 10)
@pytest.mark.parametrize("trouble", ["--kill-worker", "--freeze-worker"])
async def test_the_order_is_complete_whatever_happens_to_the_worker(trouble: str) -> None:
    process = await demo(trouble)
    async with asyncio.timeout(LIMIT_S):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode(errors="replace")


@pytest.mark.timeout(60)
async def test_a_killed_demo_leaves_no_process_behind() -> None:
    process = await demo()
    assert process.stdout is not None
    async with asyncio.timeout(40):
        async for line in process.stdout:
            if b"answered" in line:
                break
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) >= 7
    os.kill(process.pid, signal.SIGKILL)
    _, alive = await asyncio.to_thread(psutil.wait_procs, started, 12)
    assert alive == []
    await process.wait()
