"""The demo from its private directory to its checklist."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from nats.aio.client import Client
from rich.console import Console

from cli import checkout
from cli.bus import connected
from cli.demo.call_log import CallLog
from cli.demo.caller import Clip, read_clips
from cli.demo.checks import takeover_checks
from cli.demo.configs import configs
from cli.demo.conversation import Place, converse, verdict
from cli.demo.trouble import WorkerTrouble, worker_names
from cli.errors import CliError
from cli.ports import free_port
from cli.programs import Options, Plan, plan
from cli.settings import private_environment
from cli.supervisor import Supervisor
from cli.up import start_all
from libs.contracts.agent import Backend

TIME_LIMIT_S = 150.0  # a demo that hangs must end, too; a good one takes about 60
WORKERS = 2
PREFIX = "callbus-demo-"
LEFTOVER_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What `callbus demo` was told."""

    kill_worker: bool = False
    freeze_worker: bool = False
    keep_log: bool = False
    backend: Backend = "realtime"


async def run_demo(options: DemoOptions, console: Console) -> bool:
    """Whether everything held. Ends all that it started, however it ends.

    Raises:
        CliError: the call could not be made at all.
    """
    checkout.require_checkout()
    clips = read_clips()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    remove_leftovers(Path(tempfile.gettempdir()), time.time())
    var = Path(tempfile.mkdtemp(prefix=PREFIX))
    passed = False
    try:
        async with asyncio.timeout(TIME_LIMIT_S):
            passed = await _Demo(options, console, var, clips).run()
    except TimeoutError:
        raise CliError(f"the demo did not end within {TIME_LIMIT_S:g} s; its logs are in {var / 'log'}") from None
    finally:
        if options.keep_log or not passed:
            console.print(f"logs, databases and the recording: {var}", style="dim")
        else:
            shutil.rmtree(var, ignore_errors=True)
    return passed


def remove_leftovers(directory: Path, now: float) -> None:
    """Remove what demos that were killed, or failed, left there more than a day ago; `now` in seconds since 1970."""
    for path in directory.glob(f"{PREFIX}*"):
        try:
            found = path.lstat()
        except OSError:  # another demo was faster
            continue
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and now - found.st_mtime > LEFTOVER_S:
            shutil.rmtree(path, ignore_errors=True)


class _Demo:
    def __init__(self, options: DemoOptions, console: Console, var: Path, clips: dict[str, Clip]) -> None:
        self._options, self._console, self._var, self._clips = options, console, var, clips
        self._log = CallLog(console)

    async def run(self) -> bool:
        sip_port = free_port(transport="udp")
        chosen = plan(Options(var=self._var, workers=WORKERS, sip_port=sip_port, nats_port=free_port(), browser=False))
        async with Supervisor(
            environment=private_environment(), cwd=self._var, log_dir=self._var / "log", tell=self._tell
        ) as supervisor:
            self._console.print("starting the bus and all services …", style="dim")
            await start_all(supervisor, chosen, configs(self._options.backend, self._var / "config"))
            async with connected(chosen.nats_url) as client:
                return await self._with_tasks(supervisor, chosen, client, sip_port)

    async def _with_tasks(self, supervisor: Supervisor, chosen: Plan, client: Client, sip_port: int) -> bool:
        """The call beside the two tasks that last as long: restarts, and the live transcript."""
        tasks = [asyncio.create_task(supervisor.keep_running()), asyncio.create_task(self._log.follow(client))]
        call = asyncio.create_task(self._call(supervisor, chosen, client, sip_port))
        try:
            await asyncio.wait([call, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
            return await call
        finally:
            call.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(call, *tasks, return_exceptions=True)

    async def _call(self, supervisor: Supervisor, chosen: Plan, client: Client, sip_port: int) -> bool:
        workers = [program for program in chosen.services if program.name.startswith("ai_session")]
        trouble = WorkerTrouble(client, supervisor, await worker_names(workers), self._log, self._console)
        strike = trouble.kill if self._options.kill_worker else trouble.freeze if self._options.freeze_worker else None
        place = Place(sip_port, chosen.rehearsal_url or "", backend=self._options.backend)
        checks = await converse(client, place, self._log, self._clips, strike, self._var / "heard.wav")
        if strike is not None:
            checks += takeover_checks(self._log.events)
        return verdict(self._console, checks)

    def _tell(self, text: str) -> None:
        self._console.print(f"              {text}", style="red", soft_wrap=True)
