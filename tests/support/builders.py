"""Builders: everything that happens in a call as events, and databases to keep it in."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from libs.contracts.events import (
    AgentText,
    AgentTurn,
    CallAnswered,
    CallClaimed,
    CallEnded,
    CallerSpoke,
    CallerTurn,
    CallOffered,
    Event,
    LatencyMeasured,
    OrderLine,
    OrderPlaced,
    ToolCalled,
    ToolReturned,
    UsageReported,
    WorkerLost,
    event_id,
)
from libs.contracts.media import MediaStatistics
from libs.contracts.termination import Reason, Termination
from libs.runtime.outbox import EventOutbox

STARTED_AT = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
RATE_HZ = 8000


class CallScript:
    """Builds a call's events one after the other; `events` holds them in the order they happened.

    Each step takes 500 ms unless `wait` says more. Ids are what gateway and worker would give.
    """

    def __init__(
        self, call: str = "01JCALL", org: str = "default", gw: str = "gw-1", at: datetime = STARTED_AT
    ) -> None:
        self.call, self.org, self.gw = call, org, gw
        self.now = at
        self.events: list[Event] = []
        self.epoch = 0
        self.wk = ""
        self._numbers: dict[str, int] = {}
        self._items = 0
        self._sample = 0

    def wait(self, seconds: float) -> CallScript:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)
        return self

    def _fields(self, source: str, epoch: int | None = None) -> dict[str, Any]:
        number = self._numbers[source] = self._numbers.get(source, -1) + 1
        self.now += timedelta(milliseconds=500)
        fields = {"event_id": event_id(self.call, source, number), "org": self.org, "call": self.call, "at": self.now}
        return fields if epoch is None else fields | {"epoch": epoch}

    def _worker(self) -> dict[str, Any]:
        return self._fields(f"wk{self.epoch}", self.epoch)

    def _add(self, event: Event) -> CallScript:
        self.events.append(event)
        return self

    def _item(self) -> str:
        self._items += 1
        return f"item_{self._items}"

    def offered(self, caller: str = "+49301234567", callee: str = "bestellung", agent: str = "demo") -> CallScript:
        """The call arrived."""
        return self._add(
            CallOffered(**self._fields("gw"), entrance="sip", gw=self.gw, caller=caller, callee=callee, agent=agent)
        )

    def claimed(self, wk: str = "wk-1", previous_played: int | None = None) -> CallScript:
        """A worker accepted; a second one is a failover."""
        previous, self.wk = self.wk or None, wk
        self.epoch += 1
        self._sample = 0
        return self._add(
            CallClaimed(
                **self._fields("gw", self.epoch),
                wk=wk,
                cause="failover" if previous else "first",
                previous_wk=previous,
                previous_played=previous_played,
            )
        )

    def answered(self) -> CallScript:
        """200 OK."""
        return self._add(CallAnswered(**self._fields("gw"), codec="PCMA", rate_hz=RATE_HZ))

    def caller(self, text: str, *, transcript_after: list[str] | None = None) -> CallScript:
        """The caller said something; with `transcript_after` the agent answers before the transcript comes."""
        item = self._item()
        self._add(CallerSpoke(**self._worker(), item=item))
        started_at = self.now
        if transcript_after is not None:
            self.agent(*transcript_after)
        return self._add(CallerTurn(**self._worker(), item=item, text=text, started_at=started_at))

    def sentences(self, *texts: str, each_ms: int = 1000) -> tuple[str, int]:
        """The agent's sentences were published, without the end of the turn: item and first sample."""
        item, first = self._item(), self._sample
        for text in texts:
            self._add(AgentText(**self._worker(), item=item, from_sample=self._sample, text=text))
            self._sample += each_ms * RATE_HZ // 1000
        return item, first

    def agent(self, *texts: str, heard: int | None = None) -> CallScript:
        """The agent spoke; `heard` is how many of the sentences were, when it was interrupted."""
        item, first = self.sentences(*texts)
        count = len(texts) if heard is None else heard
        turn = AgentTurn(
            **self._worker(),
            item=item,
            response=f"resp_{item}",
            text=" ".join(texts),
            heard_text=" ".join(texts[:count]),
            interrupted=heard is not None,
            audio_ms=1000 * len(texts),
            heard_ms=1000 * count,
            from_sample=first,
        )
        return self._add(turn)

    def tool(self, name: str, arguments: dict[str, Any], output: Any, *, ok: bool = True) -> CallScript:
        """A tool was called and answered."""
        tool_call_id = f"call_{self._item()}"
        self._add(ToolCalled(**self._worker(), tool_call_id=tool_call_id, name=name, arguments=arguments))
        return self._add(
            ToolReturned(**self._worker(), tool_call_id=tool_call_id, name=name, ok=ok, output=output, took_ms=12.5)
        )

    def usage(self, cost_usd: float | None = 0.0125) -> CallScript:
        """A response was billed."""
        return self._add(
            UsageReported(
                **self._worker(),
                source="response",
                model="gpt-realtime-2.1",
                reference=f"resp_{self._items}",
                tokens={"input_audio": 100, "output_audio": 200},
                cost_usd=cost_usd,
            )
        )

    def latency(self, heard_ms: float = 640) -> CallScript:
        """A turn's latency was measured."""
        return self._add(
            LatencyMeasured(
                **self._worker(),
                response=f"resp_{self._items}",
                stopped_to_first_delta_ms=heard_ms - 140,
                stopped_to_first_frame_ms=heard_ms - 130,
                stopped_to_heard_ms=heard_ms,
            )
        )

    def ordered(self, revision: int = 1) -> CallScript:
        """An order was stored."""
        line = OrderLine(
            article_number="101004",
            name="T-Stück 22 mm Kupfer, Lötfitting",
            quantity=10,
            unit_price_eur="3.85",
            line_total_eur="38.50",
        )
        fields = self._fields("catalog_tools") | {"event_id": event_id(self.call, "catalog_tools", revision)}
        return self._add(
            OrderPlaced(
                **fields,
                order_id=f"{self.call}-{revision}",
                number="100001",
                basket_revision=revision,
                lines=(line,),
                total_eur="38.50",
            )
        )

    def lost(self, played_ms: int, cause: str = "gone") -> CallScript:
        """The gateway judged the worker dead after `played_ms` of its audio."""
        played = played_ms * RATE_HZ // 1000
        return self._add(WorkerLost(**self._fields("gw", self.epoch), wk=self.wk, cause=cause, played=played))

    def ended(self, reason: Reason = Reason.CALLER_HUNG_UP, detail: str = "") -> CallScript:
        """The call is over."""
        media = MediaStatistics(rtp_received=1500, rtp_sent=1490, up_published=1500)
        fields = self._fields("gw")
        answered_at = next((event.at for event in self.events if isinstance(event, CallAnswered)), self.now)
        return self._add(
            CallEnded(
                **fields,
                termination=Termination.of(reason, detail),
                duration_ms=(self.now - self.events[0].at).total_seconds() * 1000,
                talk_ms=(self.now - answered_at).total_seconds() * 1000,
                media=media,
            )
        )


def demo_call(call: str = "01JDEMO", org: str = "default", at: datetime = STARTED_AT) -> CallScript:
    """A whole call: greeting, a search, an interruption, a worker's death in mid-turn, an order, a goodbye."""
    script = CallScript(call, org, at=at).offered().claimed().answered()
    script.agent("Guten Tag, hier ist die Bestellannahme.", "Sie sprechen mit einer KI.")
    script.caller("Zehn T-Stücke, 22 Millimeter.", transcript_after=["Einen Moment,", "ich schaue nach."])
    script.tool("search_products", {"query": "T-Stück 22 mm"}, {"products": [], "total_hits": 0}).usage().latency()
    script.agent("Ich habe drei gefunden.", "Das erste ist aus Kupfer.", heard=1)
    script.caller("Kupfer.").usage(0.02).latency(710)
    script.sentences("Gut, Kupfer.", "Zehn Stück kommen in den Korb.", "Noch etwas?")
    script.lost(played_ms=9400).claimed("wk-2", previous_played=9400 * RATE_HZ // 1000)
    script.agent("Entschuldigung, da war eine Störung.").caller("Das ist alles.")
    script.tool("order_submit", {}, {"order_id": f"{call}-1"}).ordered().usage(None)
    return script.agent("Die Bestellung ist aufgegeben.", "Auf Wiederhören.").wait(2).ended()


async def publish(outbox: EventOutbox, events: list[Event]) -> None:
    """Publish events and wait until JetStream has them."""
    for event in events:
        outbox.put(event)
    assert await outbox.flush(20)


@asynccontextmanager
async def running_outbox(outbox: EventOutbox) -> AsyncIterator[EventOutbox]:
    """An outbox whose task runs for the time of the block."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(outbox.run())
        yield outbox
        task.cancel()


POSTGRES = "TEST_POSTGRES_URL"
# The cases with PostgreSQL exist only where there is one: skipped, they would fill the summary of every run.
DATABASES = ["sqlite", *([pytest.param("postgresql", marks=pytest.mark.docker)] if POSTGRES in os.environ else [])]


@asynccontextmanager
async def database_url(kind: str, folder: Path) -> AsyncIterator[str]:
    """A URL of an empty database: a SQLite file in `folder`, or a new one on TEST_POSTGRES_URL's server."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'test.db'}"
        return
    server = os.environ[POSTGRES].replace("+asyncpg", "")
    name = f"callbus_test_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(server)
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    finally:
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await admin.close()
