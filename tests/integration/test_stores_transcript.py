"""transcript_store over a real nats-server and a real database: nothing lost, nothing twice, whatever restarts."""

import asyncio
import os
import random
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from libs.contracts import subjects
from libs.contracts.events import Event
from libs.contracts.heartbeat import GatewayHeartbeat
from libs.contracts.rpc import RpcReply, RpcRequest
from libs.contracts.termination import Reason
from libs.runtime.bus import Bus
from libs.runtime.outbox import EventOutbox
from libs.runtime.streams import provision
from services.transcript_store.app import App, opened
from services.transcript_store.consumer import DURABLE
from services.transcript_store.janitor import EndCall
from services.transcript_store.models import Conversation, StoredEvent, Table, Turn
from services.transcript_store.projection import project
from services.transcript_store.settings import Settings
from tests.support.builders import DATABASES, CallScript, database_url, demo_call, publish, running_outbox
from tests.support.nats import NatsServer, nats_server
from tests.support.waiting import until


class Running:
    """The running store, its database, and a publisher on a connection of its own."""

    def __init__(self, app: App, sessions: async_sessionmaker[AsyncSession], bus: Bus, outbox: EventOutbox) -> None:
        self.app, self.sessions, self.bus, self.outbox = app, sessions, bus, outbox

    async def query(self, verb: str, org: str | None = None, **parameters: object) -> RpcReply:
        payload = RpcRequest(org=org, parameters=parameters).to_json()
        return RpcReply.model_validate_json(await self.bus.request(subjects.rpc("transcript_store", verb), payload, 10))

    async def publish(self, events: list[Event]) -> None:
        await publish(self.outbox, events)

    async def settled(self) -> None:
        await settled(self.bus)

    async def rows(self, table: type[Table]) -> list[Table]:
        async with self.sessions() as session:
            return list(await session.scalars(select(table)))


async def settled(bus: Bus, timeout_s: float = 30) -> None:
    """Wait until the store has acknowledged everything that is in the stream."""
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                info = await bus.js.consumer_info("EVENTS", DURABLE, timeout=1)
                if not info.num_pending and not info.num_ack_pending:
                    return
            except Exception:  # noqa: BLE001  the server or the consumer is not there yet
                pass
            await asyncio.sleep(0.05)


@asynccontextmanager
async def store(server: NatsServer, url: str, **settings: object) -> AsyncIterator[Running]:
    bus, own = await Bus.connect(server.url, "test"), await Bus.connect(server.url, "ts-test")
    await provision(bus.js)
    chosen = Settings(transcript_database_url=url, transcript_ack_wait_s=1, _env_file=None, **settings)
    outbox, stopping, up = EventOutbox(bus), asyncio.Event(), asyncio.Event()
    try:
        async with (
            opened(url) as sessions,
            running_outbox(outbox),
            running_outbox(EventOutbox(own)) as for_janitor,
            asyncio.TaskGroup() as tasks,
        ):
            app = App(own, for_janitor, sessions, chosen)
            tasks.create_task(app.run(stopping, listening=up.set))
            await up.wait()
            yield Running(app, sessions, bus, outbox)
            stopping.set()
    finally:
        await own.close()
        await bus.close()


def shuffled_calls(count: int) -> list[Event]:
    """Events of many calls, in an order that no call has; within a call too."""
    events = [event for i in range(count) for event in demo_call(f"call{i:03d}").events]
    random.Random(count).shuffle(events)
    return events


async def assert_all_there_once(running: Running, events: list[Event]) -> None:
    stored = await running.rows(StoredEvent)
    assert sorted(row.event_id for row in stored) == sorted({event.event_id for event in events})
    calls = sorted({event.call for event in events})
    conversations = await running.rows(Conversation)
    assert sorted(row.call for row in conversations) == calls
    turns = await running.rows(Turn)
    for call in calls:
        made = project(event for event in events if event.call == call)
        mine = sorted((turn for turn in turns if turn.call == call), key=lambda turn: turn.position)
        assert [(t.text, t.heard_text) for t in mine] == [(t["text"], t["heard_text"]) for t in made.turns]


@pytest.fixture(params=DATABASES)
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    async with database_url(request.param, tmp_path) as fresh:
        yield fresh


@pytest.fixture
async def server() -> AsyncIterator[NatsServer]:
    async with nats_server() as running:
        yield running


async def test_a_call_can_be_listed_read_and_searched(server: NatsServer, url: str) -> None:
    async with store(server, url) as running:
        await running.publish(demo_call("01JA").events)
        await running.publish(demo_call("01JB", at=demo_call().now + timedelta(hours=1)).events)
        await running.publish(CallScript("01JC", org="other").offered().ended(Reason.NO_WORKER).events)
        await running.settled()
        listed = (await running.query("list", org="default")).data["conversations"]
        assert [(c["call"], c["outcome"]) for c in listed] == [("01JB", "ordered"), ("01JA", "ordered")]
        assert [c["call"] for c in (await running.query("list", outcome="no_agent")).data["conversations"]] == ["01JC"]
        since = (demo_call().now + timedelta(minutes=30)).isoformat()
        assert [c["call"] for c in (await running.query("list", since=since)).data["conversations"]] == ["01JB"]
        assert len((await running.query("list", limit=1)).data["conversations"]) == 1
        got = (await running.query("get", call="01JA")).data
        assert got["conversation"]["caller"] == "+49301234567"
        assert got["conversation"]["cost_usd"] == 0.0325
        assert got["turns"][0]["speaker"] == "agent"
        assert got["turns"][1]["text"] == "Zehn T-Stücke, 22 Millimeter."
        assert got["turns"][3]["heard_text"] == "Ich habe drei gefunden."
        assert got["tool_calls"][0]["arguments"] == {"query": "T-Stück 22 mm"}
        assert got["orders"][0]["lines"][0]["quantity"] == 10
        assert got["usage"][0]["tokens"] == {"input_audio": 100, "output_audio": 200}
        assert got["latencies"][0]["stopped_to_heard_ms"] == 640
        assert (await running.query("get", call="last")).data["conversation"]["call"] == "01JB"
        assert (await running.query("get", call="jb")).data["conversation"]["call"] == "01JB"
        assert (await running.query("get", call="_B")).error.startswith("no call _B: `callbus conversations`")
        assert (await running.query("get", call="01J", org="default")).error == (
            "'01J' fits several calls; type more of one, of 01JB, 01JA say"
        )
        assert not (await running.query("get", call="jc", org="default")).ok
        assert not (await running.query("delete", call="jb")).ok  # what is gone for good is named in full
        found = (await running.query("search", text="t-STÜCKE", org="default")).data["conversations"]
        assert [(c["call"], c["match"][0]["speaker"]) for c in found] == [("01JB", "caller"), ("01JA", "caller")]
        assert (await running.query("search", text="100%_")).data == {"conversations": []}
        assert len((await running.query("search", text="1234567", org="other")).data["conversations"]) == 1


@pytest.mark.parametrize(
    ("verb", "parameters", "error"),
    [
        ("get", {}, "get: call: Field required"),
        ("get", {"call": "nobody"}, "no call nobody"),
        ("get", {"call": "last"}, "there is no conversation yet"),
        ("get", {"call": "a.*"}, "get: call: "),
        ("list", {"limit": 0}, "list: limit: "),
        ("list", {"limit": 501}, "list: limit: Input should be less than or equal to 500"),
        ("search", {"text": "x", "limit": 501}, "search: limit: Input should be less than or equal to 500"),
        ("list", {"outcome": "unheard-of"}, "list: outcome: "),
        ("search", {"text": ""}, "search: text: "),
        ("delete", {"call": "nobody"}, "no call nobody"),
    ],
)
async def test_wrong_queries_are_answered_with_one_sentence(
    server: NatsServer, tmp_path: Path, verb: str, parameters: dict, error: str
) -> None:
    async with store(server, f"sqlite:///{tmp_path}/x.db") as running:
        reply = await running.query(verb, **parameters)
        assert not reply.ok
        assert reply.error.startswith(error)


async def test_an_answer_too_large_for_a_message_is_refused_and_the_store_lives(
    server: NatsServer, tmp_path: Path
) -> None:
    async with store(server, f"sqlite:///{tmp_path}/x.db") as running:
        script = CallScript("long").offered().claimed().answered()
        for _ in range(3):
            script.agent("Ja. " * 60_000)
        await running.publish(script.ended().events)
        await running.settled()
        reply = await running.query("get", call="long")
        assert (reply.ok, reply.error) == (False, "the answer is too large: lower 'limit' or narrow the query")
        assert (await running.query("list")).ok


async def test_duplicates_and_disorder_are_stored_once(server: NatsServer, url: str) -> None:
    events = shuffled_calls(8)
    async with store(server, url) as running:
        await running.publish(events)
        for event in events[::2]:  # past the server's own recognition of repetitions
            await running.bus.js.publish(subjects.event(event.org, event.call, event.kind), event.to_json())
        await running.settled()
        await assert_all_there_once(running, events)
        assert running.app.consumer.counters["stored"] == len(events)


async def test_a_killed_store_goes_on_where_it_was(server: NatsServer, url: str) -> None:
    events = shuffled_calls(12)
    env = os.environ | {"NATS_URL": server.url, "TRANSCRIPT_DATABASE_URL": url, "TRANSCRIPT_BATCH": "20"}
    env |= {"TRANSCRIPT_ACK_WAIT_S": "1", "LOG_LEVEL": "ERROR"}
    bus = await Bus.connect(server.url, "test")
    await provision(bus.js)
    async with running_outbox(EventOutbox(bus)) as outbox:
        for part in range(3):
            await publish(outbox, events[part::3])
            process = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.transcript_store", env=env)
            async with asyncio.timeout(30):
                while await stored_so_far(bus) <= part * len(events) // 3:  # noqa: ASYNC110  another process
                    await asyncio.sleep(0.01)
            process.kill()
            await process.wait()
    await bus.close()
    async with store(server, url) as running:
        await running.settled()
        await assert_all_there_once(running, events)


async def stored_so_far(bus: Bus) -> int:
    try:
        return (await bus.js.consumer_info("EVENTS", DURABLE)).ack_floor.stream_seq
    except Exception:  # noqa: BLE001  the process has not made its consumer yet
        return -1


async def test_two_stores_at_once_write_everything_once(server: NatsServer, url: str) -> None:
    events = shuffled_calls(8)
    async with store(server, url, transcript_batch=7) as one, store(server, url, transcript_batch=5) as two:
        await one.publish(events)
        await two.settled()
        await assert_all_there_once(two, events)
        assert one.app.consumer.counters["stored"] + two.app.consumer.counters["stored"] == len(events)


async def test_a_restarted_server_in_mid_stream_loses_nothing(server: NatsServer, tmp_path: Path) -> None:
    events = shuffled_calls(10)
    async with store(server, f"sqlite:///{tmp_path}/x.db", transcript_batch=10) as running:
        for event in events:
            running.outbox.put(event)
        await asyncio.sleep(0.1)  # in the middle of it
        server.kill()
        await asyncio.sleep(0.3)
        await server.start()
        assert await running.outbox.flush(20)
        await running.settled()
        await assert_all_there_once(running, events)


async def test_a_failing_database_delays_and_loses_nothing(server: NatsServer, url: str) -> None:
    events = shuffled_calls(4)
    async with store(server, url) as running:
        await running.publish(events[:60])
        await running.settled()
        async with running.sessions.begin() as session:
            await session.execute(text("ALTER TABLE turns RENAME TO turns_away"))
        await running.publish(events[60:])
        await until(lambda: {"database_failed", "refused"} & set(running.app.consumer.counters))
        async with running.sessions.begin() as session:
            await session.execute(text("ALTER TABLE turns_away RENAME TO turns"))
        await running.settled()
        await assert_all_there_once(running, events)
        assert running.app.consumer.database_works
        assert running.app.consumer.counters["given_up"] == 0


async def test_what_is_not_understood_is_counted_and_holds_up_nothing(server: NatsServer, url: str) -> None:
    good = demo_call("good").events
    async with store(server, url) as running:
        js, org = running.bus.js, "default"
        await js.publish(subjects.event(org, "good", "call.strange"), b'{"kind": "call.strange"}')
        await js.publish(subjects.event(org, "good", "call.offered"), b"\xff\xfe{")
        await js.publish(subjects.event(org, "good", "call.offered"), b'{"kind": "call.offered"}')
        await js.publish(subjects.event("other", "good", good[0].kind), good[0].to_json())
        await js.publish(subjects.event(org, "another", good[0].kind), good[0].to_json())
        await running.publish(good)
        await running.settled()
        await assert_all_there_once(running, good)
        counters = running.app.consumer.counters
        assert (counters["not_understood"], counters["mismatched"]) == (3, 2)


async def test_an_event_that_the_database_cannot_hold_does_not_hold_up_the_others(server: NatsServer, url: str) -> None:
    bad = CallScript("bad").offered().claimed()
    bad.sentences("Eins.")
    bad.events[-1] = bad.events[-1].model_copy(update={"text": "Eins.\x00"})
    bad.agent("Zwei.")
    bad.events[-1] = bad.events[-1].model_copy(update={"from_sample": 2**70})
    good = demo_call("good").events
    async with store(server, url) as running:
        await running.publish([*bad.events, *good])
        # Not settled(): what was refused stays unacknowledged until it is given up.
        counters, stored = running.app.consumer.counters, len(good) + len(bad.events) - 1
        await until(lambda: counters["refused"] >= 2 and counters["stored"] >= stored)
        assert len(await running.rows(StoredEvent)) == stored
        assert (await running.query("get", call="good")).data["conversation"]["outcome"] == "ordered"


async def test_a_deleted_call_leaves_nothing_and_does_not_come_back(server: NatsServer, tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    async with store(server, f"sqlite:///{file}") as running:
        secret, kept = demo_call("01JSECRET"), demo_call("01JKEPT")
        await running.publish(secret.events + kept.events)
        await running.publish(CallScript("01JOPEN").offered().events)
        await running.settled()
        assert (await running.query("delete", call="01JOPEN")).error == "call 01JOPEN has not ended yet"
        assert not (await running.query("delete", org="other", call="01JSECRET")).ok
        assert (await running.query("delete", call="01JSECRET")).data == {"deleted": "01JSECRET"}
        assert (await running.query("delete", call="01JSECRET")).ok  # may be repeated
        left = (await running.bus.js.streams_info())[0].state.messages
        assert left >= len(kept.events) + 1
        late = secret.events[3]  # was on its way while the call was deleted
        await running.bus.js.publish(subjects.event(late.org, late.call, late.kind), late.to_json())
        await running.settled()
        assert {row.call for row in await running.rows(Conversation)} == {"01JKEPT", "01JOPEN"}
        for table in Table.metadata.sorted_tables:
            async with running.sessions() as session:
                assert "01JSECRET" not in str((await session.execute(select(table))).all())
        await running.query("delete", call="01JSECRET")
        subject = subjects.events_of("01JSECRET")
        info = await running.bus.js.stream_info("EVENTS", subjects_filter=subject)
        assert not info.state.subjects
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    assert b"01JSECRET" not in file.read_bytes()


async def test_the_janitor_ends_a_call_whose_gateway_vanished_and_no_other(server: NatsServer, url: str) -> None:
    async with store(server, url, janitor_grace_s=1, janitor_look_s=0.1) as running:
        gone = CallScript("gone", gw="gw-gone").offered().claimed().answered()
        lives = CallScript("lives", gw="gw-lives").offered().claimed().answered()
        over = CallScript("over", gw="gw-gone").offered().ended()
        forgotten = CallScript("forgotten", gw="gw-lives").offered()
        await running.publish(gone.events + lives.events + over.events + forgotten.events)
        beat = GatewayHeartbeat(gw="gw-lives", calls=1, capacity=10, call_list=("lives",)).to_json()
        async with asyncio.timeout(20):
            while len((await running.query("list", open=False)).data["conversations"]) < 3:
                await running.bus.control.publish(subjects.gateway_heartbeat("gw-lives"), beat)
                await asyncio.sleep(0.1)
        ended = {c["call"]: c["reason"] for c in (await running.query("list")).data["conversations"]}
        assert ended == {"gone": "gateway_lost", "lives": None, "over": "caller_hung_up", "forgotten": "lost"}


async def test_the_janitor_never_ends_a_call_twice(server: NatsServer, tmp_path: Path) -> None:
    async with store(server, f"sqlite:///{tmp_path}/x.db") as running:
        call = CallScript("c").offered().claimed().answered()
        await running.publish(call.events)
        await running.settled()
        watch = running.app.watch
        await watch._look()
        await running.publish(call.ended().events[-1:])  # the gateway is quicker after all
        watch._end(EndCall("c", "default", Reason.LOST))
        await until(lambda: watch.counters["superseded"])
        await running.settled()
        assert (await running.query("get", call="c")).data["conversation"]["reason"] == "caller_hung_up"
