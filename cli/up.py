"""`callbus up` and `callbus down`: everything on this machine, started, kept running and ended together."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nats.aio.client import Client
from rich.console import Console
from rich.table import Table

from cli import checkout
from cli.apply import apply, read_config
from cli.bus import connected
from cli.errors import CliError
from cli.ports import complaint
from cli.programs import Options, Plan, plan
from cli.settings import CliSettings, inherited_environment
from cli.state import ProcessIdentity, UpState, end, read_state, running
from cli.supervisor import Supervisor
from libs.runtime.streams import provision

DOWN_GRACE_S = 12.0


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What `callbus up` was told."""

    workers: int
    sip_port: int
    sip_host: str
    rehearsal: bool | None  # None: when there is neither a key nor another endpoint


def rehearsed(settings: CliSettings, wanted: bool | None) -> bool:
    """Whether the stand-in speaks instead of OpenAI."""
    return wanted if wanted is not None else not (settings.openai_api_key or settings.openai_base_url)


def make_plan(settings: CliSettings, options: UpOptions) -> Plan:
    """Check that nothing is in the way, and choose ports.

    Raises:
        CliError: another `up` runs, or a port is taken.
    """
    checkout.require_checkout()
    if (state := running(settings.state_file)) is not None:
        raise CliError(f"callbus is already running here (pid {state.supervisor.pid}): end it with `callbus down`")
    remedy = "end that program, or choose another port with --sip-port (SIP_LISTEN_PORT)"
    if problem := complaint(options.sip_port, options.sip_host, "udp", remedy):
        raise CliError(problem)
    own_databases = {
        "CATALOG_DATABASE_URL": settings.catalog_database_url,
        "TRANSCRIPT_DATABASE_URL": settings.transcript_database_url,
    }
    return plan(
        Options(
            var=settings.callbus_var.resolve(),
            workers=options.workers,
            sip_host=options.sip_host,
            sip_port=options.sip_port,
            rehearsal=rehearsed(settings, options.rehearsal),
            database_urls={name: url for name, url in own_databases.items() if url},
        )
    )


async def start_all(supervisor: Supervisor, chosen: Plan, configs: list[Path]) -> None:
    """The bus, its streams and the configuration, then the services: first those that others ask, in waves.

    Raises:
        CliError: something did not become ready, or the configuration has mistakes.
    """
    reading = read_config(configs)
    await supervisor.start(chosen.nats)
    await supervisor.wait_ready(chosen.nats)
    async with connected(chosen.nats_url) as client:
        await _prepare(client)
        await apply(client, reading)
    for phase in sorted({program.phase for program in chosen.services}, reverse=True):
        wave = [program for program in chosen.services if program.phase == phase]
        for program in wave:
            await supervisor.start(program)
        await supervisor.wait_ready(*wave)


async def _prepare(client: Client) -> None:
    await provision(client.jetstream(timeout=2))


async def up(settings: CliSettings, options: UpOptions, console: Console) -> None:
    """Run until SIGINT or SIGTERM, then end everything.

    Raises:
        CliError: it could not be started; nothing is left running.
    """
    chosen = make_plan(settings, options)
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    supervisor = Supervisor(
        environment=inherited_environment(), cwd=checkout.ROOT, log_dir=settings.log_dir.resolve(), tell=console.print
    )
    write = _state_writer(settings.state_file, supervisor, chosen, options)
    supervisor.on_change = write
    try:
        async with supervisor:
            starting = asyncio.create_task(start_all(supervisor, chosen, [checkout.CONFIG]))
            if not await _first(starting, stopping):
                return
            show_table(console, supervisor, chosen, settings, options)
            write(ready=True)  # after the table: `up --detach` prints what stands there by then
            keeping = asyncio.create_task(supervisor.keep_running())
            await _first(keeping, stopping)
            console.print("ending everything …")
    finally:
        settings.state_file.unlink(missing_ok=True)


async def _first(task: asyncio.Task[None], stopping: asyncio.Event) -> bool:
    """Wait for the task, or for the wish to stop, which cancels it: False."""
    wish = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([task, wish], return_when=asyncio.FIRST_COMPLETED)
    finally:
        wish.cancel()
    if stopping.is_set():
        task.cancel()
        await asyncio.wait([task])
        return False
    task.result()
    return True


def _state_writer(path: Path, supervisor: Supervisor, chosen: Plan, options: UpOptions) -> Callable[..., None]:
    me = ProcessIdentity.of(os.getpid())
    is_ready = False

    def write(ready: bool = False) -> None:
        nonlocal is_ready
        is_ready = is_ready or ready
        UpState(
            supervisor=me,
            processes=supervisor.identities,
            nats_url=chosen.nats_url,
            sip=f"{options.sip_host}:{options.sip_port}",
            health_ports={p.name: p.health_port for p in chosen.programs if p.health_port},
            ready=is_ready,
        ).write(path)

    return write


def show_table(
    console: Console, supervisor: Supervisor, chosen: Plan, settings: CliSettings, options: UpOptions
) -> None:
    """What runs where, what is simulated, and how to call."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("process", "pid", "where", "log"):
        table.add_column(column, justify="right" if column == "pid" else "left", no_wrap=column != "log")
    for program in chosen.programs:
        log = supervisor.log_of(program.name)
        shown = log.relative_to(checkout.ROOT) if log.is_relative_to(checkout.ROOT) else log
        table.add_row(program.name, str(supervisor.pid_of(program.name)), program.where, str(shown))
    console.print(table)
    for note in notes(settings, options):
        console.print(f"  • {note}", soft_wrap=True, highlight=False)
    host = own_address() if options.sip_host in {"0.0.0.0", ""} else options.sip_host
    console.print(f"\nCall [bold]sip:bestellung@{host}:{options.sip_port}[/bold] with any softphone; ", end="")
    console.print("follow it with `callbus tap all`. Ctrl-C (or `callbus down`) ends everything.", soft_wrap=True)


def notes(settings: CliSettings, options: UpOptions) -> list[str]:
    """What is simulated or left out, in sentences."""
    said = []
    if rehearsed(settings, options.rehearsal):
        why = "" if settings.openai_api_key else "no OPENAI_API_KEY: "
        said.append(f"{why}the rehearsal speaks instead of OpenAI, one prepared conversation (scenario 'bestellung')")
    elif not settings.openai_api_key:
        said.append(f"no OPENAI_API_KEY: {settings.openai_base_url} must do without")
    if settings.sip_server:
        said.append(f"SIP_SERVER is {settings.sip_server}, but registering there comes with a later release")
    else:
        said.append("no SIP_SERVER: no trunk is registered, calls come from the local network")
    if options.sip_host in {"0.0.0.0", ""}:
        said.append("the gateway answers loopback and private networks only")
    return said


def own_address() -> str:
    """The address under which others in the network reach this machine; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1 (RFC 5737): only the route is looked up
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def detach(settings: CliSettings, arguments: list[str], console: Console) -> None:
    """Start `up` in a session of its own and wait until it is ready.

    Raises:
        CliError: it ended instead; what it said is in the message.
    """
    log = settings.log_dir / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "up", *arguments],
            env=inherited_environment() | {"COLUMNS": "140"},
            cwd=checkout.ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    while process.poll() is None:
        state = running(settings.state_file)
        if state is not None and state.ready and state.supervisor.pid == process.pid:
            console.print(_said(log), highlight=False, markup=False, soft_wrap=True)
            return
        time.sleep(0.1)
    raise CliError(_said(log))


def _said(log: Path) -> str:
    return log.read_text("utf-8", "replace").strip()


def down(settings: CliSettings, console: Console) -> bool:
    """End what `up` started, and nothing else; False when there is nothing."""
    state = read_state(settings.state_file)
    if state is None:
        return False

    def told(text: str) -> None:
        console.print(text)

    ended = end([state.supervisor], DOWN_GRACE_S, told)  # it ends its children in order
    ended += end(list(state.processes.values()), 2.0, told)  # what is left, had it been killed
    settings.state_file.unlink(missing_ok=True)
    return ended > 0
