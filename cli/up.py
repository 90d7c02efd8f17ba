"""`callbus up` and `callbus down`: everything on this machine, started, kept running and ended together."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from nats.aio.client import Client
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli import checkout
from cli.apply import apply, read_config
from cli.bus import connected
from cli.errors import CliError
from cli.lock import holder, only_one
from cli.ports import complaint
from cli.programs import Options, Plan, plan
from cli.published import publish_missing
from cli.settings import CliSettings, inherited_environment
from cli.state import ProcessIdentity, UpState, end, read_state, remove_state, running
from cli.supervisor import PHASE_GRACE_S, Supervisor
from libs.runtime.streams import provision

DOWN_GRACE_S = sum(PHASE_GRACE_S) + 2.0
ORPHAN_GRACE_S = 6.0
PRIVATE = 0o077  # umask: conversations, orders and keys are nobody else's to read


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
    left = read_state(settings.state_file)
    if left is not None and any(identity.process() for identity in left.processes.values()):
        raise CliError("processes of an earlier `callbus up` that was killed still run: end them with `callbus down`")
    remedy = "end that program, or choose another port with --sip-port (SIP_LISTEN_PORT)"
    if problem := complaint(options.sip_port, options.sip_host, "udp", remedy):
        raise CliError(problem)
    page_port = settings.browser_listen_port
    remedy = "end that program, or set another BROWSER_LISTEN_PORT"
    if page_port and (problem := complaint(page_port, settings.browser_listen_host, "tcp", remedy)):
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
            browser_host=settings.browser_listen_host,
            browser_port=page_port,
            database_urls={name: url for name, url in own_databases.items() if url},
            twilio=settings.twilio_account_sid is not None,
        )
    )


async def start_all(supervisor: Supervisor, chosen: Plan, configs: list[Path], record: Path | None = None) -> list[str]:
    """The bus, its streams and the configuration, then the services: first those that others ask, in waves. With a
    `record` of what was published before, what others published since is left alone: a sentence each.

    Raises:
        CliError: something did not become ready, or the configuration has mistakes.
    """
    reading = read_config(configs)
    await supervisor.start(chosen.nats)
    await supervisor.wait_ready(chosen.nats)
    left: list[str] = []
    async with connected(chosen.nats_url) as client:
        await _prepare(client)
        if record is None:
            await apply(client, reading)
        else:
            left = await publish_missing(client, reading, record)
    for phase in sorted({program.phase for program in chosen.services}, reverse=True):
        wave = [program for program in chosen.services if program.phase == phase]
        for program in wave:
            await supervisor.start(program)
        await supervisor.wait_ready(*wave)
    return left


async def _prepare(client: Client) -> None:
    await provision(client.jetstream(timeout=2))


async def up(settings: CliSettings, options: UpOptions, console: Console) -> None:
    """Run until SIGINT or SIGTERM, then end everything. What is written is for this user alone.

    Raises:
        CliError: it could not be started; nothing is left running.
        OSError: its directory cannot be used.
    """
    checkout.require_checkout()
    os.umask(PRIVATE)
    with only_one(settings.lock_file):  # before anything is looked at: of two that start together one goes on
        await _up(settings, options, console)


async def _up(settings: CliSettings, options: UpOptions, console: Console) -> None:
    chosen = make_plan(settings, options)
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    supervisor = Supervisor(
        environment=inherited_environment(), cwd=checkout.ROOT, log_dir=settings.log_dir.resolve(), tell=console.print
    )
    state = _StateFile(settings.state_file, supervisor, chosen, options)
    supervisor.on_change = state.write
    try:
        async with supervisor:
            supervisor.changed()  # from here on `callbus down` finds us
            starting = asyncio.create_task(start_all(supervisor, chosen, [checkout.CONFIG], settings.published_file))
            if not await _first(starting, stopping):
                return
            said = notes(settings, options) + starting.result()
            show_table(console, supervisor, chosen, options, said)
            state.ready = True  # after the table: `up --detach` prints what stands there by then
            supervisor.changed()
            keeping = asyncio.create_task(supervisor.keep_running())
            await _first(keeping, stopping)
            console.print("ending everything …")
    finally:
        remove_state(settings.state_file, state.supervisor)


async def _first(task: asyncio.Task[Any], stopping: asyncio.Event) -> bool:
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


class _StateFile:
    def __init__(self, path: Path, supervisor: Supervisor, chosen: Plan, options: UpOptions) -> None:
        self._path, self._children, self._chosen, self._options = path, supervisor, chosen, options
        self.supervisor = ProcessIdentity.of(os.getpid())
        self.ready = False

    def write(self) -> None:
        UpState(
            supervisor=self.supervisor,
            processes=self._children.identities,
            nats_url=self._chosen.nats_url,
            sip=f"{self._options.sip_host}:{self._options.sip_port}",
            health_ports={p.name: p.health_port for p in self._chosen.programs if p.health_port},
            ready=self.ready,
        ).write(self._path)


def show_table(console: Console, supervisor: Supervisor, chosen: Plan, options: UpOptions, said: list[str]) -> None:
    """What runs where, what is simulated, and how to call."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("process", "pid", "where", "log"):
        table.add_column(column, justify="right" if column == "pid" else "left", no_wrap=column != "log")
    for program in chosen.programs:
        log = supervisor.log_of(program.name)
        shown = log.relative_to(checkout.ROOT) if log.is_relative_to(checkout.ROOT) else log
        table.add_row(program.name, str(supervisor.pid_of(program.name)), program.where, str(shown))
    console.print(table)
    for note in said:
        console.print(f"  • {note}", soft_wrap=True, highlight=False)
    host = own_address() if options.sip_host in {"0.0.0.0", ""} else options.sip_host
    address = (f"sip:bestellung@{host}:{options.sip_port}", "bold")
    then = "follow it with `callbus tap all`. Ctrl-C (or `callbus down`) ends everything."
    console.print(Text.assemble("\nCall ", address, f" with any softphone; {then}"), soft_wrap=True)


def notes(settings: CliSettings, options: UpOptions) -> list[str]:
    """What is simulated or left out, in sentences."""
    said = []
    if rehearsed(settings, options.rehearsal):
        why = "" if settings.openai_api_key else "no OPENAI_API_KEY: "
        said.append(f"{why}the rehearsal speaks instead of OpenAI, one prepared conversation (scenario 'bestellung')")
    elif not settings.openai_api_key:
        without = (
            f"{settings.openai_base_url} must do without"
            if settings.openai_base_url
            else "OpenAI will refuse every call"
        )
        said.append(f"no OPENAI_API_KEY: {without}")
    if settings.sip_server:
        said.append(f"the gateway registers with {settings.sip_server}; `callbus doctor` tells whether it succeeded")
    elif not settings.sip_trunks_file:
        said.append("no SIP_SERVER: no trunk is registered, calls come from the local network")
    if settings.sip_allowed_sources:
        said.append(f"the gateway answers {settings.sip_allowed_sources} only (SIP_ALLOWED_SOURCES)")
    elif options.sip_host in {"0.0.0.0", ""}:
        said.append("the gateway answers loopback and private networks only (SIP_ALLOWED_SOURCES)")
    return said


def own_address() -> str:
    """The address under which others in the network reach this machine; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1 (RFC 5737): only the route is looked up
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def detach(settings: CliSettings, arguments: list[str], console: Console) -> ProcessIdentity:
    """Start `up` in a session of its own and wait until it is ready; Ctrl-C meanwhile ends it again.

    Raises:
        CliError: it ended instead; what it said is in the message.
        OSError: its log cannot be written.
    """
    os.umask(PRIVATE)
    log = settings.log_dir / f"up.{os.getpid()}.log"  # of its own until it is the one: another may be running
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
    try:
        while process.poll() is None:
            state = running(settings.state_file)
            if state is not None and state.ready and state.supervisor.pid == process.pid:
                console.print(_said(log), highlight=False, markup=False, soft_wrap=True)
                log.replace(log.with_name("up.log"))
                return state.supervisor
            time.sleep(0.1)
    except KeyboardInterrupt:  # it has a session of its own and did not hear it
        process.terminate()
        process.wait()
        raise
    said = _said(log)
    log.unlink()
    raise CliError(said)


def _said(log: Path) -> str:
    return log.read_text("utf-8", "replace").strip()


def down(settings: CliSettings, console: Console) -> bool:
    """End what `up` started, and nothing else; False when there is nothing.

    Raises:
        CliError: something of it is still alive.
    """
    state = read_state(settings.state_file) or _without_state(settings)
    if state is None:
        return False

    def told(text: str) -> None:
        console.print(text)

    ours = {*state.processes.values(), *state.supervisor.children()}
    ended = end([state.supervisor], DOWN_GRACE_S, told)  # it ends its children in order
    later = read_state(settings.state_file)  # what it started again meanwhile
    ours |= set(later.processes.values()) if later is not None and later.supervisor == state.supervisor else set()
    ended += end(list(ours), ORPHAN_GRACE_S, told)  # what is left, had it been killed
    if left := [str(identity.pid) for identity in (state.supervisor, *ours) if identity.process() is not None]:
        raise CliError(f"callbus has not ended: pid {', '.join(left)} still runs and cannot be ended by this user")
    remove_state(settings.state_file, state.supervisor)
    return ended > 0


def _without_state(settings: CliSettings) -> UpState | None:
    """Of an `up` that has not written its state yet, or could not: the lock knows its pid."""
    pid = holder(settings.lock_file)
    try:
        return UpState(supervisor=ProcessIdentity.of(pid), nats_url="", sip="") if pid is not None else None
    except psutil.NoSuchProcess:
        return None
