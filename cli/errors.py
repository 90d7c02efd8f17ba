"""What goes wrong on the command line, as a sentence for the person in front of it."""

from __future__ import annotations

NOT_RUNNING = "callbus is not running here: start it with `callbus up`"


class CliError(Exception):
    """One sentence that says what is wrong and what to do; printed without a traceback, exit code 1."""


class NotRunning(CliError):
    """Nothing answers on the bus, and no `callbus up` of this checkout is alive; exit code 3."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(f"{NOT_RUNNING} ({detail})" if detail else NOT_RUNNING)
