"""How every command runs: its settings, its consoles, and its end as an exit code with a sentence."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import nats.errors
import typer
from pydantic import ValidationError

from cli.bus import explained
from cli.consoles import PlainConsole
from cli.errors import CliError
from cli.exit_codes import ExitCode
from cli.settings import CliSettings

T = TypeVar("T")
Nats = Annotated[str | None, typer.Option("--nats", metavar="URL", help="The bus; else NATS_URL, else the running up")]
Json = Annotated[bool, typer.Option("--json", help="JSON for programs")]
console = PlainConsole()
errors = PlainConsole(stderr=True)

LIVE_CALL = "A live call"
CALLS = "Calls"
CONFIGURATION = "Configuration"
OPERATION = "Operation"


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command to its end, its output included."""
    with sentences():
        done = asyncio.run(work)
        sys.stdout.flush()
        return done


@contextmanager
def sentences() -> Iterator[None]:
    """What goes wrong is a sentence and an exit code (`cli.exit_codes`)."""
    try:
        yield
    except CliError as error:
        raise failure(error) from None
    except nats.errors.Error as error:
        raise failure(CliError(explained(error))) from None
    except BrokenPipeError:  # `| head`: whoever reads has enough
        _drop_output()
        raise typer.Exit(1) from None
    except OSError as error:
        _drop_output()
        where = f"{error.filename}: " if error.filename else ""
        raise failure(CliError(f"{where}{error.strerror or error}")) from None
    except (KeyboardInterrupt, asyncio.CancelledError):  # Ctrl-C, or SIGTERM where a command handles it
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _drop_output() -> None:
    """What standard output could not take, Python would complain about once more at its exit."""
    try:
        sys.stdout.flush()
    except OSError:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def settings() -> CliSettings:
    """What the environment and `.env` say.

    Raises:
        typer.Exit: a value there is wrong; it was named.
    """
    try:
        return CliSettings()
    except ValidationError as error:
        wrong = "; ".join(f"{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors(include_url=False))
        raise failure(CliError(f"the environment or .env has a mistake: {wrong}")) from None


def failure(error: CliError) -> typer.Exit:
    """Print the sentence; the exit to raise."""
    errors.print(str(error), style="red", markup=False, soft_wrap=True)
    return typer.Exit(error.code)
