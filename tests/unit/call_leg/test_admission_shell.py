"""Admission as entrances ask for it: published configuration, the gateway's room, places on a real bus."""

import asyncio

import pytest

from libs.call_leg.admission import Admitted, Arrival, Refused
from libs.call_leg.admission_shell import Admission
from libs.call_leg.gateway import CallLegs
from libs.call_leg.instruments import BUDGET_USED
from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.config import Fallback, OrgConfig, RouteConfig
from libs.contracts.events import CallEnded, CallOffered
from libs.contracts.spending import DaySpending, spending_key
from libs.contracts.termination import Reason
from libs.contracts.wire import event_decoder
from libs.runtime.bus import Bus
from libs.runtime.config_copy import ConfigCopy
from libs.runtime.outbox import EventOutbox
from libs.runtime.spending_copy import today
from libs.runtime.streams import bucket, provision
from tests.support.nats import nats_server

NUMBER = "+49301234567"
DOCUMENTS = (
    AgentConfig(name="ada"),
    AgentConfig(name="ada", org="acme"),
    OrgConfig(name="acme", max_calls=1),
    OrgConfig(name="thrifty", max_usd_per_day=2.5),
    AgentConfig(name="ada", org="thrifty"),
    RouteConfig(name="t", org="thrifty", match=("thrifty",), agent="ada", fallback=Fallback(status=486)),
    RouteConfig(name="free", match=("free",), agent="ada"),
    RouteConfig(name="r", org="acme", match=(NUMBER,), agent="ada", fallback=Fallback(status=486)),
)


@pytest.fixture
async def bus():
    async with nats_server() as server:
        made = await Bus.connect(server.url, "gw-test")
        await provision(made.js)
        yield made
        await made.close()


@pytest.fixture
async def gateway(bus, monkeypatch):
    monkeypatch.setattr("libs.call_leg.slots.TAKE_S", 2.0)  # a loaded machine is no reason to count locally here
    store = await bucket(bus.js, subjects.KV_CONFIG)
    for document in DOCUMENTS:
        await store.put(document.key, document.to_json())
    outbox, config = EventOutbox(bus), ConfigCopy(bus)
    legs = CallLegs("gw-test", bus, outbox, capacity=2)
    admission = Admission(bus, legs, config)
    await legs.start()
    await admission.start()
    tasks = [asyncio.create_task(each.run()) for each in (outbox, config, legs, admission)]
    await asyncio.wait_for(config.loaded.wait(), 5)
    await asyncio.sleep(0)
    yield admission, legs
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def arrival(call, callee="030 1234567", **more):
    return Arrival(call, "sip", "0171 2345678", callee, **more)


async def test_a_place_is_taken_refused_and_given_back(gateway, bus):
    admission, _ = gateway
    first = await admission.admit(arrival("a"))
    assert isinstance(first, Admitted)
    second = await admission.admit(arrival("b"))
    assert isinstance(second, Refused)
    assert (second.termination.reason, second.fallback) == (Reason.AT_CAPACITY, Fallback(status=486))
    admission.release("acme", "a")
    admission.release("acme", "a")
    assert isinstance(await admission.admit(arrival("c")), Admitted)
    await admission.flush(2)
    entry = await (await bucket(bus.js, subjects.KV_SLOTS)).get("acme")
    assert b'"calls":["c"]' in entry.value


async def test_an_organisation_without_limits_is_answered_at_once_and_leaves_nothing_on_the_bus(gateway, bus):
    admission, _ = gateway
    decision = admission.admit(arrival("a", "free"))
    with pytest.raises(StopIteration) as done:  # it never suspends
        decision.send(None)
    assert isinstance(done.value.value, Admitted)
    admission.release("default", "a")
    assert (await (await bucket(bus.js, subjects.KV_SLOTS)).status()).values == 0


async def test_a_gateway_that_goes_down_refuses_before_it_asks_for_a_place(gateway):
    admission, legs = gateway
    legs.draining = True
    refused = admission.decide(arrival("a"))
    assert isinstance(refused, Refused)
    assert refused.termination.reason is Reason.DRAINING


async def test_a_refused_call_leaves_its_record(gateway, bus):
    admission, _ = gateway
    unknown = arrival("a", "0000")
    refused = admission.decide(unknown)
    assert isinstance(refused, Refused)
    heard, decoder = asyncio.Queue(), event_decoder()
    await bus.control.subscribe(subjects.EVENTS_FILTER, cb=heard.put)
    await bus.subscribed()
    admission.record(unknown, refused)
    offered, ended = [decoder.decode((await asyncio.wait_for(heard.get(), 5)).data) for _ in range(2)]
    assert isinstance(offered, CallOffered)
    assert isinstance(ended, CallEnded)
    assert (offered.caller, offered.callee, offered.route) == ("+491712345678", "0000", None)
    assert ended.termination.reason is Reason.NO_ROUTE


async def test_what_workers_write_to_the_bus_keeps_calls_of_a_spent_day_out(gateway, bus):
    admission, legs = gateway
    store = await bucket(bus.js, subjects.KV_SPEND)
    assert legs.usd_per_day("thrifty") == 2.5
    assert isinstance(await admission.admit(arrival("a", "thrifty")), Admitted)
    for wk, usd in (("wk-1", 1.5), ("wk-2", 1.0)):
        await store.put(spending_key("thrifty", today(), wk), DaySpending(usd=usd).to_json())
    heard = asyncio.Event()
    admission._spending.on_change.append(heard.set)
    async with asyncio.timeout(5):
        while isinstance(decided := admission.decide(arrival("b", "thrifty")), Admitted):
            await heard.wait()
            heard.clear()
    assert (decided.termination.reason, decided.fallback) == (Reason.BUDGET_SPENT, Fallback(status=486))
    assert BUDGET_USED.values() == {("thrifty",): 1.0}  # the others have none
    assert (await admission.place("thrifty", "c")).reason is Reason.BUDGET_SPENT
    assert await admission.place("acme", "d") is None
