"""`--kill-worker` and `--freeze-worker`: what happens to the worker that has the call."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence

import aiohttp
from nats.aio.client import Client
from rich.console import Console

from cli.demo.call_log import CallLog
from cli.errors import CliError
from cli.programs import Program
from cli.supervisor import Supervisor
from libs.contracts import subjects
from libs.contracts.events import CallClaimed
from libs.contracts.heartbeat import CallEntry

FROZEN_S = 3.0
TAKEOVER_TIMEOUT_S = 10.0


async def worker_names(workers: Sequence[Program]) -> dict[str, str]:
    """Process name by worker id, as each says at its health page."""
    names: dict[str, str] = {}
    async with aiohttp.ClientSession() as client:
        for program in workers:
            async with client.get(f"http://127.0.0.1:{program.health_port}/healthz") as response:
                names[(await response.json())["id"]] = program.name
    return names


class WorkerTrouble:
    """Kills or freezes the owner of the call, as KV `calls` names it, and waits until another has the call."""

    def __init__(
        self, client: Client, supervisor: Supervisor, names: dict[str, str], log: CallLog, console: Console
    ) -> None:
        self._client, self._supervisor, self._names = client, supervisor, names
        self._log, self._console = log, console

    async def kill(self) -> None:
        """SIGKILL."""
        await self._strike(signal.SIGKILL)

    async def freeze(self) -> None:
        """SIGSTOP, and SIGCONT after three seconds: what it then says must not be heard."""
        pid = await self._strike(signal.SIGSTOP)
        asyncio.get_running_loop().call_later(FROZEN_S, _thaw, pid)

    async def _strike(self, number: signal.Signals) -> int:
        name = self._names[await self._owner()]
        pid = self._supervisor.pid_of(name)
        mark = len(self._log.events)
        self._console.print(f"              {number.name} to {name} (pid {pid}), which has the call", style="bold red")
        os.kill(pid, number)
        await self._log.wait_for(CallClaimed, mark, TAKEOVER_TIMEOUT_S)
        return pid

    async def _owner(self) -> str:
        store = await self._client.jetstream().key_value(subjects.KV_CALLS)
        (key,) = await store.keys()
        entry = CallEntry.model_validate_json((await store.get(key)).value or b"")
        if entry.wk is None or entry.wk not in self._names:
            raise CliError(f"KV `calls` names {entry.wk} as the call's worker, which is none of ours")
        return entry.wk


def _thaw(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return
