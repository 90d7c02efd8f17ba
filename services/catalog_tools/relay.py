"""The second half of the transactional outbox: pending events go to JetStream, now or at the next start."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from libs.contracts.events import OrderPlaced
from libs.runtime.database import first_line, reading
from libs.runtime.log import get_logger
from libs.runtime.outbox import EventOutbox
from services.catalog_tools.models import PendingEvent

log = get_logger()

AT_ONCE = 100
ACK_TIMEOUT_S = 10.0


class Relay:
    """Publishes what orders left behind. Repeating is harmless: the event id is recognised (Nats-Msg-Id)."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], outbox: EventOutbox, look_s: float) -> None:
        self._sessions = sessions
        self._outbox = outbox
        self._look_s = look_s
        self._wake = asyncio.Event()
        self.published = 0

    def wake(self) -> None:
        """An order was committed."""
        self._wake.set()

    async def run(self) -> None:
        """Publish until cancelled; looks by itself every now and then, also for what another replica left."""
        while True:
            self._wake.clear()
            try:
                while await self.publish_pending():
                    pass
            except (SQLAlchemyError, OSError) as problem:
                log.warning("pending events cannot be read, trying again", problem=first_line(problem))
            try:
                async with asyncio.timeout(self._look_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def publish_pending(self) -> int:
        """Publish one batch; how many events the server acknowledged."""
        query = select(PendingEvent).where(PendingEvent.published_at.is_(None)).order_by(PendingEvent.created_at)
        async with reading(self._sessions) as session:
            pending = (await session.scalars(query.limit(AT_ONCE))).all()
        if not pending:
            return 0
        for row in pending:
            self._outbox.put(OrderPlaced.model_validate_json(row.body))
        if not await self._outbox.flush(ACK_TIMEOUT_S):
            return 0
        ids = [row.event_id for row in pending]
        async with self._sessions.begin() as session:
            done = update(PendingEvent).where(PendingEvent.event_id.in_(ids)).values(published_at=datetime.now(UTC))
            await session.execute(done)
        self.published += len(ids)
        return len(ids)
