"""Places within limits on a real server: gateways that race, die, lose the bucket and the bus."""

import asyncio
import os
import signal

import nats.errors
import pytest
from nats.js.errors import Error as JetStreamError

from libs.call_leg import slots as shell
from libs.call_leg.admission import Limits
from libs.call_leg.slot_document import SlotDocument, Verdict
from libs.call_leg.slots import Slots
from libs.contracts import subjects
from libs.runtime.bus import Bus
from libs.runtime.streams import bucket, provision
from tests.support.nats import nats_server

TEN = Limits(max_calls=10)


@pytest.fixture
async def server():
    async with nats_server() as running:
        yield running


class Gateway:
    """The part of a gateway that slots need: a link, heartbeats, the task."""

    def __init__(self, name, bus):
        self.name, self.bus = name, bus
        self.slots = Slots(bus, name, lambda now: bus.control_link.up_at is not None)

    async def run(self):
        await self.slots.start()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.slots.run())
            while True:
                if self.bus.control.is_connected:
                    await self.bus.control.publish(subjects.gateway_heartbeat(self.name), b"{}")
                await asyncio.sleep(0.05)

    async def take(self, call, limits=TEN, org="default"):
        return await self.slots.take(org, call, limits)


@pytest.fixture
async def gateways(server, monkeypatch):
    monkeypatch.setattr("libs.call_leg.slot_document.GONE_S", 0.4)
    monkeypatch.setattr(shell, "RECONCILE_S", shell.CHECK_S)
    monkeypatch.setattr(shell, "TAKE_S", 2.0)  # a loaded machine is no reason to count locally here
    made = [Gateway(f"gw-{n}", await Bus.connect(server.url_of("gateway"), f"gw-{n}")) for n in (1, 2)]
    await provision(made[0].bus.js)
    tasks = [asyncio.create_task(each.run()) for each in made]
    for each, task in zip(made, tasks, strict=True):
        each.task = task
    await asyncio.sleep(0.1)
    yield made
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for each in made:
        await each.bus.close()


async def stored(gateway, org="default"):
    entry = await (await bucket(gateway.bus.js, subjects.KV_SLOTS)).get(org)
    return SlotDocument.model_validate_json(entry.value)


async def listed(gateway):
    """The calls by gateway, as far as the bus can tell now."""
    try:
        return {gw: section.calls for gw, section in (await stored(gateway)).sections.items()}
    except (nats.errors.Error, JetStreamError):  # no link, no JetStream yet, no document yet
        return {}


async def until(condition, timeout_s=8):
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110  the condition is on the server
            await asyncio.sleep(0.05)


async def test_of_fifty_calls_at_two_gateways_exactly_ten_get_a_place_and_each_that_ends_makes_room(gateways):
    one, two = gateways
    verdicts = await asyncio.gather(*((one, two)[n % 2].take(f"c{n}") for n in range(50)))
    taken = [n for n, verdict in enumerate(verdicts) if verdict is Verdict.TAKEN]
    assert len(taken) == 10
    assert verdicts.count(Verdict.FULL) == 40
    document = await stored(one)
    assert {call for section in document.sections.values() for call in section.calls} == {f"c{n}" for n in taken}
    gateways[taken[0] % 2].slots.free("default", f"c{taken[0]}")
    await gateways[taken[0] % 2].slots.flush(2)
    again = await asyncio.gather(one.take("x"), two.take("y"))
    assert sorted(verdict.value for verdict in again) == ["full", "taken"]
    assert one.slots.counters["counted_locally"] == two.slots.counters["counted_locally"] == 0


async def test_attempts_of_both_gateways_count_and_stay_counted_when_the_calls_end(gateways):
    one, two = gateways
    limits = Limits(attempts_per_minute=3)
    verdicts = [await (one, two)[n % 2].take(f"c{n}", limits) for n in range(5)]
    assert verdicts == [Verdict.TAKEN] * 3 + [Verdict.TOO_MANY] * 2
    one.slots.free("default", "c0")
    await one.slots.flush(2)
    assert await two.take("c9", limits) is Verdict.TOO_MANY


async def test_asking_again_for_the_same_call_is_one_place(gateways):
    one, _ = gateways
    assert await one.take("a", Limits(1)) is await one.take("a", Limits(1)) is Verdict.TAKEN
    assert one.slots.held() == 1


async def test_the_places_of_a_gateway_that_died_are_free_again(gateways):
    one, two = gateways
    assert await one.take("a", Limits(1)) is Verdict.TAKEN
    assert await two.take("b", Limits(1)) is Verdict.FULL
    one.task.cancel()

    async def free():
        return await two.take("b", Limits(1)) is Verdict.TAKEN

    await until(free)
    assert set((await stored(two)).sections["gw-1"].calls) == set()  # its attempts stay counted
    assert (await stored(two)).sections["gw-2"].calls == ("b",)


async def test_a_bucket_that_was_deleted_is_filled_again_from_live_calls(gateways, server):
    one, two = gateways
    for gateway, call in (one, "a"), (two, "b"):
        assert await gateway.take(call) is Verdict.TAKEN
    operator = await Bus.connect(server.url_of("local"), "operator")  # no service may
    await operator.js.delete_key_value(subjects.KV_SLOTS)
    await operator.close()

    async def complete():
        return await listed(one) == {"gw-1": ("a",), "gw-2": ("b",)}

    await until(complete)
    assert await one.take("c", Limits(2)) is Verdict.FULL


async def test_without_the_bus_each_gateway_counts_its_own_calls_and_the_truth_comes_back_with_it(
    gateways, server, monkeypatch
):
    one, two = gateways
    assert await one.take("a", Limits(2)) is Verdict.TAKEN
    monkeypatch.setattr(shell, "TAKE_S", 0.25)
    server.kill()
    limits = Limits(2)
    verdicts = await asyncio.gather(*(gw.take(f"{gw.name}-{n}", limits) for gw in gateways for n in range(2)))
    assert verdicts == [Verdict.TAKEN, Verdict.FULL, Verdict.TAKEN, Verdict.TAKEN]
    assert one.slots.counters["counted_locally"] == 2
    one.slots.free("default", "a")
    monkeypatch.setattr(shell, "TAKE_S", 2.0)
    await server.start()

    async def complete():
        return {gw: len(calls) for gw, calls in (await listed(two)).items()} == {"gw-1": 1, "gw-2": 2}

    await until(complete)
    assert await one.take("z", Limits(3)) is Verdict.FULL


async def test_a_caller_who_hangs_up_while_waiting_leaves_no_place_behind(gateways):
    one, _ = gateways
    waiting = asyncio.create_task(one.take("a"))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await one.take("b") is Verdict.TAKEN
    await one.slots.flush(2)
    assert (await stored(one)).sections["gw-1"].calls == ("b",)


async def test_a_caller_who_hangs_up_in_the_moment_of_the_answer_leaves_no_place_behind(gateways, monkeypatch):
    one, _ = gateways
    waiting = asyncio.create_task(one.take("a"))
    tell = Slots._tell

    def tell_and_hang_up(self, *arguments):
        tell(self, *arguments)
        waiting.cancel()

    monkeypatch.setattr(Slots, "_tell", tell_and_hang_up)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await one.slots.flush(2)
    assert one.slots.held() == 0
    assert await listed(one) == {"gw-1": ()}  # the attempt stays counted


async def test_a_document_that_nobody_can_read_is_written_anew(gateways):
    one, _ = gateways
    store = await bucket(one.bus.js, subjects.KV_SLOTS)
    await store.put("default", b"\xff{")
    assert await one.take("a") is Verdict.TAKEN
    assert one.slots.counters["malformed"] == 1
    await store.delete("default")
    assert await one.take("b") is Verdict.TAKEN
    assert set((await stored(one)).sections["gw-1"].calls) == {"a", "b"}


async def test_freeing_what_was_never_taken_is_no_matter(gateways):
    one, _ = gateways
    one.slots.free("default", "nobody")
    one.slots.free("other", "nobody")
    assert one.slots.held() == 0


async def test_a_bus_that_hangs_delays_a_call_by_a_quarter_of_a_second_and_refuses_none(gateways, server, monkeypatch):
    one, _ = gateways
    monkeypatch.setattr(shell, "TAKE_S", 0.25)
    os.kill(server._process.pid, signal.SIGSTOP)
    try:
        loop = asyncio.get_running_loop()
        began = loop.time()
        verdicts = await asyncio.gather(*(one.take(f"c{n}", Limits(2)) for n in range(3)))
        assert 0.2 < loop.time() - began < 1.0
    finally:
        os.kill(server._process.pid, signal.SIGCONT)
    assert verdicts == [Verdict.TAKEN, Verdict.TAKEN, Verdict.FULL]

    async def complete():
        return await listed(one) == {"gw-1": ("c0", "c1")}

    await until(complete)
