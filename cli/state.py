"""What a running `callbus up` leaves for the other commands: `var/run/up.json`.

A pid alone proves nothing, it may be somebody else's by now: each is kept with the process's start time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

START_TIME_TOLERANCE_S = 0.05


class ProcessIdentity(BaseModel):
    """A process that was started: pid and start time (seconds since the epoch, as psutil gives it)."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started_at: float

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """Of a process that runs now.

        Raises:
            psutil.NoSuchProcess: it does not.
        """
        return cls(pid=pid, started_at=psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """The very process, or None when it is gone (a zombie is gone) or the pid is another's."""
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            same = abs(process.create_time() - self.started_at) <= START_TIME_TOLERANCE_S
        except psutil.NoSuchProcess:
            return None
        return process if same else None

    def children(self) -> list[ProcessIdentity]:
        """The children that the process has now; none when it is gone."""
        process = self.process()
        try:
            children = process.children() if process is not None else []
            return [ProcessIdentity(pid=child.pid, started_at=child.create_time()) for child in children]
        except psutil.Error:
            return []


class UpState(BaseModel):
    """One `up`: its own process, its children by name, and where things listen."""

    supervisor: ProcessIdentity
    processes: dict[str, ProcessIdentity] = {}
    nats_url: str
    sip: str
    health_ports: dict[str, int] = {}
    ready: bool = False

    def write(self, path: Path) -> None:
        """Replace the file in one step: readers never see half of it.

        Raises:
            OSError: a full disk, say; what stood there still stands.
        """
        replace_file(path, self.model_dump_json(indent=2))


def replace_file(path: Path, text: str) -> None:
    """Write a file in one step: it holds either the old text or the new.

    Raises:
        OSError: it still holds the old.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    try:
        part.write_text(text, "utf-8")
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def remove_state(path: Path, supervisor: ProcessIdentity) -> None:
    """Remove the file if it is that supervisor's; another's stays."""
    state = read_state(path)
    if state is not None and state.supervisor == supervisor:
        path.unlink(missing_ok=True)


def read_state(path: Path) -> UpState | None:
    """What the file says, or None when there is none that can be read."""
    try:
        return UpState.model_validate(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, ValidationError):
        return None


def running(path: Path) -> UpState | None:
    """The state of an `up` whose supervisor is alive, else None."""
    state = read_state(path)
    return state if state is not None and state.supervisor.process() is not None else None


def end(identities: list[ProcessIdentity], grace_s: float, told: Callable[[str], None] = lambda _: None) -> int:
    """End exactly these processes: SIGTERM, `grace_s` seconds, SIGKILL. Returns how many were alive."""
    alive = [process for identity in identities if (process := identity.process()) is not None]
    for process in alive:
        try:
            process.terminate()
        except psutil.Error:  # gone, or another user's: whoever asks finds it alive afterwards
            continue
    _, stubborn = psutil.wait_procs(alive, timeout=grace_s)
    for process in stubborn:
        told(f"pid {process.pid} did not end within {grace_s:g} s and was killed")
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(stubborn, timeout=2)
    return len(alive)
