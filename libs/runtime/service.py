"""The frame of a service process: what `__main__` of each service starts from.

async def main(service: Service, settings: Settings) -> None:
    ...subscribe, start tasks in a TaskGroup...
    await service.stopping.wait()
    ...drain...

if __name__ == "__main__":
    sys.exit(run("transcript_store", "ts", Settings, main))
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import uvloop
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError

from libs.contracts.ids import new_process_id
from libs.runtime import garbage, instruments
from libs.runtime.bus import Bus
from libs.runtime.health import HealthServer
from libs.runtime.log import configure_logging, get_logger
from libs.runtime.outbox import EventOutbox
from libs.runtime.settings import ServiceSettings
from libs.runtime.streams import provision

log = get_logger()

FLUSH_TIMEOUT_S = 5.0
CANNOT_START, WRONG_SETTINGS = 1, 2  # exit codes

S = TypeVar("S", bound=ServiceSettings)


class Service:
    """A running service: its id (new at each start), its bus, its outbox, its health page, the wish to stop."""

    def __init__(self, name: str, process_id: str, bus: Bus, outbox: EventOutbox, health: HealthServer) -> None:
        self.name = name
        self.id = process_id
        self.bus = bus
        self.outbox = outbox
        self.health = health
        self.stopping = asyncio.Event()
        self._is_quiet = nobody_listens
        health.checks["start"] = lambda: "starting"

    def is_up(self, is_quiet: Callable[[], bool]) -> None:
        """Call it once everything is subscribed and loaded: `/readyz` may say ready from here on.

        While `is_quiet`, nobody would hear the process stand still for a moment: it is in no call.
        """
        self._is_quiet = is_quiet
        garbage.settle()
        self.health.checks.pop("start", None)

    async def collect_garbage(self) -> None:
        """Until cancelled, when nobody hears it."""
        await garbage.collect_forever(lambda: self._is_quiet())  # noqa: PLW0108  `is_up` changes it


def nobody_listens() -> bool:
    """The `is_quiet` of a service that no audio runs through."""
    return True


def run(
    name: str,
    role: str,
    settings: Callable[[], S],
    main: Callable[[Service, S], Awaitable[None]],
    *,
    streams: bool = True,
) -> int:
    """Run a service until SIGTERM or SIGINT; the exit code for `sys.exit`.

    `role` is the prefix of the process id (`wk`, `gw`), `settings` the service's settings class, read here.
    Errors at start are lines, not tracebacks: 2 with one line for each wrong setting, 1 for anything else.
    """
    try:
        chosen = settings()
    except (ValidationError, SettingsError, UnicodeDecodeError) as error:
        for problem in wrong_settings(error):  # how to log is a setting too
            sys.stderr.write(f"{name}: wrong setting: {problem}\n")
        return WRONG_SETTINGS
    configure_logging(name, chosen.log_level, chosen.log_format)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(name, role, chosen, main, streams))
    except (ConnectionError, OSError) as error:
        log.error("cannot start", problem=str(error))
        return CANNOT_START
    return 0


def wrong_settings(error: ValidationError | SettingsError | UnicodeDecodeError) -> list[str]:
    """One sentence for each wrong setting, beginning with the variable's name.

    A value is repeated only where there is a fixed choice: elsewhere it may be, or hold, a secret.
    """
    if isinstance(error, UnicodeDecodeError):
        return [f".env is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}"]
    if isinstance(error, SettingsError):
        return [str(error)]
    return [line for detail in error.errors(include_url=False) for line in _wrong(detail).splitlines()]


def _wrong(detail: ErrorDetails) -> str:
    if not detail["loc"]:  # of several settings together, or of a file that one names: the sentence says which
        return detail["msg"].removeprefix("Value error, ")
    variable = str(detail["loc"][0]).upper()
    if detail["type"] == "missing":
        return f"{variable} is not set"
    if detail["type"] == "literal_error":
        choices = detail["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
        return f"{variable}: {detail['input']!r} is not one of {choices}"
    return f"{variable}: {detail['msg'].removeprefix('Value error, ')}"


async def _run(name: str, role: str, settings: S, main: Callable[[Service, S], Awaitable[None]], streams: bool) -> None:
    process_id = new_process_id(role)
    bus = await Bus.connect(settings.nats_url, process_id)
    health = HealthServer(settings.health_host, settings.health_port, name, process_id)
    outbox = EventOutbox(bus)
    service = Service(name, process_id, bus, outbox, health)
    _describe(service)
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, service.stopping.set)
    publishing = asyncio.create_task(outbox.run(), name="outbox")  # outlives main: events are flushed after it
    instruments.watch_garbage()
    watching = [
        asyncio.create_task(work)
        for work in (instruments.watch_loop(), instruments.watch_bus(bus), service.collect_garbage())
    ]
    try:
        if streams:
            await provision(bus.js)
        await health.start()
        log.info("started", id=process_id, health=f"http://{settings.health_host}:{health.port}")
        await main(service, settings)
        await outbox.flush(FLUSH_TIMEOUT_S)
    finally:
        for task in (publishing, *watching):
            task.cancel()
        await health.stop()
        await bus.close()
        log.info("stopped", id=process_id)


def _describe(service: Service) -> None:
    bus = service.bus
    service.health.checks["bus"] = lambda: (
        None if bus.media_link.up_at is not None and bus.control_link.up_at is not None else "no link to NATS"
    )
    instruments.export(service.name, service.id, bus, service.outbox)
