"""The least that a program can do with datagrams: one socket, asyncio on uvloop, each sent back as it came.

`python -m tests.load.udp_echo` prints its port and serves until its input ends. The yardstick of load runs: what it
loses, jitters and costs on this machine in this minute is what nobody can do better in the same language.
"""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import uvloop

from cli.checkout import ROOT


class Echo(asyncio.DatagramProtocol):
    """Sends each datagram back."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self._transport.sendto(data, addr)


@dataclass(frozen=True, slots=True)
class RunningEcho:
    """Where it listens, and its process."""

    address: tuple[str, int]
    process: Process


@asynccontextmanager
async def udp_echo() -> AsyncIterator[RunningEcho]:
    """An echo in a process of its own."""
    process = await create_subprocess_exec(
        sys.executable, "-m", "tests.load.udp_echo", cwd=ROOT, stdin=PIPE, stdout=PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield RunningEcho(("127.0.0.1", int(await process.stdout.readline())), process)
    finally:
        process.stdin.close()
        await process.wait()


async def serve() -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Echo, ("127.0.0.1", 0))
    print(transport.get_extra_info("sockname")[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
