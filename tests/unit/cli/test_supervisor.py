"""The supervisor with real processes: ready, restarted, ended, and never left behind."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cli.checkout import ROOT
from cli.errors import CliError
from cli.ports import free_port
from cli.programs import Program
from cli.state import ProcessIdentity
from cli.supervisor import Supervisor

LISTEN = "import socket,sys,time; s=socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(60)"


def listener(name: str = "listener", phase: int = 0) -> Program:
    port = free_port()
    return Program(name, (sys.executable, "-S", "-c", LISTEN, str(port)), {}, "", phase, ready_port=port)


def supervisor(tmp_path: Path, told: Callable[[str], None] = lambda _: None) -> Supervisor:
    return Supervisor(environment=dict(os.environ), cwd=tmp_path, log_dir=tmp_path / "log", tell=told)


async def gone(identity: ProcessIdentity) -> None:
    async with asyncio.timeout(5):
        while identity.process() is not None:  # noqa: ASYNC110  nothing tells of a child that is another's
            await asyncio.sleep(0.01)


async def test_leaving_the_block_ends_every_process(tmp_path: Path) -> None:
    async with supervisor(tmp_path) as kept:
        for program in (first := listener("first"), second := listener("second", phase=3)):
            await kept.start(program)
        await kept.wait_ready(first, second)
        identities = list(kept.identities.values())
        assert all(identity.process() for identity in identities)
    assert [identity.process() for identity in identities] == [None, None]


async def test_a_process_that_ends_at_its_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    program = Program("broken", (sys.executable, "-S", "-c", "raise SystemExit('no such port')"), {}, "", 0, None, 1)
    async with supervisor(tmp_path) as kept:
        await kept.start(program)
        with pytest.raises(CliError, match=r"broken ended with 1 at its start:\n    no such port"):
            await kept.wait_ready(program)


async def test_a_dead_process_is_started_again(tmp_path: Path) -> None:
    told: list[str] = []
    started = asyncio.Event()
    program = listener()
    async with supervisor(tmp_path, told.append) as kept, asyncio.timeout(20):
        await kept.start(program)
        await kept.wait_ready(program)
        keeping = asyncio.create_task(kept.keep_running())
        kept.on_change = started.set
        first = kept.pid_of(program.name)
        os.kill(first, signal.SIGKILL)
        await started.wait()
        await kept.wait_ready(program)
        assert kept.pid_of(program.name) != first
        assert kept.restarts_of(program.name) == 1
        keeping.cancel()
    assert told == [f"listener (pid {first}) was killed by SIGKILL; starting it again in 1 s"]


async def test_a_frozen_process_is_ended_as_well(tmp_path: Path) -> None:
    program = listener()
    async with supervisor(tmp_path) as kept:
        await kept.start(program)
        await kept.wait_ready(program)
        identity = kept.identities[program.name]
        os.kill(identity.pid, signal.SIGSTOP)
    assert identity.process() is None


PARENT = """
import asyncio, os, sys
from pathlib import Path
from tests.unit.cli.test_supervisor import listener, supervisor

async def main():
    async with supervisor(Path(sys.argv[1])) as kept:
        program = listener()
        await kept.start(program)
        await kept.wait_ready(program)
        print(kept.pid_of(program.name), flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
async def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(tmp_path), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    child = ProcessIdentity.of(int(await parent.stdout.readline()))
    assert child.process() is not None
    parent.kill()
    await parent.wait()
    await gone(child)
    assert not psutil.pid_exists(child.pid) or child.process() is None
