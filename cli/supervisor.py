"""Starts processes, waits until they are ready, starts dead ones again, ends them all: the shell of `restarts`.

Children get a session of their own (Ctrl-C reaches only the supervisor) and die with it, whatever kills it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import psutil

from cli.child import dies_with_parent
from cli.errors import CliError
from cli.programs import Program
from cli.restarts import Restarts
from cli.state import ProcessIdentity

POLL_S = 0.05
READY_TIMEOUT_S = 40.0
# SIGTERM goes out phase by phase: who takes calls first, the bus last. A service lets calls finish for the seconds
# that `programs` gives it, then flushes its events for up to 5 s; the sum is what an end without a bus may take.
PHASE_GRACE_S = (8.5, 7.5, 6.5, 6.0)
LAST_LINES = 12
SAVE_AGAIN_S = 1.0
SAVE_AGAIN_MOST_S = 30.0


class Supervisor:
    """The processes of one `up` or `demo`. Use `async with`: leaving the block ends them all."""

    def __init__(
        self, *, environment: Mapping[str, str], cwd: Path, log_dir: Path, tell: Callable[[str], None]
    ) -> None:
        self._environment = environment
        self._cwd = cwd
        self._log_dir = log_dir
        self._tell = tell
        self._programs: dict[str, Program] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._restarts = Restarts()
        self._stopping = False
        self._unsaved = asyncio.Event()
        self.identities: dict[str, ProcessIdentity] = {}
        self.on_change: Callable[[], None] = lambda: None  # it may raise OSError: it is then called again later

    async def __aenter__(self) -> Supervisor:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.shield(asyncio.ensure_future(self.stop()))

    def log_of(self, name: str) -> Path:
        """Where a process's output goes."""
        return self._log_dir / f"{name}.log"

    def pid_of(self, name: str) -> int:
        """Its pid now."""
        return self._processes[name].pid

    def restarts_of(self, name: str) -> int:
        """How often it was started again."""
        return self._restarts.count(name)

    async def start(self, program: Program) -> None:
        """Start a process. It is ready only after `wait_ready`.

        Raises:
            OSError: there is no log file or no process to be had (a full disk, a limit).
        """
        log = self.log_of(program.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        if program.name not in self._programs and log.exists():
            log.replace(log.with_suffix(".log.1"))
        self._programs[program.name] = program
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *program.argv,
                env=dict(self._environment) | dict(program.env),
                cwd=self._cwd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=dies_with_parent(),
            )
        self._processes[program.name] = process
        self._restarts.started(program.name, asyncio.get_running_loop().time())
        try:
            self.identities[program.name] = ProcessIdentity.of(process.pid)
        except psutil.NoSuchProcess:
            self.identities.pop(program.name, None)
        self.changed()

    def changed(self) -> None:
        """Call `on_change`. A full disk is told once, and tried again while `keep_running` runs."""
        try:
            self.on_change()
        except OSError as error:
            if not self._unsaved.is_set():
                self._say(f"the state of this callbus cannot be written ({_why(error)}); trying again")
            self._unsaved.set()
        else:
            self._unsaved.clear()

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone, or the log is on the full disk: not worth an end
            self._tell(text)

    async def wait_ready(self, *programs: Program, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until all are ready.

        Raises:
            CliError: one ended or was not ready in time; its last log lines are in the message.
        """
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as client:
            await asyncio.gather(*(self._wait_ready(client, program, timeout_s) for program in programs))

    async def _wait_ready(self, client: aiohttp.ClientSession, program: Program, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        deadline_at = loop.time() + timeout_s
        problem = "nothing answers yet"
        while loop.time() < deadline_at:
            process = self._processes[program.name]
            if process.returncode is not None:
                raise CliError(f"{program.name} ended with {process.returncode} at its start:\n{self.tail(program)}")
            problem = await _not_ready(client, program)
            # Whoever has the port may answer: ready is only a process of ours that listens there.
            if not problem and process.returncode is None:
                if _listens(process.pid, _port_of(program)):
                    return
                problem = "another program answers at its port"
            await asyncio.sleep(POLL_S)
        raise CliError(f"{program.name} was not ready within {timeout_s:g} s ({problem}):\n{self.tail(program)}")

    def tail(self, program: Program) -> str:
        """The last lines of its log, indented."""
        try:
            lines = self.log_of(program.name).read_text("utf-8", "replace").splitlines()
        except OSError:
            lines = []
        shown = "\n".join(f"    {line}" for line in lines[-LAST_LINES:]) or "    (no output)"
        return f"{shown}\n    … {self.log_of(program.name)}"

    async def keep_running(self) -> None:
        """Start dead processes again, with back-off, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._save_again(), name="save")
            for name in self._programs:
                group.create_task(self._keep(name), name=f"keep {name}")

    async def _save_again(self) -> None:
        wait_s = SAVE_AGAIN_S
        while True:
            await self._unsaved.wait()
            await asyncio.sleep(wait_s)
            self.changed()
            wait_s = min(wait_s * 2, SAVE_AGAIN_MOST_S) if self._unsaved.is_set() else SAVE_AGAIN_S

    async def _keep(self, name: str) -> None:
        while True:
            process = self._processes[name]
            code = await process.wait()
            if self._stopping:
                return
            how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with {code}"
            await self._start_again(name, f"{name} (pid {process.pid}) {how}; starting it again")

    async def _start_again(self, name: str, what: str) -> None:
        """Until there is a process: that it cannot even be started is one more death."""
        while True:
            wait_s = self._restarts.died(name, asyncio.get_running_loop().time())
            self._say(f"{what} in {wait_s:g} s")
            await asyncio.sleep(wait_s)
            if self._stopping:
                return
            try:
                await self.start(self._programs[name])
            except (OSError, subprocess.SubprocessError) as error:  # the latter: the child died before exec
                what = f"{name} cannot be started ({_why(error)}); trying again"
            else:
                return

    async def stop(self) -> None:
        """SIGTERM phase by phase, then SIGKILL for what is left. Safe to call twice."""
        self._stopping = True
        for phase, grace_s in enumerate(PHASE_GRACE_S):
            alive = [p for n, p in self._processes.items() if self._programs[n].phase == phase and p.returncode is None]
            for process in alive:
                _signal(process, signal.SIGTERM)
                _signal(process, signal.SIGCONT)  # a frozen one would not even hear it
            if alive:
                await asyncio.wait([asyncio.ensure_future(p.wait()) for p in alive], timeout=grace_s)
        left = [(name, process) for name, process in self._processes.items() if process.returncode is None]
        for name, process in left:
            self._say(f"{name} (pid {process.pid}) did not end in time and is killed")
            try:
                os.killpg(process.pid, signal.SIGKILL)  # a session of its own: the group is its pid
            except ProcessLookupError:
                continue
        await asyncio.gather(*(process.wait() for _, process in left))


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    # Not `process.send_signal`: it polls first, and what it reaps asyncio waits for in vain.
    with contextlib.suppress(ProcessLookupError):  # it ended in between
        os.kill(process.pid, number)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _port_of(program: Program) -> int:
    return program.ready_port or urlsplit(program.ready_url or "").port or 0


def _listens(pid: int, port: int) -> bool:
    """Whether the process, or a child of it, has the TCP port."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        connections = [connection for one in family for connection in one.net_connections("tcp")]
    except psutil.AccessDenied:  # it changed its user: nobody can tell
        return True
    except psutil.NoSuchProcess:
        return False
    return any(c.laddr and c.laddr.port == port and c.status == psutil.CONN_LISTEN for c in connections)


async def _not_ready(client: aiohttp.ClientSession, program: Program) -> str:
    """Empty when it is ready, else why not."""
    if program.ready_port is not None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", program.ready_port)
        except OSError as error:
            return str(error)
        writer.close()
        return ""
    try:
        async with client.get(program.ready_url or "") as response:
            said = (await response.text("utf-8", "replace"))[:300]
            return "" if response.status == 200 else f"HTTP {response.status} {said}".rstrip()
    except (aiohttp.ClientError, TimeoutError) as error:
        return str(error) or type(error).__name__
