"""Following calls: past and present in one row, each event once."""

import asyncio
from datetime import UTC, datetime

import pytest
from nats.aio.client import Client

from cli.bus import connected
from cli.commands import live_or_past
from cli.errors import CliError
from cli.tap import ALL, call_meant, events, lasting_events, require_known
from libs.contracts import subjects
from libs.contracts.events import DtmfReceived
from libs.contracts.wire import event_decoder
from libs.runtime.streams import provision
from tests.support.nats import nats_server


async def press(client: Client, call: str, digit: str, kind: str = "call.dtmf") -> None:
    event = DtmfReceived(event_id=f"{call}:{digit}", org="default", call=call, at=datetime.now(UTC), digit=digit)
    await client.jetstream().publish(subjects.event("default", call, kind), event.to_json())


async def test_history_comes_first_then_what_happens_of_this_call_alone() -> None:
    heard: list[str] = []
    async with nats_server() as server, connected(server.url) as client:
        await provision(client.jetstream())
        for digit in "12":
            await press(client, "one", digit)
            await press(client, "two", digit)
        async for message in events(client, "one"):
            event = event_decoder().decode(message.data)
            assert isinstance(event, DtmfReceived)
            assert event.call == "one"
            heard.append(event.digit)
            if heard == ["1", "2"]:
                await press(client, "two", "9")
                await press(client, "one", "3")
            elif event.digit == "3":
                break
    assert heard == ["1", "2", "3"]


async def test_all_begins_now_and_last_is_the_latest_call() -> None:
    async with nats_server() as server, connected(server.url) as client:
        await provision(client.jetstream())
        for call in ("one", "two"):
            await press(client, call, "1", kind="call.offered")
        assert await call_meant(client, "last") == "two"
        await press(client, "one", "7")  # before anybody follows: history
        following = events(client, ALL)
        first = asyncio.ensure_future(anext(following))
        while not first.done():
            await press(client, "two", "8")
            await asyncio.wait([first], timeout=0.05)
        event = event_decoder().decode(first.result().data)
        assert isinstance(event, DtmfReceived)
        assert event.digit == "8"
        await following.aclose()


async def test_a_call_that_is_over_is_named_by_the_end_of_its_id() -> None:
    async with nats_server() as server, connected(server.url) as client:
        await provision(client.jetstream())
        for call in ("01AAXY", "01BBXY", "01BBXY9"):
            await press(client, call, "1", kind="call.offered")
        assert await live_or_past(client, "xy9") == "01BBXY9"
        assert await live_or_past(client, "01a") == "01AAXY"
        assert await live_or_past(client, "01BBXY") == "01BBXY"  # another one's beginning
        assert await live_or_past(client, "last") == "01BBXY9"
        assert await live_or_past(client, "nobody") == "nobody"  # who asks tells
        with pytest.raises(CliError, match="'xy' fits 2 calls; type more of one, of 01BBXY, 01AAXY say"):
            await live_or_past(client, "xy")


async def test_a_call_that_nobody_knows_is_told_after_a_moment() -> None:
    async with nats_server() as server, connected(server.url) as client:
        await provision(client.jetstream())
        await press(client, "one", "1")
        await require_known(client, "one", wait_s=0)
        with pytest.raises(CliError, match="no call two is known"):
            await require_known(client, "two", wait_s=0.1)
        waiting = asyncio.create_task(require_known(client, "two", wait_s=5))
        await press(client, "two", "1")
        await waiting


@pytest.mark.parametrize("followed", ["one", ALL])
async def test_a_bus_that_restarts_is_waited_for_and_no_event_is_lost_or_told_twice(followed: str) -> None:
    heard: list[str] = []
    went: list[bool] = []
    async with nats_server() as server, asyncio.timeout(30):

        async def pressed(*digits: str) -> None:
            async with connected(server.url) as client:
                await provision(client.jetstream())
                for digit in digits:
                    await press(client, "one", digit)

        await pressed("0")
        following = lasting_events(server.url, followed, lambda: went.append(True), lambda: True)
        if followed == ALL:  # begins now
            first = asyncio.ensure_future(anext(following))
            while not first.done():
                await pressed("1")
                await asyncio.wait([first], timeout=0.05)
        else:
            await anext(following)
            await pressed("1")
            await anext(following)
        server.kill()
        await server.start()
        await pressed("2", "3")
        async for message in following:
            event = event_decoder().decode(message.data)
            assert isinstance(event, DtmfReceived)
            heard += [event.digit] if event.digit != "1" else []
            if event.digit == "3":
                break
        await following.aclose()
    assert heard == ["2", "3"]
    assert went == [True]


async def test_a_bus_that_ended_for_good_ends_the_following() -> None:
    async with nats_server() as server, asyncio.timeout(20):
        async with connected(server.url) as client:
            await provision(client.jetstream())
            await press(client, "one", "1")
        following = lasting_events(server.url, "one", lambda: None, lambda: False)
        await anext(following)
        server.kill()
        with pytest.raises(CliError, match="the bus went away"):
            await anext(following)
