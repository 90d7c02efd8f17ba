"""callbus as real processes, for tests and load runs: a private directory, free loopback ports, no `.env`.

    async with platform(documents=[agent, route], workers=2) as running:
        async with await Softphone.open() as phone:
            call = await phone.call(running.sip_uri("echo"))

Processes are started and ended by the command line's supervisor, so that nothing is left behind.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import aiohttp
import nats
from nats.aio.client import Client
from prometheus_client.parser import text_string_to_metric_families
from tenacity import AsyncRetrying, retry_if_result, stop_after_delay, wait_fixed

from cli import checkout
from cli.ports import free_port
from cli.programs import Options, Plan, Program, plan
from cli.supervisor import Supervisor
from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.commands import Command, CommandReply
from libs.contracts.config import OrgConfig, RouteConfig
from libs.contracts.events import CallAnswered, CallEnded, CallEvent, CallOffered, Event
from libs.contracts.wire import event_decoder
from libs.runtime.streams import bucket

Document = AgentConfig | RouteConfig | OrgConfig
Sample = tuple[str, tuple[tuple[str, str], ...]]
Kind = TypeVar("Kind", bound=CallEvent)

READY_TIMEOUT_S = 40.0
OF_THE_USER = (
    "OPENAI_",
    "SIP_",
    "CALLBUS_",
    "NATS_",
    "ELEVENLABS_",
    "TWILIO_",
    "REHEARSAL_",
    "WORKER_",
    "RTP_",
    "BROWSER_",
)

ECHO_AGENT = AgentConfig(name="echo", backend="scripted", backend_options={"mode": "echo"})
ECHO_ROUTE = RouteConfig(name="echo", match=("echo",), agent="echo")


class Platform:
    """What runs. `names` are `nats-server`, `sip_gateway`, `ai_session-1` …, and what else was asked for."""

    def __init__(self, directory: Path, planned: Plan, sip_port: int, supervisor: Supervisor, client: Client) -> None:
        self.directory = directory
        self.nats_url = planned.nats_url
        self.rehearsal_url = planned.rehearsal_url
        self.sip_port = sip_port
        self.client = client
        self.supervisor = supervisor
        self.programs = {program.name: program for program in planned.programs}

    @property
    def names(self) -> list[str]:
        """All processes."""
        return list(self.programs)

    @property
    def workers(self) -> list[str]:
        """The AI workers among them."""
        return [name for name in self.programs if name.startswith("ai_session")]

    def sip_uri(self, user: str) -> str:
        """Where a softphone reaches an agent."""
        return f"sip:{user}@127.0.0.1:{self.sip_port}"

    def pid(self, name: str) -> int:
        """Its pid now."""
        return self.supervisor.pid_of(name)

    def log(self, name: str) -> str:
        """What it wrote so far."""
        path = self.supervisor.log_of(name)
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to exactly this process."""
        os.kill(self.pid(name), number)

    async def start(self, name: str) -> None:
        """Start a process that ended, and wait until it is ready."""
        await self.supervisor.start(self.programs[name])
        await self.supervisor.wait_ready(self.programs[name], timeout_s=READY_TIMEOUT_S)

    async def get(self, name: str, page: str) -> str:
        """A page of a service's health server: `/healthz`, `/readyz`, `/metrics`."""
        url = f"http://127.0.0.1:{self.programs[name].health_port}{page}"
        async with aiohttp.ClientSession() as client, client.get(url) as response:
            return await response.text()

    async def metrics(self, name: str) -> dict[Sample, float]:
        """Every sample of its Prometheus page, by name and labels."""
        page = await self.get(name, "/metrics")
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }

    async def metric(self, name: str, sample: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels, 0 while there is none."""
        return sum(
            value
            for (found, has), value in (await self.metrics(name)).items()
            if found == sample and labels.items() <= dict(has).items()
        )

    async def tell(self, call: str, command: Command, org: str = "default") -> CommandReply:
        """Send a command to a call's leg; what it answers."""
        reply = await self.client.request(subjects.control(org, call, "leg"), command.to_json(), timeout=5)
        return CommandReply.model_validate_json(reply.data)

    async def publish(self, *documents: Document) -> None:
        """Put configuration where gateways and workers follow it."""
        store = await bucket(self.client.jetstream(), subjects.KV_CONFIG)
        for document in documents:
            await store.put(document.key, document.to_json())

    @asynccontextmanager
    async def events(self) -> AsyncIterator[EventFeed]:
        """All events of all calls, from the first on."""
        feed = EventFeed()
        subscription = await self.client.jetstream().subscribe(
            subjects.EVENTS_FILTER, cb=feed.take, ordered_consumer=True
        )
        try:
            yield feed
        finally:
            await subscription.unsubscribe()


class EventFeed:
    """Events in the order of the stream."""

    def __init__(self) -> None:
        self._decoder = event_decoder()
        self.seen: list[Event] = []

    async def take(self, msg: object) -> None:
        """From the subscription."""
        event = self._decoder.decode(msg.data)  # type: ignore[attr-defined]
        if event is not None:
            self.seen.append(event)

    def of(self, kind: type[Kind], call: str | None = None) -> list[Kind]:
        """Those of one kind, of one call or of all."""
        return [event for event in self.seen if isinstance(event, kind) and call in (None, event.call)]

    async def wait_for(self, kind: type[Kind], count: int = 1, timeout_s: float = 20.0) -> list[Kind]:
        """The first `count` of one kind.

        Raises:
            tenacity.RetryError: they did not come in time.
        """
        waiting = AsyncRetrying(
            stop=stop_after_delay(timeout_s), wait=wait_fixed(0.02), retry=retry_if_result(lambda n: n < count)
        )
        await waiting(self._count, kind)
        return self.of(kind)[:count]

    async def wait_where(self, kind: type[Kind], fits: Callable[[Kind], bool], timeout_s: float = 20.0) -> Kind:
        """The first event of a kind that fits.

        Raises:
            tenacity.RetryError: it did not come in time.
        """

        async def found() -> Kind | None:
            return next((event for event in self.of(kind) if fits(event)), None)

        waiting = AsyncRetrying(
            stop=stop_after_delay(timeout_s), wait=wait_fixed(0.02), retry=retry_if_result(lambda event: event is None)
        )
        event = await waiting(found)
        assert event is not None
        return event

    async def end_of(self, caller: str, timeout_s: float = 20.0) -> CallEnded:
        """The end of the call that came from this number.

        Raises:
            tenacity.RetryError: there is none in time.
        """
        return await self.wait_where(CallEnded, lambda event: event.call in self._from(caller), timeout_s)

    async def answered(self, caller: str, timeout_s: float = 20.0) -> str:
        """The id of the call from this number that was answered.

        Raises:
            tenacity.RetryError: there is none in time.
        """
        found = await self.wait_where(CallAnswered, lambda event: event.call in self._from(caller), timeout_s)
        return found.call

    def _from(self, caller: str) -> set[str]:
        return {offered.call for offered in self.of(CallOffered) if offered.caller == caller}

    async def _count(self, kind: type[CallEvent]) -> int:
        return len(self.of(kind))


@asynccontextmanager
async def platform(
    *,
    documents: Iterable[Document] = (),
    workers: int = 1,
    agent: Callable[[str], AbstractAsyncContextManager[object]] | None = None,
    catalog: bool = False,
    store: bool = False,
    recorder: bool = False,
    rehearsal: bool = False,
    browser: bool = False,
    environment: Mapping[str, str] | None = None,
    worker_environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Platform]:
    """Bus, SIP gateway and workers, with catalog_tools, transcript_store and rehearsal on request.

    Yields when all are ready and the gateway knows every worker. `agent` makes one more worker, the test's own, out of
    the bus's URL (tests/support/fake_worker.py). `environment` is for every service, `worker_environment` for the
    workers alone (rehearsal sets the endpoint itself).
    """
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="callbus-")))
        sip_port = free_port(transport="udp")
        optional = {"catalog_tools": catalog, "transcript_store": store, "recorder": recorder}
        planned = plan(
            Options(
                var=directory,
                workers=workers,
                sip_port=sip_port,
                rehearsal=rehearsal,
                browser=browser,
                browser_port=free_port(),
                nats_port=free_port(),
                environment={"LOG_FORMAT": "json", **(environment or {})},
                worker_environment=worker_environment or {},
            )
        )
        planned = replace(planned, services=tuple(p for p in planned.services if optional.get(p.name, True)))
        supervisor = await stack.enter_async_context(
            Supervisor(environment=_clean_environment(), cwd=directory, log_dir=directory / "log", tell=print)
        )
        await _start(supervisor, planned.nats)
        client = await nats.connect(planned.nats_url, name="tests")
        stack.push_async_callback(client.close)
        running = Platform(directory, planned, sip_port, supervisor, client)
        await running.publish(*documents)
        if agent is not None:
            await stack.enter_async_context(agent(planned.nats_url))
            workers += 1
        await _start(supervisor, *planned.services)
        known = AsyncRetrying(
            stop=stop_after_delay(READY_TIMEOUT_S), wait=wait_fixed(0.05), retry=retry_if_result(lambda n: n != workers)
        )
        await known(running.metric, "sip_gateway", "callbus_workers")
        try:
            yield running
        except BaseException:
            for program in planned.programs:
                print(f"{program.name}:\n{supervisor.tail(program)}")
            raise


async def _start(supervisor: Supervisor, *programs: Program) -> None:
    for program in programs:
        await supervisor.start(program)
    await supervisor.wait_ready(*programs, timeout_s=READY_TIMEOUT_S)


def _clean_environment() -> dict[str, str]:
    """Ours, without what would configure a service, and with the checkout importable from anywhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OF_THE_USER)}
    return kept | {"PYTHONPATH": str(checkout.ROOT)}
