"""Starts processes, waits until they are ready, starts dead ones again, ends them all: the shell of `restarts`.

Children get a session of their own (Ctrl-C reaches only the supervisor) and die with it, whatever kills it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import aiohttp
import psutil

from cli.child import dies_with_parent
from cli.errors import CliError
from cli.programs import Program
from cli.restarts import Restarts
from cli.state import ProcessIdentity

POLL_S = 0.05
READY_TIMEOUT_S = 40.0
# SIGTERM goes out phase by phase: who takes calls first, the bus last. The sum is what an orderly end may take.
PHASE_GRACE_S = (3.5, 2.0, 1.5, 1.0)
LAST_LINES = 12


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
        self.identities: dict[str, ProcessIdentity] = {}
        self.on_change: Callable[[], None] = lambda: None

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
        """Start a process. It is ready only after `wait_ready`."""
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
        self.on_change()

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
            if not problem:
                return
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
            for name in self._programs:
                group.create_task(self._keep(name), name=f"keep {name}")

    async def _keep(self, name: str) -> None:
        while True:
            process = self._processes[name]
            code = await process.wait()
            if self._stopping:
                return
            wait_s = self._restarts.died(name, asyncio.get_running_loop().time())
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            self._tell(f"{name} (pid {process.pid}) {how}; starting it again in {wait_s:g} s")
            await asyncio.sleep(wait_s)
            await self.start(self._programs[name])

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
            self._tell(f"{name} (pid {process.pid}) did not end in time and is killed")
            try:
                os.killpg(process.pid, signal.SIGKILL)  # a session of its own: the group is its pid
            except ProcessLookupError:
                continue
        await asyncio.gather(*(process.wait() for _, process in left))


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended in between
        process.send_signal(number)


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
            return "" if response.status == 200 else (await response.text())[:300]
    except (aiohttp.ClientError, TimeoutError) as error:
        return str(error) or type(error).__name__
