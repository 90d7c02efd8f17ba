"""The relay: an event counts as published only once the server has acknowledged it."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from libs.contracts.events import CallEvent
from services.catalog_tools.app import opened
from services.catalog_tools.models import PendingEvent
from services.catalog_tools.orders import Caller, add, submit
from services.catalog_tools.relay import Relay
from services.catalog_tools.search import Article

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
PIPE = Article("1", "Rohr", "Rohr", "22", "Kupfer", 100, "Stück")


class Outbox:
    """Takes events; `acknowledges` says whether the server does."""

    def __init__(self) -> None:
        self.acknowledges = True
        self.events: list[str] = []

    def put(self, event: CallEvent) -> None:
        self.events.append(event.event_id)

    async def flush(self, timeout_s: float) -> bool:
        return self.acknowledges


@pytest.fixture
async def sessions(tmp_path: Path) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    async with opened(f"sqlite:///{tmp_path / 'c.db'}") as sessions:
        async with sessions.begin() as session:
            for call in "ab":
                caller = Caller("default", call, epoch=1)
                await add(session, caller, PIPE, 1)
                await submit(session, caller, 1, None, None, NOW)
        yield sessions


async def published(sessions: async_sessionmaker[AsyncSession]) -> list[bool]:
    async with sessions() as session:
        return [row.published_at is not None for row in await session.scalars(select(PendingEvent))]


async def test_events_that_were_not_acknowledged_are_published_again(
    sessions: async_sessionmaker[AsyncSession],
) -> None:
    outbox = Outbox()
    relay = Relay(sessions, outbox, look_s=1)
    outbox.acknowledges = False
    assert await relay.publish_pending() == 0
    assert await published(sessions) == [False, False]
    assert relay.published == 0
    outbox.acknowledges = True
    assert await relay.publish_pending() == 2
    assert await published(sessions) == [True, True]
    assert outbox.events == ["a:catalog_tools:1", "b:catalog_tools:1"] * 2
    assert await relay.publish_pending() == 0
    assert relay.published == 2
