"""Spare sessions: who takes them, and what becomes of them when the server ends or refuses them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

from libs.contracts.agent import AgentConfig
from libs.contracts.offer import Resume
from services.ai_session import spares as spares_module
from services.ai_session.__main__ import Backends
from services.ai_session.backends.realtime_link import Endpoint
from services.ai_session.backends.realtime_spares import SpareConnections
from services.ai_session.costs import load
from services.ai_session.settings import BUILT_IN_MODELS
from services.rehearsal.faults import parse_fault
from services.rehearsal.server import Rehearsal
from services.rehearsal.settings import RehearsalSettings
from tests.support.fake_leg import FakeLeg
from tests.support.waiting import until
from tests.unit.ai_session.conftest import ended, gateway, running_worker
from tests.unit.ai_session.fake_model import configured, fake_model
from tests.unit.ai_session.test_rotation import a_call, turn_of


@asynccontextmanager
async def kept_at(rehearsal, wanted=1):
    endpoint = Endpoint(rehearsal.base_url, "k", "gpt-realtime-2.1", load(BUILT_IN_MODELS))
    spares = SpareConnections(endpoint, wanted)
    keeping = asyncio.create_task(spares.run())
    try:
        yield replace(endpoint, spares=spares), spares
    finally:
        spares.close()
        await keeping


async def test_a_call_that_another_worker_lost_takes_a_spare_and_a_fresh_one_does_not(server):
    async with a_call(server, spares=1) as (worker, leg):
        counters = leg.endpoint.counters
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 8000)
        await leg.run_until(lambda: counters["spare_opened"] == 1)
        assert counters["spare_taken"] == 0
        resume = Resume(cause="failover", previous_wk="wk-other", previous_epoch=1, played={1: leg.played})
        await worker._around.outbox.flush(2)
        await leg.release()
        await leg.offer(worker.id, resume=resume)
        await leg.until_ready()
        assert counters["spare_taken"] == 1
        await turn_of(leg, 0)
        assert leg.commanded("failed") == []


async def test_a_call_that_loses_its_connection_takes_a_spare(server):
    async with a_call(server, spares=1) as (worker, leg):
        counters = leg.endpoint.counters
        await leg.until_ready()
        await leg.run_until(lambda: counters["spare_opened"] == 1 and len(leg.heard) >= 8000)
        worker._sessions[leg.call]._model.backend._transport.disconnect(graceful=False)
        await leg.run_until(lambda: worker.counters["reconnected"] == 1)
        assert counters["spare_taken"] == 1
        await turn_of(leg, 0)


async def test_one_that_the_server_ends_before_its_greeting_is_not_waited_for():
    async with Rehearsal.start(RehearsalSettings()) as rehearsal, kept_at(rehearsal) as (endpoint, spares):
        rehearsal.inject(parse_fault("no_session_created"))
        rehearsal.inject(parse_fault("close:code=1011,after_ms=50"))
        spares.served("gpt-realtime-2.1")
        async with asyncio.timeout(1):
            await until(lambda: endpoint.counters["spare_refused"] == 1)


async def test_one_that_the_server_ends_is_replaced(monkeypatch):
    monkeypatch.setattr(spares_module, "STEADY_S", 0.0)
    async with Rehearsal.start(RehearsalSettings()) as rehearsal, kept_at(rehearsal) as (endpoint, spares):
        assert len(rehearsal.sessions.all()) == 0  # nothing was served yet
        rehearsal.inject(parse_fault("close:code=1001,after_ms=100"))
        spares.served("gpt-realtime-2.1")
        await until(lambda: endpoint.counters["spare_lost"] == 1)
        await until(lambda: endpoint.counters["spare_opened"] == 2)
        assert len(spares) == 1


async def test_a_server_that_refuses_is_asked_again_later(monkeypatch):
    monkeypatch.setattr(spares_module, "PAUSE_S", 0.05)
    async with Rehearsal.start(RehearsalSettings()) as rehearsal, kept_at(rehearsal) as (endpoint, spares):
        rehearsal.inject(parse_fault("refuse:status=429"), count=3)
        spares.served("gpt-realtime-2.1")
        await until(lambda: endpoint.counters["spare_opened"] == 1)
        assert endpoint.counters["spare_refused"] == 3


async def test_closing_leaves_no_connection_behind():
    async with Rehearsal.start(RehearsalSettings()) as rehearsal:
        async with kept_at(rehearsal, wanted=2) as (endpoint, spares):
            spares.served("gpt-realtime-2.1")
            await until(lambda: len(spares) == 2)
        assert len(spares) == 0
        await until(lambda: all(truth.closed for truth in rehearsal.sessions.all()))
        assert endpoint.counters["spare_opened"] == 2
        spares.served("another")
        assert len(spares) == 0


async def test_spares_that_died_unnoticed_with_the_callers_connection_cost_one_attempt(server, monkeypatch):
    monkeypatch.setattr("services.ai_session.backends.realtime.UPDATED_TIMEOUT_S", 0.3)
    monkeypatch.setattr("services.ai_session.model_link.RECONNECT_PATIENCE_S", 0.8)

    async def deaf_spares(model, socket, event):
        if model.sockets.index(socket) not in (1, 2, 3):
            await configured(model, socket, event)

    async with fake_model(deaf_spares) as model:
        endpoint = Endpoint(model.base_url, "k", "gpt-realtime-2.1", load(BUILT_IN_MODELS))
        kept = SpareConnections(endpoint, 3)
        async with running_worker(server.url, Backends(replace(endpoint, spares=kept))) as worker:
            keeping = worker._group.create_task(kept.run())
            async with gateway(server.url) as client:
                leg = FakeLeg(client, AgentConfig(name="unit"))
                await leg.start()
                await leg.offer(worker.id)
                await leg.until_ready()
                await leg.run_until(lambda: len(kept) == 3)
                await model.sockets[0].close(code=1011)
                await leg.run_until(lambda: worker.counters["reconnected"] == 1)
                assert endpoint.counters["spare_taken"] == 1
                assert leg.commanded("failed") == []
                await leg.release()
                await ended(worker)
            kept.close()
            await keeping
