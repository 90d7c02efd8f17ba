"""`callbus` as a person types it, beside a platform of tests."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from cli import checkout

TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


async def callbus(var: Path, *words: str, nats_url: str = "") -> Done:
    """Run a command to its end; `var` is its CALLBUS_VAR."""
    process = await begin(var, *words, nats_url=nats_url)
    async with asyncio.timeout(TIMEOUT_S):
        stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return Done(process.returncode, stdout.decode(), stderr.decode())


async def begin(var: Path, *words: str, nats_url: str = "") -> asyncio.subprocess.Process:
    """Start a command; its output is piped."""
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    environment |= {"PYTHONPATH": str(checkout.ROOT), "CALLBUS_VAR": str(var), "COLUMNS": "200", "PYTHONUTF8": "1"}
    if nats_url:
        environment["NATS_URL"] = nats_url
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli", *words, env=environment, stdout=pipe, stderr=pipe, preexec_fn=_takes_ctrl_c
    )


def _takes_ctrl_c() -> None:
    """What a shell starts in the background ignores it, and so would all that it starts, these tests among them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
