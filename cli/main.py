"""The command `callbus`. Each command here only reads its arguments; the work is in the modules beside."""

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
from rich.console import Console

from cli.bus import explained
from cli.errors import CliError, NotRunning
from cli.ports import free_port
from cli.settings import CliSettings

app = typer.Typer(
    name="callbus",
    help="Phone calls answered by an AI agent: start everything, watch calls, ask for what was said and ordered.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
)
catalog_app = typer.Typer(no_args_is_help=True, help="The products that agents sell.")
app.add_typer(catalog_app, name="catalog")

T = TypeVar("T")
Nats = Annotated[str | None, typer.Option("--nats", metavar="URL", help="The bus; else NATS_URL, else the running up")]
Json = Annotated[bool, typer.Option("--json", help="JSON for programs")]
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command to its end, its output included."""
    with _sentences():
        done = asyncio.run(work)
        sys.stdout.flush()
        return done


@contextmanager
def _sentences() -> Iterator[None]:
    """What goes wrong is a sentence and an exit code (1, 3 when callbus is not running)."""
    try:
        yield
    except CliError as error:
        raise _failure(error) from None
    except nats.errors.Error as error:
        raise _failure(CliError(explained(error))) from None
    except BrokenPipeError:  # `| head`: whoever reads has enough
        _drop_output()
        raise typer.Exit(1) from None
    except OSError as error:
        _drop_output()
        where = f"{error.filename}: " if error.filename else ""
        raise _failure(CliError(f"{where}{error.strerror or error}")) from None
    except (KeyboardInterrupt, asyncio.CancelledError):  # Ctrl-C, or SIGTERM where a command handles it
        raise typer.Exit(130) from None


def _drop_output() -> None:
    """What standard output could not take, Python would complain about once more at its exit."""
    try:
        sys.stdout.flush()
    except OSError:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _settings() -> CliSettings:
    try:
        return CliSettings()
    except ValidationError as error:
        wrong = "; ".join(f"{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors(include_url=False))
        raise _failure(CliError(f"the environment or .env has a mistake: {wrong}")) from None


def _failure(error: CliError) -> typer.Exit:
    errors.print(str(error), style="red", markup=False, soft_wrap=True)
    return typer.Exit(3 if isinstance(error, NotRunning) else 1)


@app.command(epilog="Examples: callbus up · callbus up --workers 4 --sip-port 5070 · callbus up --detach")
def up(
    workers: Annotated[int, typer.Option(min=1, max=64, help="AI workers")] = 2,
    sip_port: Annotated[
        int | None, typer.Option(help="SIP port (0: any free one); else SIP_LISTEN_PORT, else 5060")
    ] = None,
    sip_host: Annotated[str | None, typer.Option(help="Address to take calls on; else all")] = None,
    rehearsal: Annotated[
        bool | None, typer.Option("--rehearsal/--no-rehearsal", help="Stand-in for OpenAI; default: when no key is set")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when everything is ready")] = False,
) -> None:
    """Start the bus and all services, keep them running until Ctrl-C.

    Databases, logs and state are kept in var/, or in the directory that CALLBUS_VAR names.
    """
    from cli import up as running

    settings = _settings()
    options = running.UpOptions(
        workers=workers,
        sip_port=(settings.sip_listen_port if sip_port is None else sip_port) or free_port(transport="udp"),
        sip_host=sip_host or settings.sip_listen_host,
        rehearsal=rehearsal,
    )
    if not detach:
        return _run(running.up(settings, options, console))
    arguments = ["--workers", str(workers), "--sip-port", str(options.sip_port), "--sip-host", options.sip_host]
    if rehearsal is not None:
        arguments.append("--rehearsal" if rehearsal else "--no-rehearsal")
    with _sentences():
        running.make_plan(settings, options)  # say what is in the way here, not in a log
        running.detach(settings, arguments, console)
    return None


@app.command(epilog="Example: callbus down")
def down() -> None:
    """End everything that `callbus up` started, and nothing else."""
    from cli import up as running

    with _sentences():
        ended = running.down(_settings(), console)
    if ended:
        console.print("callbus has ended")
    else:
        console.print("callbus was not running here")


@app.command(epilog="Examples: callbus demo · callbus demo --kill-worker · callbus demo --freeze-worker --keep-log")
def demo(
    kill_worker: Annotated[bool, typer.Option(help="SIGKILL the worker in mid-call; the call must go on")] = False,
    freeze_worker: Annotated[bool, typer.Option(help="SIGSTOP it, SIGCONT 3 s later; the call must go on")] = False,
    keep_log: Annotated[bool, typer.Option("--keep-log", help="Keep logs, databases and the recording")] = False,
) -> None:
    """A whole call on this machine, checked: real SIP and RTP, German speech, an order, an interruption."""
    from cli.demo.run import DemoOptions, run_demo

    if kill_worker and freeze_worker:
        raise typer.BadParameter("choose one of --kill-worker and --freeze-worker")
    if not _run(run_demo(DemoOptions(kill_worker, freeze_worker, keep_log), console)):
        raise typer.Exit(1)


@app.command(epilog="Examples: callbus apply deploy/config · callbus apply --dry-run agents/sales.yaml")
def apply(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE|DIR...", help="YAML files, or directories of them")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and compare, publish nothing; works without a bus")
    ] = False,
    bus: Nats = None,
) -> None:
    """Publish agents, routes and organisations; running gateways follow at once."""
    from cli.queries import apply_files

    _run(apply_files(console, _settings(), bus, paths, dry_run))


@app.command(epilog="Examples: callbus calls · callbus calls --json")
def calls(bus: Nats = None, as_json: Json = False) -> None:
    """List the calls that are going on."""
    from cli.queries import list_calls

    _run(list_calls(console, _settings(), bus, as_json))


@app.command(epilog="Examples: callbus tap last · callbus tap all · callbus tap 01JC… --json | jq .kind")
def tap(
    call: Annotated[str, typer.Argument(help="A call id, `last`, or `all`")] = "last",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for a call that is not known yet")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Sentences, usage and turn starts as well")] = False,
    bus: Nats = None,
    as_json: Json = False,
) -> None:
    """Follow a call: its transcript and events so far, then live until it ends."""
    from cli.queries import TapOptions, follow

    _run(follow(console, _settings(), bus, call, TapOptions(wait, verbose, as_json)))


@app.command(epilog="Examples: callbus conversations · callbus conversations --limit 5 --json")
def conversations(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, the latest first")] = 20,
    bus: Nats = None,
    as_json: Json = False,
) -> None:
    """List the stored conversations."""
    from cli.queries import list_conversations

    _run(list_conversations(console, _settings(), bus, limit, as_json))


@app.command(epilog="Examples: callbus show last · callbus show 01JC… --json")
def show(
    call: Annotated[str, typer.Argument(help="A call id, or `last`")] = "last", bus: Nats = None, as_json: Json = False
) -> None:
    """Show a stored conversation: turns, tool calls, outcome, cost."""
    from cli.queries import show_conversation

    _run(show_conversation(console, _settings(), bus, call, as_json))


@app.command(epilog="Examples: callbus orders · callbus orders --csv > orders.csv")
def orders(
    csv: Annotated[bool, typer.Option("--csv", help="One row per order line, for spreadsheets")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the latest first")] = 100,
    bus: Nats = None,
    as_json: Json = False,
) -> None:
    """List the stored orders."""
    from cli.queries import list_orders

    _run(list_orders(console, _settings(), bus, limit, as_csv=csv, as_json=as_json))


@catalog_app.command("import", epilog="Example: callbus catalog import products.csv")
def catalog_import(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV with the columns of the sample")],
    bus: Nats = None,
) -> None:
    """Replace the catalogue by a CSV file; mistakes are named by line, then nothing changes."""
    from cli.queries import import_catalog

    _run(import_catalog(console, _settings(), bus, file))


if __name__ == "__main__":
    sys.exit(app())
