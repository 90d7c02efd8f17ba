"""The two NATS connections of a process: *media* and *control*.

Media never buffers while the server is away (a burst of stale audio after a reconnect is worse than a
gap), reconnects fast and skips subject validation, because subjects are validated where they are built.
Control carries everything else: commands, JetStream, queries. Both bear the process id in their names,
`<id>-media` and `<id>-control`, by which disconnect advisories are told apart (R5).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Self
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from libs.runtime.log import get_logger

log = get_logger()

Handler = Callable[[Msg], Awaitable[None]]
RECONNECT_WAIT_S = 0.05
CONNECT_TIMEOUT_S = 2


class Link:
    """Whether one connection is up, and since when, on the event loop's clock (R3 reads it)."""

    def __init__(self) -> None:
        self.up_at: float | None = None
        self.was_ever_up = False
        self.reconnects = 0
        self.on_up: list[Callable[[], None]] = []
        self.on_down: list[Callable[[], None]] = []

    def went_up(self, now: float) -> None:
        """The connection was made, or made again."""
        self.up_at = now
        self.was_ever_up = True
        for callback in self.on_up:
            callback()

    def went_down(self) -> None:
        """The connection was lost."""
        if self.up_at is not None:
            self.up_at = None
            for callback in self.on_down:
                callback()


class Bus:
    """Connected by `await Bus.connect(...)`; closed by `await bus.close()`."""

    def __init__(self, media: Client, control: Client, process_id: str) -> None:
        self.process_id = process_id
        self.media = media
        self.control = control
        self.js: JetStreamContext = control.jetstream(timeout=2)
        self.media_link = Link()
        self.control_link = Link()
        self.counters: Counter[str] = Counter()
        self.ping_s: float | None = None  # over the media link to the server and back, as measured last

    @classmethod
    async def connect(cls, url: str, process_id: str, *, wait_s: float = 10.0) -> Self:
        """Connect both, waiting up to `wait_s` for the server to come up.

        `url` may name several servers of a cluster, separated by commas; what they tell of further ones is used, too.

        Raises:
            ConnectionError: no server answered in that time.
        """
        bus = cls(Client(), Client(), process_id)
        try:
            async with asyncio.timeout(wait_s):
                await bus._connect(bus.media, bus.media_link, url, f"{process_id}-media", pending_size=-1)
                await bus._connect(bus.control, bus.control_link, url, f"{process_id}-control", pending_size=2 << 20)
        except TimeoutError:
            await bus.close()
            raise ConnectionError(f"no NATS server answered at {_without_password(url)} within {wait_s:g} s") from None
        return bus

    async def _connect(self, client: Client, link: Link, url: str, name: str, pending_size: int) -> None:
        loop = asyncio.get_running_loop()
        servers = url.split(",")
        account = urlsplit(servers[0])  # servers that the cluster names come without user and password

        async def up() -> None:
            link.reconnects += 1
            log.info("bus link is back", link=name)
            link.went_up(loop.time())

        async def down() -> None:
            if not client.is_closed and link.up_at is not None:
                log.warning("bus link lost", link=name)
            link.went_down()

        async def error(problem: Exception) -> None:
            self.counters[type(problem).__name__] += 1
            if isinstance(problem, nats.errors.SlowConsumerError):
                log.error("slow consumer: messages were dropped", link=name, subject=problem.subject)
            elif link.up_at is not None and not isinstance(problem, ConnectionError | EOFError):
                log.warning("bus error", link=name, problem=str(problem) or type(problem).__name__)

        while True:
            try:
                await client.connect(
                    servers,
                    name=name,
                    user=account.username,
                    password=account.password,
                    error_cb=error,
                    disconnected_cb=down,
                    reconnected_cb=up,
                    pending_size=pending_size,
                    reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]  # a float works and is needed
                    max_reconnect_attempts=-1,
                    connect_timeout=CONNECT_TIMEOUT_S,
                    ping_interval=5,
                    skip_subject_validation=pending_size < 0,
                    inbox_prefix=_inbox_prefix(servers[0]),
                )
                break
            except (OSError, nats.errors.NoServersError, nats.errors.TimeoutError):
                await asyncio.sleep(RECONNECT_WAIT_S)
        link.went_up(loop.time())

    def send_frame(self, subject: str, payload: bytes) -> bool:
        """Publish on the media connection without suspending; False (counted) while the server is away.

        `Client.publish` is a coroutine that never suspends when the pending size is unlimited, so that it
        can be driven by one `send`.
        """
        publish = self.media.publish(subject, payload)
        try:
            publish.send(None)
        except StopIteration:
            return True
        except (nats.errors.OutboundBufferLimitError, nats.errors.ConnectionClosedError):
            self.counters["frame_without_link"] += 1
            return False
        except nats.errors.ConnectionDrainingError:
            return False
        publish.close()
        self.counters["frame_suspended"] += 1
        return False

    async def request(self, subject: str, payload: bytes, timeout_s: float) -> bytes:
        """Ask on the control connection.

        Raises:
            nats.errors.NoRespondersError: nobody listens (known at once).
            nats.errors.TimeoutError: no answer in time.
        """
        reply = await self.control.request(subject, payload, timeout=timeout_s)
        return reply.data

    async def subscribed(self) -> None:
        """Wait until the server knows all subscriptions made so far, on both connections.

        `Client.flush` alone does not tell: its PING is written at once and overtakes the SUBs that still wait for
        the client's flusher. When its PONG is here they are written, so that a second one comes after them.
        """
        for client in (self.control, self.media):
            await client.flush()
            await client.flush()

    async def close(self) -> None:
        """Drain control (unsubscribe, flush), then close both. Safe to call when never connected."""
        for client, link in ((self.control, self.control_link), (self.media, self.media_link)):
            if client.is_closed or not link.was_ever_up:  # closing one that never connected fails in the client
                continue
            try:
                async with asyncio.timeout(2):
                    if client.is_connected:
                        await client.drain()
                    else:
                        await client.close()
            except (TimeoutError, nats.errors.Error, OSError):
                await client.close()


def _inbox_prefix(url: str) -> str:
    """Each user of the bus has inboxes of its own, which only it may read (deploy/nats/nats.conf)."""
    user = urlsplit(url).username
    return f"_INBOX_{user}" if user else "_INBOX"


def _without_password(url: str) -> str:
    shown = []
    for server in url.split(","):
        scheme, _, rest = server.rpartition("://")
        host = rest.rpartition("@")[2]
        shown.append(f"{scheme}://{host}" if scheme else host)
    return ",".join(shown)
