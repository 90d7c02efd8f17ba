"""SIPp as the far end of a call: a scenario of ours that takes one call on a port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cli.ports import is_free
from tests.integration.peers import free_udp_ports, require

SCENARIOS = Path(__file__).parents[1] / "data" / "sipp"


class FarEnd:
    """A running SIPp."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self._process = process
        self._folder = folder

    @property
    def messages(self) -> str:
        """All SIP that went and came so far."""
        log = self._folder / "messages.log"
        return log.read_text("utf-8", "replace") if log.exists() else ""

    async def succeeded(self) -> None:
        """Its one call went exactly as the scenario has it."""
        async with asyncio.timeout(15):
            status = await self._process.wait()
        errors = self._folder / "errors.log"
        told = errors.read_text("utf-8", "replace") if errors.exists() else ""
        assert status == 0, f"sipp ended with {status}: {told[-2000:]}"


@asynccontextmanager
async def far_end(scenario: str, port: int, folder: Path) -> AsyncIterator[FarEnd]:
    """Run `scenario`.xml of tests/data/sipp on this port; RTP that comes is sent back. Yields when it listens."""
    argv = [
        require("sipp"), "-sf", str(SCENARIOS / f"{scenario}.xml"), "-i", "127.0.0.1", "-p", str(port),
        "-mp", str(free_udp_ports(4)), "-rtp_echo", "-m", "1", "-nostdin", "-timeout", "40", "-timeout_error",
        "-trace_err", "-error_file", "errors.log", "-trace_msg", "-message_file", "messages.log",
    ]  # fmt: skip
    with (folder / "output.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*argv, cwd=folder, stdout=asyncio.subprocess.DEVNULL, stderr=log)
    try:
        async with asyncio.timeout(5):
            while is_free(port, "127.0.0.1", "udp"):
                assert process.returncode is None, f"sipp did not start: {(folder / 'output.log').read_text()}"
                await asyncio.sleep(0.02)
        yield FarEnd(process, folder)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
