"""A demo that is killed leaves no process behind."""

from __future__ import annotations

import asyncio
import os
import signal

import psutil
import pytest

from tests.support.demo import start_demo


@pytest.mark.timeout(60)
async def test_a_killed_demo_leaves_no_process_behind() -> None:
    process = await start_demo()
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
