"""The demo as a process of its own. Each test has a file of its own, so that conversations run at the same time."""

from __future__ import annotations

import asyncio
import sys

from cli import checkout

LIMIT_S = 130


async def start_demo(*arguments: str) -> asyncio.subprocess.Process:
    """`callbus demo` in a session of its own."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli", "demo", *arguments, cwd=checkout.ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


async def demo_output(*arguments: str) -> tuple[str, int | None]:
    """What it printed, and its exit code."""
    process = await start_demo(*arguments)
    async with asyncio.timeout(LIMIT_S):
        output, _ = await process.communicate()
    return output.decode(errors="replace"), process.returncode
