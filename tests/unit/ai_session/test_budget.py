"""Budgets of a day: the ledger as a core, then workers on a real bus that end and refuse calls together."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import date, timedelta

import nats.js.errors
import pytest
from hypothesis import given, strategies as st
from structlog.testing import capture_logs

from libs.audio.tone import tone
from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.events import UsageReported
from libs.contracts.offer import Release, Resume
from libs.contracts.spending import DaySpending, spending_key
from libs.contracts.termination import Reason
from libs.runtime.spending_copy import today
from libs.runtime.streams import bucket
from services.ai_session.__main__ import Backends
from services.ai_session.backends.realtime_link import Endpoint
from services.ai_session.budget import DayBudgets
from services.ai_session.costs import load
from services.ai_session.resume import read_events
from services.ai_session.settings import BUILT_IN_MODELS
from services.rehearsal.scenario import Scenario
from services.rehearsal.server import Rehearsal
from services.rehearsal.settings import RehearsalSettings
from services.rehearsal.speech import Speech
from tests.support.fake_leg import FakeLeg
from tests.support.nats import nats_server
from tests.unit.ai_session.conftest import ended, gateway, running_worker

DAY = date(2026, 11, 21)


def nobody(_org, _day):
    return 0.0


# -- the core --------------------------------------------------------------------------------------------------


def test_a_budget_is_spent_when_all_workers_together_reached_it():
    others = {"acme": 3.0}
    days = DayBudgets(lambda org, _: others.get(org, 0.0))
    days.add("acme", 1.5, DAY)
    assert not days.is_spent("acme", 5.0, DAY)
    others["acme"] = 3.5
    assert days.is_spent("acme", 5.0, DAY)
    assert not days.is_spent("acme", None, DAY)
    assert not days.is_spent("other", 5.0, DAY)
    assert not days.is_spent("acme", 5.0, DAY + timedelta(days=1))


def test_a_new_day_begins_with_nothing():
    days = DayBudgets(nobody)
    days.add("acme", 9, DAY)
    assert days.total("acme", DAY + timedelta(days=1)) == 0


@given(
    st.lists(st.one_of(st.floats(0, 100), st.just("write"), st.just("lost answer"), st.just("bus lost")), max_size=40)
)
def test_whatever_happens_to_writes_the_bus_ends_up_with_exactly_the_sum(script):
    days, bus, total = DayBudgets(nobody), {}, 0.0
    for step in script:
        if isinstance(step, float):
            days.add("acme", step, DAY)
            total += step
        elif step == "bus lost":
            bus.clear()
            days.write_again()
        else:
            for org, day, usd in days.due():
                bus[org, day] = usd
                if step == "write":
                    days.written(org, day, usd)
    for org, day, usd in days.due():
        bus[org, day] = usd
        days.written(org, day, usd)
    assert bus.get(("acme", DAY), 0.0) == pytest.approx(total)
    assert days.due() == []


@pytest.mark.parametrize("amount", [0.0, -1.0, float("nan")])
def test_no_amount_takes_money_back(amount):
    days = DayBudgets(nobody)
    days.add("acme", amount, DAY)
    assert days.due() == []


def test_days_that_are_over_are_forgotten_a_day_later():
    days = DayBudgets(nobody)
    for back in range(4):
        days.add("acme", 1, DAY - timedelta(days=back))
    days.forget_before(DAY)
    assert [day for _, day, _ in days.due()] == [DAY, DAY - timedelta(days=1)]


# -- on the bus ------------------------------------------------------------------------------------------------


def agent(org, **options):
    say = {"mode": "talk", "say": ["tone:440:40"], **options}
    return AgentConfig(name="test", org=org, backend="scripted", goodbye="Tschüss.", backend_options=say)


async def thrifty_leg(client, org):
    leg = FakeLeg(client, agent(org))
    leg.usd_per_day = 1.0
    await leg.start()
    return leg


async def write(worker, org, usd, wk="wk-other"):
    store = await bucket(worker._bus.js, subjects.KV_SPEND)
    await store.put(spending_key(org, today(), wk), DaySpending(usd=usd).to_json())


async def until(worker, done):
    heard = asyncio.Event()
    worker.budgets.copy.on_change.append(heard.set)
    async with asyncio.timeout(5):
        while not done():
            await heard.wait()
            heard.clear()


async def spending_of(worker, org):
    store = await bucket(worker._bus.js, subjects.KV_SPEND)
    found = defaultdict(float)
    for key in await store.keys():
        name, _, wk = key.split(".")
        if name == org:
            found[wk] += DaySpending.model_validate_json((await store.get(key)).value).usd
    return found


async def test_a_call_of_a_spent_day_says_goodbye_and_the_next_one_is_refused(server):
    org = "spent-day"
    async with running_worker(server.url) as worker, gateway(server.url) as client:
        leg = await thrifty_leg(client, org)
        assert (await leg.offer(worker.id)).accepted
        await leg.until_ready()
        await write(worker, org, 1.0)
        await leg.run_until(lambda: leg.commanded("hang_up"), limit_s=8)
        assert leg.commanded("hang_up")[0].detail == f"organisation {org} has spent its 1 USD of this day (UTC)"
        await leg.release()
        late = await thrifty_leg(client, org)
        refusal = await late.offer(worker.id)
        assert (refusal.accepted, refusal.reason) == (
            False,
            f"organisation {org} has spent its 1 USD of this day (UTC)",
        )
        taken_over = await late.offer(worker.id, resume=Resume(cause="failover", previous_wk="w", previous_epoch=1))
        assert taken_over.accepted  # and ends politely
        await late.until_ready()
        await late.run_until(lambda: late.commanded("hang_up"), limit_s=8)
        await late.release()


async def test_what_calls_cost_is_written_added_up_and_known_to_the_next_worker(server):
    org = "two-workers"
    async with running_worker(server.url) as one:
        one.budgets.add(org, 0.4)
        one.budgets.add(org, 0.2)
        async with running_worker(server.url) as two:
            two.budgets.add(org, 0.5)
            await until(one, lambda: one.budgets.objection(org, 1.1))
            assert one.budgets.objection(org, 1.2) == ""
        found = await spending_of(one, org)
    assert found == {one.id: pytest.approx(0.6), two.id: pytest.approx(0.5)}


async def test_a_worker_that_ends_writes_what_it_had_not_written(server):
    org = "last-words"
    async with running_worker(server.url) as one:
        one.budgets.add(org, 0.25)  # written at once; what follows would wait a second
        await until(one, lambda: one.budgets.counters["written"])
        one.budgets.add(org, 0.25)
    async with running_worker(server.url) as two:
        assert (await spending_of(two, org))[one.id] == pytest.approx(0.5)


async def test_every_cent_of_a_call_reaches_its_record_and_the_days_total_however_it_ends(server):
    scenario = Scenario(name="unit", greeting="Guten Tag. Was darf es sein?", default_answers=[f"{'Bla ' * 60}."])
    settings = RehearsalSettings(default_scenario="unit", first_byte_ms=10, transcription_delay_ms=20, speed=4)
    async with Rehearsal.start(settings, scenarios=[scenario], speech=Speech()) as rehearsal:
        endpoint = Endpoint(rehearsal.base_url, "k", "gpt-realtime-2.1", load(BUILT_IN_MODELS))
        async with running_worker(server.url, Backends(endpoint)) as worker, gateway(server.url) as client:
            leg = FakeLeg(
                client,
                AgentConfig(
                    name="test", org="cents", prompt="[scenario: unit]", greeting="Guten Tag. Was darf es sein?"
                ),
            )
            await leg.start()
            await leg.offer(worker.id)
            await leg.until_ready()
            await leg.run_until(lambda: len(leg.heard) >= 8000)
            await leg.run(400, tone(300, 300, 8000, -15))
            await leg.run_until(lambda: len(leg.heard) >= 16_000)  # in the middle of a long answer
            message = Release(call=leg.call, epoch=leg.epoch, reason=Reason.CALLER_HUNG_UP, played=leg.played)
            await client.publish(subjects.release(worker.id), message.to_json())
            await ended(worker)
            async with asyncio.timeout(5):
                while worker._leaving:
                    worker._idle.clear()
                    await worker._idle.wait()
            await worker._around.outbox.flush(2)
            events = await read_events(worker._bus.js, "cents", leg.call)
    used = [event for event in events if isinstance(event, UsageReported)]
    assert {event.source for event in used} == {"response", "transcription"}
    assert len([event for event in used if event.source == "response"]) == 2  # the second was cancelled by the hang-up
    async with running_worker(server.url) as later:
        spent = await spending_of(later, "cents")
    assert spent[worker.id] == pytest.approx(sum(event.cost_usd for event in used))


async def test_a_bucket_that_cannot_be_written_is_told_once_and_costs_no_call(server, monkeypatch):
    monkeypatch.setattr("services.ai_session.budget_shell.WRITE_EVERY_S", 0.01)
    async with running_worker(server.url) as worker, gateway(server.url) as client:

        async def refused(*_):
            raise nats.js.errors.APIError(code=403, description="permissions violation")

        monkeypatch.setattr("services.ai_session.budget_shell.bucket", refused)
        with capture_logs() as logs:
            worker.budgets.add("sealed", 0.5)
            leg = FakeLeg(client, agent("sealed"))
            await leg.start()
            assert (await leg.offer(worker.id)).accepted
            await leg.until_ready()
            await leg.run(400)
        assert worker.budgets.counters["write_failed"] > 2
        assert [entry["log_level"] for entry in logs if "could not be written" in entry["event"]][:2] == [
            "warning",
            "debug",
        ]
        assert worker.budgets.objection("sealed", 0.5)
        monkeypatch.undo()
        await leg.release()
    async with running_worker(server.url) as later:
        assert (await spending_of(later, "sealed"))[worker.id] == pytest.approx(0.5)


async def test_what_is_spent_while_the_bus_is_away_is_written_when_it_is_back():
    org = "outage"
    async with nats_server() as server, running_worker(server.url) as worker:
        worker.budgets.add(org, 0.5)
        await until(worker, lambda: worker.budgets.counters["written"])
        server.kill()
        worker.budgets.add(org, 0.25)
        assert worker.budgets.objection(org, 0.75)  # our own spending is known all the same
        await server.start()
        heard = asyncio.Event()
        worker.budgets.copy.on_change.append(heard.set)
        async with asyncio.timeout(20):
            while worker.budgets.copy.spent_today(org) < 0.75:
                await heard.wait()
                heard.clear()
        assert await spending_of(worker, org) == {worker.id: pytest.approx(0.75)}
