"""What `callbus doctor` finds, and what its checks look at."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from nats.aio.client import Client

from cli.settings import CliSettings
from cli.state import UpState
from cli.up import rehearsed

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: a sentence, and for all but `ok` what to do. `--json` has these fields, in this order."""

    check: str
    state: State
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Site:
    """What the checks look at: settings, the `up` that runs here if any, the bus if there is one."""

    settings: CliSettings
    up: UpState | None
    bus: Client | None = None

    @property
    def client(self) -> Client:
        """The bus, for checks in `BUS_CHECKS`."""
        assert self.bus is not None
        return self.bus

    @property
    def rehearses(self) -> bool:
        """A rehearsal speaks instead of models, or would."""
        if self.up is not None:
            return "rehearsal" in self.up.processes
        return rehearsed(self.settings, None)


Check = Callable[[Site], Awaitable[list[Finding]]]
"""One function per check, named `check_…`, whose docstring says what it looks at."""
