"""The durable consumer of EVENTS: nothing is acknowledged before it is in the database.

What cannot be understood is counted and acknowledged; what the database refuses comes again later. After an
error or a reconnect the subscription is bound anew: a restarted server has forgotten its pull requests.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import Error as JetStreamError
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from libs.contracts import subjects
from libs.contracts.events import Event
from libs.contracts.wire import event_decoder, kind_of
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger
from libs.runtime.tasks import stop_if_cancelled
from services.transcript_store import instruments
from services.transcript_store.store import Received, Store

log = get_logger()

DURABLE = "transcript_store"
FETCH_TIMEOUT_S = 0.5
IDLE_FETCHES_BEFORE_CHECK = 20
REBIND_WAIT_S = 0.2
RETRY_FIRST_S, RETRY_MOST_S = 0.2, 10.0
GIVE_UP_AFTER = 20  # deliveries of an event that the database refuses for its content
MAX_ACK_PENDING = 5000

Entry = tuple[Msg, Received]


class Consumer:
    """Moves events from the stream into the store. `run()` is one task of the service."""

    def __init__(self, bus: Bus, store: Store, *, batch: int = 200, ack_wait_s: float = 30.0) -> None:
        self._bus = bus
        self._store = store
        self._batch = batch
        self._ack_wait_s = ack_wait_s
        self._decoder = event_decoder()
        self._stopping = False
        self._failures = 0  # of the database, in a row
        self.counters: Counter[str] = Counter()
        self.pending = 0  # events in the stream that were not delivered yet, as of the last one
        self._unacknowledged = 0

    @property
    def database_works(self) -> bool:
        """Tell whether the last write succeeded."""
        return self._failures == 0

    def export(self) -> None:
        """Have the metrics read from here."""
        troubles = ("database_failed", "rebound")
        instruments.EVENTS.read_from(lambda: {k: n for k, n in self.counters.items() if k not in troubles})
        instruments.TROUBLES.read_from(lambda: {kind: self.counters[kind] for kind in troubles})
        instruments.PENDING.read_from(lambda: self.pending)
        instruments.UNACKNOWLEDGED.read_from(lambda: self._unacknowledged)

    def stop(self) -> None:
        """Let `run` return after the batch in hand."""
        self._stopping = True

    async def run(self) -> None:
        """Consume until stopped."""
        while not self._stopping:
            stop_if_cancelled()
            try:
                await self._follow(await self._bind())
            except (nats.errors.Error, JetStreamError, OSError) as problem:
                self.counters["rebound"] += 1
                log.warning("event consumer is bound anew", problem=str(problem) or type(problem).__name__)
                await asyncio.sleep(REBIND_WAIT_S)

    async def _bind(self) -> JetStreamContext.PullSubscription:
        config = ConsumerConfig(
            durable_name=DURABLE,
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self._ack_wait_s,
            max_ack_pending=MAX_ACK_PENDING,
        )
        await self._bus.js.add_consumer(subjects.EVENTS_STREAM, config)
        return await self._bus.js.pull_subscribe_bind(DURABLE, subjects.EVENTS_STREAM)

    async def _follow(self, subscription: JetStreamContext.PullSubscription) -> None:
        """Until stopped, until the link was lost in between, or until an error."""
        reconnects, idle = self._bus.control_link.reconnects, 0
        try:
            while not self._stopping and self._bus.control_link.reconnects == reconnects:
                stop_if_cancelled()
                try:
                    messages = await subscription.fetch(self._batch, timeout=FETCH_TIMEOUT_S)
                except TimeoutError:  # the client's own is one, too
                    idle += 1
                    if idle % IDLE_FETCHES_BEFORE_CHECK == 0:
                        await subscription.consumer_info()  # raises if an operator removed it
                    continue
                idle = 0
                await self.take(messages)
        finally:
            if not self._bus.control.is_closed:
                await subscription.unsubscribe()

    async def take(self, messages: list[Msg]) -> None:
        """Store a batch and acknowledge it, or have it delivered again."""
        entries: list[Entry] = []
        self._unacknowledged = len(messages)
        for message in messages:
            if message.metadata.num_delivered > 1:
                instruments.REDELIVERIES.add()
            received = self._understood(message)
            if received is None:
                await message.ack()
            else:
                entries.append((message, received))
        self.pending = messages[-1].metadata.num_pending if messages else 0
        if entries:
            await self._write(entries)
        self._unacknowledged = 0

    def _understood(self, message: Msg) -> Received | None:
        event = self._decoder.decode(message.data)
        if event is None:
            self.counters["not_understood"] += 1
            log.warning("event not understood", subject=message.subject, kind=kind_of(message.data))
            return None
        if not _matches(message.subject, event) or "\x00" in event.event_id:
            self.counters["mismatched"] += 1
            log.warning("event does not belong to its subject", subject=message.subject, kind=event.kind)
            return None
        return Received(event, message.data.decode())

    async def _write(self, entries: list[Entry]) -> None:
        began_at = time.monotonic()
        try:
            new = await self._store.write([received for _, received in entries])
        except (OperationalError, InterfaceError, OSError) as problem:
            await self._database_failed(entries, problem)
        except (SQLAlchemyError, ArithmeticError, ValueError) as problem:
            if len(entries) == 1:
                await self._refused(*entries[0], problem)
            else:  # one of them is at fault: the others must not wait for it
                for entry in entries:
                    await self._write([entry])
        else:
            self._failures = 0
            self.counters["stored"] += new
            self.counters["repeated"] += len(entries) - new
            instruments.WRITE.observe(time.monotonic() - began_at)
            now = time.time()
            for message, _ in entries:
                instruments.BEHIND.observe(max(0.0, now - message.metadata.timestamp.timestamp()))
                await message.ack()

    async def _database_failed(self, entries: list[Entry], problem: Exception) -> None:
        self._failures += 1
        self.counters["database_failed"] += 1
        wait_s = min(RETRY_FIRST_S * 2 ** (self._failures - 1), RETRY_MOST_S)
        log.error("events not stored, trying again", count=len(entries), wait_s=wait_s, problem=_first_line(problem))
        for message, _ in entries:
            await message.nak(delay=wait_s)
        await asyncio.sleep(wait_s)

    async def _refused(self, message: Msg, received: Received, problem: Exception) -> None:
        deliveries = message.metadata.num_delivered
        event_id = received.event.event_id
        if deliveries >= GIVE_UP_AFTER:
            self.counters["given_up"] += 1
            log.error("event given up", event_id=event_id, kind=received.event.kind, problem=_first_line(problem))
            await message.ack()
            return
        self.counters["refused"] += 1
        log.warning("event refused by the database", event_id=event_id, problem=_first_line(problem))
        await message.nak(delay=min(RETRY_FIRST_S * 2 ** (deliveries - 1), RETRY_MOST_S))


def _matches(subject: str, event: Event) -> bool:
    """A sender is trusted with its organisation and call by subject alone; the body must say the same."""
    try:
        parsed = subjects.parse_event(subject)
    except subjects.SubjectError:
        return False
    return (parsed.org, parsed.call, parsed.kind) == (event.org, event.call, event.kind)


def _first_line(problem: Exception) -> str:
    return str(problem).partition("\n")[0] or type(problem).__name__
