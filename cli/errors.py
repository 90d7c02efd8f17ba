"""What goes wrong on the command line, as a sentence for the person in front of it."""

from __future__ import annotations

from cli.exit_codes import ExitCode

NOT_RUNNING = "callbus is not running here: start it with `callbus up`"


class CliError(Exception):
    """One sentence that says what is wrong and what to do; printed without a traceback, exit code 1 unless it has
    another."""

    def __init__(self, text: str, code: ExitCode = ExitCode.ERROR) -> None:
        super().__init__(text)
        self.code = code


class NotRunning(CliError):
    """No `callbus up` of this checkout is alive, or the bus that was named lets nobody in; exit code 3."""

    def __init__(self, text: str = NOT_RUNNING) -> None:
        super().__init__(text, ExitCode.NOT_RUNNING)
