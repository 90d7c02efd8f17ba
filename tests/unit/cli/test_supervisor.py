"""The supervisor with real processes: ready, restarted, ended, and never left behind."""

import asyncio
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import psutil
import pytest

from cli.checkout import ROOT
from cli.errors import CliError
from cli.ports import free_port
from cli.programs import GATEWAY_DRAIN_S, WORKER_DRAIN_S, Program
from cli.state import ProcessIdentity
from cli.supervisor import PHASE_GRACE_S, Supervisor, _signal
from cli.up import DOWN_GRACE_S
from libs.runtime.service import FLUSH_TIMEOUT_S

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
        killed_at = asyncio.get_running_loop().time()
        await started.wait()
        assert asyncio.get_running_loop().time() - killed_at > 0.95
        await kept.wait_ready(program)
        assert kept.pid_of(program.name) != first
        assert kept.restarts_of(program.name) == 1
        keeping.cancel()
    assert told == [f"listener (pid {first}) was killed by SIGKILL; starting it again in 1 s"]


async def test_a_frozen_process_is_woken_to_end_in_order(tmp_path: Path) -> None:
    told: list[str] = []
    program = listener()
    async with supervisor(tmp_path, told.append) as kept:
        await kept.start(program)
        await kept.wait_ready(program)
        identity = kept.identities[program.name]
        os.kill(identity.pid, signal.SIGSTOP)
    assert identity.process() is None
    assert told == []  # it was not killed


PAGE = """
import http.server, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(sys.argv[2])); self.end_headers(); self.wfile.write(b"loading the catalogue")
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever()
"""


@pytest.mark.parametrize(("status", "ready"), [(200, True), (204, False), (503, False)])
async def test_only_http_200_is_ready(tmp_path: Path, status: int, ready: bool) -> None:
    port = free_port()
    argv = (sys.executable, "-S", "-c", PAGE, str(port), str(status))
    program = Program("page", argv, {}, "", 0, ready_url=f"http://127.0.0.1:{port}/readyz")
    async with supervisor(tmp_path) as kept:
        await kept.start(program)
        if ready:
            await kept.wait_ready(program)
            return
        with pytest.raises(CliError, match="page was not ready within 1 s"):
            await kept.wait_ready(program, timeout_s=1)


async def test_an_answer_from_a_program_that_is_not_ours_is_not_readiness(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        argv = (sys.executable, "-S", "-c", "import time; time.sleep(60)")
        program = Program("silent", argv, {}, "", 0, ready_port=foreign.getsockname()[1])
        async with supervisor(tmp_path) as kept:
            await kept.start(program)
            with pytest.raises(CliError, match="another program answers at its port"):
                await kept.wait_ready(program, timeout_s=0.3)


LAST_WORDS = """
import signal, sys, time
def end(*_):
    time.sleep(0.2)
    open("ended", "a").write(sys.argv[1])
    raise SystemExit
signal.signal(signal.SIGTERM, end)
print(flush=True)
time.sleep(60)
"""


async def spoken(kept: Supervisor, program: Program) -> None:
    """Until the program has said something."""
    async with asyncio.timeout(5):
        while not kept.log_of(program.name).read_bytes():  # noqa: ASYNC110  another process writes it
            await asyncio.sleep(0.01)


async def test_a_phase_has_ended_before_the_next_is_told_to(tmp_path: Path) -> None:
    async with supervisor(tmp_path) as kept:
        for phase in (3, 0, 1):
            program = Program(f"p{phase}", (sys.executable, "-S", "-c", LAST_WORDS, str(phase)), {}, "", phase)
            await kept.start(program)
            await spoken(kept, program)
    assert (tmp_path / "ended").read_text() == "013"


DEAF = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"]).pid, flush=True)
time.sleep(60)
"""


async def test_who_does_not_listen_is_killed_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.supervisor.PHASE_GRACE_S", (0.1,))
    told: list[str] = []
    program = Program("deaf", (sys.executable, "-S", "-c", DEAF), {}, "", 0)
    async with supervisor(tmp_path, told.append) as kept:
        await kept.start(program)
        await spoken(kept, program)
        identities = [kept.identities["deaf"], ProcessIdentity.of(int(kept.log_of("deaf").read_text()))]
    for identity in identities:
        await gone(identity)
    assert told == [f"deaf (pid {identities[0].pid}) did not end in time and is killed"]


def test_a_service_has_its_drain_and_the_flush_of_its_events_before_it_is_killed() -> None:
    drains_s = {0: float(GATEWAY_DRAIN_S), 1: float(WORKER_DRAIN_S), 2: 0.0}
    assert all(PHASE_GRACE_S[phase] > drain_s + FLUSH_TIMEOUT_S for phase, drain_s in drains_s.items())
    assert min(PHASE_GRACE_S) >= 6
    assert sum(PHASE_GRACE_S) < DOWN_GRACE_S


def test_telling_a_process_to_end_leaves_its_status_to_asyncio() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet reaped
    _signal(cast("asyncio.subprocess.Process", child), signal.SIGTERM)
    assert os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG) is not None
    child.wait()


async def test_what_ends_because_it_shall_is_not_started_again(tmp_path: Path) -> None:
    told: list[str] = []
    program = listener()
    kept = supervisor(tmp_path, told.append)
    await kept.start(program)
    await kept.wait_ready(program)
    keeping = asyncio.create_task(kept.keep_running())
    await asyncio.sleep(0)
    await kept.stop()
    await asyncio.wait([keeping], timeout=0.1)
    assert told == []
    assert kept.restarts_of(program.name) == 0
    keeping.cancel()


async def test_the_log_of_the_last_time_is_kept_and_a_restart_goes_on_in_the_same(tmp_path: Path) -> None:
    program = Program("said", (sys.executable, "-S", "-c", "print('new')"), {}, "", 0)
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "said.log").write_text("old")
    async with supervisor(tmp_path) as kept:
        for times in (1, 2):
            await kept.start(program)
            async with asyncio.timeout(5):
                while (tmp_path / "log" / "said.log").read_text() != "new\n" * times:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
    assert (tmp_path / "log" / "said.log.1").read_text() == "old"


async def test_a_full_disk_is_told_once_and_the_state_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.supervisor.SAVE_AGAIN_S", 0.01)
    told: list[str] = []
    written = asyncio.Event()
    problems = [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) for _ in range(3)]

    def write() -> None:
        if problems:
            raise problems.pop()
        written.set()

    program = listener()
    async with supervisor(tmp_path, told.append) as kept, asyncio.timeout(10):
        kept.on_change = write
        await kept.start(program)
        keeping = asyncio.create_task(kept.keep_running())
        await written.wait()
        await asyncio.wait([keeping], timeout=0.05)
        assert kept.identities[program.name].process() is not None
        keeping.cancel()
    assert told == ["the state of this callbus cannot be written (No space left on device); trying again"]


async def test_a_process_that_cannot_be_started_again_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.restarts.LONGEST_WAIT_S", 0.02)
    told: list[str] = []
    started, failed = asyncio.Event(), asyncio.Event()

    def tell(text: str) -> None:
        told.append(text)
        if "cannot be started" in text:
            failed.set()
        raise OSError(errno.ENOSPC, "the log is on the same disk")

    link = tmp_path / "program"
    link.symlink_to(shutil.which("sleep") or "/bin/sleep")
    program, other = Program("short", (str(link), "60"), {}, "", 0), listener("other")
    async with supervisor(tmp_path, tell) as kept, asyncio.timeout(15):
        await kept.start(program)
        await kept.start(other)
        link.unlink()
        keeping = asyncio.create_task(kept.keep_running())
        os.kill(kept.pid_of("short"), signal.SIGKILL)
        await failed.wait()
        kept.on_change = started.set
        link.symlink_to(shutil.which("sleep") or "/bin/sleep")
        await started.wait()
        assert kept.identities["other"].process() is not None
        keeping.cancel()
    assert "short cannot be started (No such file or directory); trying again in 0.02 s" in told


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
