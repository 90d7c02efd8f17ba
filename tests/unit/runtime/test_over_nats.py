"""Bus, outbox, configuration copy and health page against a real server that is killed and started again."""

import asyncio

import aiohttp
import pytest
from nats.js.kv import KeyValue

from cli.ports import free_port
from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.config import RouteConfig
from libs.contracts.events import CallEnded, CallMuted, ToolReturned, event_id
from libs.contracts.rpc import RpcReply
from libs.contracts.termination import Reason, Termination
from libs.runtime.bus import Bus
from libs.runtime.config_copy import ConfigCopy
from libs.runtime.health import HealthServer
from libs.runtime.outbox import EventOutbox
from libs.runtime.respond import respond
from libs.runtime.streams import bucket, provision
from tests.support.nats import nats_server

NOW = "2026-01-01T00:00:00Z"


@pytest.fixture
async def server():
    async with nats_server() as running:
        yield running


@pytest.fixture
async def bus(server):
    made = await Bus.connect(server.url, "gw-test")
    await provision(made.js)
    yield made
    await made.close()


async def restart(server, bus, away_s=0.5, meanwhile=None):
    up = [asyncio.Event(), asyncio.Event()]
    bus.media_link.on_up.append(up[0].set)
    bus.control_link.on_up.append(up[1].set)
    server.kill()
    if meanwhile is not None:
        meanwhile()
    await asyncio.sleep(away_s)
    await server.start()
    await asyncio.wait_for(asyncio.gather(*(each.wait() for each in up)), 5)


async def running(work):
    task = asyncio.create_task(work)
    await asyncio.sleep(0)
    return task


async def test_subscriptions_are_known_to_the_server_before_anybody_is_told(bus, monkeypatch):
    transport, written = bus.control._transport, bytearray()
    write, writelines = transport.write, transport.writelines
    monkeypatch.setattr(transport, "write", lambda data: (written.extend(data), write(data))[1])
    monkeypatch.setattr(transport, "writelines", lambda data: (written.extend(b"".join(data)), writelines(data))[1])
    await bus.control.subscribe("v1.rpc.demo.ask")
    await bus.subscribed()
    assert 0 < written.index(b"SUB v1.rpc.demo.ask") < written.rindex(b"PING")


async def test_an_answer_that_cannot_be_sent_ends_nothing(server, bus):
    other = await Bus.connect(server.url, "ct-test")
    asked = await other.control.subscribe("v1.rpc.demo.ask")
    await other.subscribed()
    await bus.control.publish("v1.rpc.demo.ask", b"", reply="v1.rpc.demo.nobody")
    message = await asked.next_msg(5)
    await other.close()
    assert (await respond(other, message, RpcReply(ok=True))).ok


async def stop(task):
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def muted(n, call="c1"):
    return CallMuted(event_id=event_id(call, "gw", n), org="o", call=call, at=NOW, muted=True)


def ended(source, call="c1", reason=Reason.LOST):
    return CallEnded(event_id=event_id(call, source, 1), org="o", call=call, at=NOW, termination=Termination.of(reason))


async def stored(bus, count):
    """The ids in the stream, in order, when there are `count`; more than those would show as well."""
    subscription = await bus.js.subscribe(subjects.EVENTS_FILTER, ordered_consumer=True)
    found = [(await subscription.next_msg(timeout=3)).headers["Nats-Msg-Id"] for _ in range(count)]
    info = await bus.js.stream_info(subjects.EVENTS_STREAM)
    await subscription.unsubscribe()
    assert info.state.messages == count
    return found


# -- frames (promise 4) ------------------------------------------------------------------------------------------


async def test_frames_are_never_kept_while_the_server_is_away_and_nothing_stale_bursts_out(server, bus):
    listener = await Bus.connect(server.url, "wk-test")
    heard, arrived = [], asyncio.Event()

    async def hear(msg):
        heard.append(msg.data)
        arrived.set()

    await listener.media.subscribe("v1.o.aud.g.w.c.up", cb=hear)
    await listener.media.flush()
    away = asyncio.Event()
    bus.media_link.on_down.append(away.set)
    assert bus.send_frame("v1.o.aud.g.w.c.up", b"before") is True
    await asyncio.wait_for(arrived.wait(), 2)
    listening = asyncio.Event()
    listener.media_link.on_up.append(listening.set)

    async def send_all_the_time():
        await away.wait()
        while away.is_set():
            taken.append(bus.send_frame("v1.o.aud.g.w.c.up", b"stale"))
            await asyncio.sleep(0.01)

    taken = []
    sending = await running(send_all_the_time())
    bus.media_link.on_up.append(away.clear)
    await restart(server, bus)
    await asyncio.wait_for(listening.wait(), 5)
    await asyncio.wait_for(sending, 1)
    await listener.media.flush()
    assert len(taken) > 20
    assert not any(taken[:-1])  # the last one may have met the new connection before we heard of it
    assert bus.send_frame("v1.o.aud.g.w.c.up", b"fresh") is True
    await bus.media.flush()
    await listener.media.flush()
    assert heard in (
        [b"before", b"fresh"],
        [b"before", *[b"stale"] * taken[-1], b"fresh"],
    )  # nor may the listener be back
    assert bus.counters["frame_without_link"] == taken.count(False)
    await listener.close()


async def test_a_frame_after_the_close_is_refused_without_an_error(server):
    bus = await Bus.connect(server.url, "gw-test")
    await bus.close()
    assert bus.send_frame("v1.o.aud.g.w.c.up", b"x") is False


async def test_without_a_server_the_connection_fails_with_one_sentence_and_no_password():
    with pytest.raises(ConnectionError, match="no NATS server answered") as caught:
        await Bus.connect(f"nats://user:hunter2@127.0.0.1:{free_port()}", "gw-test", wait_s=0.3)
    assert "hunter2" not in str(caught.value)


async def test_a_link_tells_since_when_it_is_up(server, bus):
    first, downs = bus.control_link.up_at, []
    bus.control_link.on_down.append(lambda: downs.append(bus.control_link.up_at))
    await restart(server, bus, 0.1)
    assert downs == [None]
    assert bus.control_link.up_at > first
    assert bus.control_link.reconnects == 1


# -- events (promise 2) ------------------------------------------------------------------------------------------


async def test_every_event_is_stored_exactly_once_and_in_order_across_a_restart(server, bus):
    outbox = EventOutbox(bus)
    task = await running(outbox.run())
    for n in range(50):
        outbox.put(muted(n))
        await asyncio.sleep(0)
    await restart(server, bus, meanwhile=lambda: [outbox.put(muted(n)) for n in range(50, 80)])
    outbox.put(muted(80))
    assert await outbox.flush(10)
    assert await stored(bus, 81) == [event_id("c1", "gw", n) for n in range(81)]
    await stop(task)


async def test_an_event_is_tried_again_until_the_stream_takes_it(bus):
    await bus.js.delete_stream(subjects.EVENTS_STREAM)
    outbox = EventOutbox(bus)
    task = await running(outbox.run())
    outbox.put(muted(1))
    outbox.put(muted(2))
    assert await outbox.flush(0.2) is False
    assert outbox.counters["retried"] >= 1
    await provision(bus.js)
    assert await outbox.flush(5)
    assert await stored(bus, 2) == ["c1:gw:1", "c1:gw:2"]
    await stop(task)


async def test_an_event_id_that_comes_twice_is_stored_once(bus):
    outbox = EventOutbox(bus)
    task = await running(outbox.run())
    outbox.put(muted(1))
    outbox.put(muted(1))
    assert await outbox.flush(5)
    assert await stored(bus, 1) == ["c1:gw:1"]
    assert outbox.counters == {"published": 1, "duplicate": 1}
    await stop(task)


async def test_of_two_ends_the_first_counts_and_the_second_is_told(bus):
    gateway, janitor, told = EventOutbox(bus), EventOutbox(bus), []
    tasks = [await running(gateway.run()), await running(janitor.run())]
    gateway.put(ended("gw"), only_first=True, superseded=lambda: told.append("gateway"))
    assert await gateway.flush(5)
    janitor.put(ended("ts"), only_first=True, superseded=lambda: told.append("janitor"))
    gateway.put(ended("gw"), only_first=True, superseded=lambda: told.append("own repetition"))
    assert await gateway.flush(5)
    assert await janitor.flush(5)
    assert told == ["janitor"]
    assert await stored(bus, 1) == ["c1:gw:1"]
    assert (janitor.counters["superseded"], gateway.counters["duplicate"]) == (1, 1)
    janitor.put(ended("ts", call="c2"), only_first=True)  # another call's end is a first one
    assert await janitor.flush(5)
    assert await stored(bus, 2) == ["c1:gw:1", "c2:ts:1"]
    for task in tasks:
        await stop(task)


@pytest.mark.parametrize(
    "bad",
    [
        muted(1).model_copy(update={"org": "not a token"}),
        ToolReturned(event_id="c1:wk1:1", org="o", call="c1", at=NOW, tool_call_id="t", name="n", ok=True, took_ms=1,
                     output="x" * 1_100_000),
        ToolReturned(event_id="c1:wk1:1", org="o", call="c1", at=NOW, tool_call_id="t", name="n", ok=True, took_ms=1,
                     output=object()),
    ],
    ids=["no subject", "too long", "not json"],
)  # fmt: skip
async def test_an_event_that_cannot_be_published_does_not_hold_up_the_others(bus, bad):
    outbox = EventOutbox(bus)
    task = await running(outbox.run())
    outbox.put(bad)
    outbox.put(muted(2))
    assert await outbox.flush(3)
    assert await stored(bus, 1) == ["c1:gw:2"]
    assert outbox.counters["unpublishable"] == 1
    await stop(task)


async def test_a_flush_that_runs_out_of_time_says_so(server, bus):
    outbox = EventOutbox(bus)
    task = await running(outbox.run())
    server.kill()
    outbox.put(muted(1))
    assert await outbox.flush(0.05) is False
    assert outbox.depth == 1
    await stop(task)


# -- configuration ---------------------------------------------------------------------------------------------------


async def test_a_copy_is_not_complete_before_its_values_although_the_client_says_so(bus, monkeypatch):
    store = await bucket(bus.js, subjects.KV_CONFIG)
    agent = AgentConfig(name="ada", prompt="1")
    await store.put(agent.key, agent.to_json())
    watch = KeyValue.watchall

    async def hasty(store, **options):
        watcher = await watch(store, **options)
        values, watcher._updates = watcher._updates, asyncio.Queue()
        await watcher._updates.put(None)

        async def later():
            await asyncio.sleep(0.2)
            await watcher._updates.put(await values.get())

        watcher.later = asyncio.create_task(later())
        return watcher

    monkeypatch.setattr(KeyValue, "watchall", hasty)
    copy = ConfigCopy(bus)
    task = await running(copy.run())
    await asyncio.wait_for(copy.loaded.wait(), 3)
    assert copy.agent("default", "ada") == agent
    task.cancel()


async def test_the_configuration_copy_follows_changes_deletions_and_a_restart(server, bus):
    store = await bucket(bus.js, subjects.KV_CONFIG)
    agent = AgentConfig(name="ada", prompt="1")
    await store.put(agent.key, agent.to_json())
    copy, changed = ConfigCopy(bus), asyncio.Event()
    copy.on_change.append(changed.set)
    task = await running(copy.run())
    await asyncio.wait_for(copy.loaded.wait(), 3)
    assert copy.agent("default", "ada") == agent
    assert copy.route("+491") is None

    async def put(key, value, condition):
        changed.clear()
        await (store.put(key, value) if value is not None else store.delete(key))
        async with asyncio.timeout(6):
            while not condition():
                changed.clear()
                await changed.wait()

    route = RouteConfig(name="all", match=("*",), agent="ada")
    await put(route.key, route.to_json(), lambda: copy.route("+491") == route)
    await put(agent.key, b'{"kind":"agent"}', lambda: True)  # broken: the former one stays
    await put(route.key, None, lambda: copy.route("+491") is None)
    assert copy.agent("default", "ada") == agent
    await restart(server, bus, 0.1)
    newer = agent.model_copy(update={"prompt": "2"})
    await put(agent.key, newer.to_json(), lambda: copy.agent("default", "ada") == newer)
    await stop(task)


# -- health -----------------------------------------------------------------------------------------------------------


async def test_the_health_pages_tell_what_is_wrong():
    health = HealthServer("127.0.0.1", 0, "sip_gateway", "gw-1")
    problem = "no link to NATS"
    health.checks["bus"] = lambda: problem
    await health.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{health.port}") as http:

            async def page(path):
                async with http.get(path) as response:
                    return response.status, await response.text(), response.content_type

            assert (await page("/healthz"))[0] == 200
            status, text, _ = await page("/readyz")
            assert status == 503
            assert "no link to NATS" in text
            assert "gw-1" in text
            problem = None
            assert (await page("/readyz"))[0] == 200
            status, text, kind = await page("/metrics")
            assert (status, kind) == (200, "text/plain")
            assert "python_info" in text
            assert (await page("/"))[0] == 404
    finally:
        await health.stop()
