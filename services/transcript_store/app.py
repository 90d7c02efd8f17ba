"""The parts of the service put together, for `__main__` and for tests."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import nats.errors
from nats.aio.msg import Msg
from nats.js.errors import Error as JetStreamError
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from libs.contracts import subjects
from libs.contracts.rpc import RpcReply, RpcRequest
from libs.runtime.bus import Bus
from libs.runtime.database import migrate, open_engine
from libs.runtime.log import get_logger
from libs.runtime.outbox import EventOutbox
from libs.runtime.respond import respond
from services.transcript_store.consumer import Consumer
from services.transcript_store.queries import Queries, QueryError
from services.transcript_store.settings import Settings
from services.transcript_store.store import StillOpenError, Store
from services.transcript_store.watch import Watch

log = get_logger()

MIGRATIONS = Path(__file__).with_name("migrations")

SERVICE = "transcript_store"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    """The migrated database."""
    engine = open_engine(url)
    try:
        await migrate(engine, MIGRATIONS)
        yield async_sessionmaker(engine, expire_on_commit=False)
    finally:
        await engine.dispose()


class App:
    """Consumer, janitor and queries over one database."""

    def __init__(
        self, bus: Bus, outbox: EventOutbox, sessions: async_sessionmaker[AsyncSession], settings: Settings
    ) -> None:
        self._bus = bus
        store = Store(sessions)
        self.consumer = Consumer(bus, store, batch=settings.transcript_batch, ack_wait_s=settings.transcript_ack_wait_s)
        self.watch = Watch(bus, outbox, store, grace_s=settings.janitor_grace_s, look_s=settings.janitor_look_s)
        self.queries = Queries(sessions, store, self._purge)
        self.counters: Counter[str] = Counter()

    async def run(self, stopping: asyncio.Event, *, listening: Callable[[], None] = lambda: None) -> None:
        """Consume, watch and answer until `stopping`; the batch in hand is finished."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.consumer.run(), name="consumer")
            watching = tasks.create_task(self.watch.run(), name="janitor")
            subscriptions = [
                await self._bus.control.subscribe(subjects.rpc(SERVICE, verb), SERVICE, cb=self._query(verb, tasks))
                for verb in self.queries.verbs
            ]
            await self._bus.subscribed()
            listening()
            await stopping.wait()
            self.consumer.stop()
            watching.cancel()
            for subscription in subscriptions:
                await subscription.unsubscribe()

    async def _purge(self, call: str, org: str | None) -> None:
        await self._bus.js.purge_stream(
            subjects.EVENTS_STREAM, subject=subjects.events_of(call, subjects.ANY if org is None else org)
        )

    def _query(self, verb: str, tasks: asyncio.TaskGroup) -> Callable[[Msg], Awaitable[None]]:
        async def handle(message: Msg) -> None:
            tasks.create_task(self._answer(verb, message))

        return handle

    async def _answer(self, verb: str, message: Msg) -> None:
        self.counters[verb] += 1
        try:
            request = RpcRequest.model_validate_json(message.data or b"{}")
            reply = RpcReply(ok=True, data=await self.queries.verbs[verb](request))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            reply = RpcReply(ok=False, error=f"{verb}: {field}: {first['msg']}")
        except (QueryError, StillOpenError) as error:
            reply = RpcReply(ok=False, error=str(error))
        except (SQLAlchemyError, OSError) as problem:
            log.error("query failed at the database", verb=verb, problem=str(problem).partition("\n")[0])
            reply = RpcReply(ok=False, error="the database of transcript_store cannot be reached")
        except (nats.errors.Error, JetStreamError) as problem:
            log.error("the call's events were not purged", verb=verb, problem=str(problem))
            reply = RpcReply(ok=False, error=f"{verb}: the event stream did not answer; please repeat")
        except Exception:  # top of a query: a defect in one must not end the service
            log.exception("query failed", verb=verb)
            reply = RpcReply(ok=False, error=f"{verb} failed; see the log of transcript_store")
        await respond(self._bus, message, reply)
