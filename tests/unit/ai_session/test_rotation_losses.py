"""Sessions that are lost at awkward moments: what they owed is settled, and what they cost is counted."""

from __future__ import annotations

import asyncio
import json

import pytest

from services.ai_session.actions import Fail
from services.ai_session.backends.live_events import LiveEvents
from services.ai_session.backends.port import SpeechStarted
from services.ai_session.instruments import open_connections
from tests.unit.ai_session.fake_model import configured, fake_model
from tests.unit.ai_session.test_live import a_call as a_live_call, at_line
from tests.unit.ai_session.test_realtime import events_of, of_kind
from tests.unit.ai_session.test_rotation import a_call, short
from tests.unit.ai_session.test_session_end import hung_up, left
from tests.unit.ai_session.test_session_reconnects import a_call as a_fake_call

__all__ = ["short"]


async def test_a_turn_that_a_forced_rotation_cut_off_does_not_keep_the_next_session_from_a_pause(server, short):
    async with a_call(server, max_s=2.0) as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 8000)
        session = worker._sessions[leg.call]
        session._on_event(SpeechStarted("cut off"))
        await leg.run_until(lambda: worker.counters["rotations_forced"] == 1)
        await leg.run_until(lambda: worker.counters["reconnected"] == 1)
        await leg.run_until(lambda: worker.counters["rotated"] == 1)


async def test_a_next_session_that_is_not_taken_is_closed_and_no_longer_counted(server, short):
    before = open_connections()["realtime"]
    async with a_call(server, max_s=2.0) as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 8000)
        worker._sessions[leg.call]._model.go_over = lambda *_: False
        await leg.run_until(lambda: worker.counters["rotations_postponed"] >= 1)
        await leg.run(200)
    assert open_connections()["realtime"] == before


async def test_a_caller_who_hangs_up_while_the_model_is_away_leaves_on_the_record_what_was_heard(server):
    async with a_call(server) as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 3200)
        session = worker._sessions[leg.call]
        session._model.backend.disconnected()
        await leg.run_until(lambda: session._reconnecting)
        await hung_up(leg, played=leg.played)
        await left(worker)
        (turn,) = of_kind(await events_of(worker, leg), "agent.turn")
        assert (turn.heard_ms, turn.interrupted) == (leg.played / 8, True)


@pytest.mark.parametrize(("code", "attempts"), [("insufficient_quota", 1), ("session_expired", 2)])
async def test_a_session_that_ends_in_the_moment_it_opens_is_no_session(server, code, attempts):
    async def spoil(model, socket, event):
        await configured(model, socket, event)
        if event["type"] == "session.update" and model.connections == 2:
            await socket.send_json({"type": "error", "error": {"type": "server_error", "code": code, "message": "no"}})

    async with fake_model(spoil) as model, a_fake_call(server, model) as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: model.of_type("response.create"))
        await model.sockets[0].close(code=1011)
        if attempts == 1:
            await leg.run_until(lambda: leg.commanded("failed"))
            assert leg.commanded("failed")[0].detail == "no"
        else:
            await leg.run_until(lambda: worker.counters["reconnected"] >= 1)
            assert not worker._sessions[leg.call]._model.backend._over
            assert model.connections == 3


async def test_what_a_given_up_live_session_cost_until_its_end_is_counted(server):
    async with a_live_call(server) as (worker, leg):
        await leg.until_ready()
        await at_line(leg, lambda: len(leg.heard) >= 3200)
        worker._sessions[leg.call]._escalate(Fail("no sign of life", reconnect=True))
        await at_line(leg, lambda: worker.counters["reconnected"] == 1)
        first = leg.rehearsal.sessions.all()[0]
        usage = of_kind(await events_of(worker, leg), "usage.reported")
        told = sum(event.seconds for event in usage if event.reference == first.session_id)
        assert told > 0  # the server's own word comes every few seconds, and with the end


async def test_a_live_session_that_does_not_tell_its_cost_at_the_end_is_reckoned_by_the_clock(server):
    async with a_live_call(server) as (worker, leg):
        await leg.until_ready()
        await at_line(leg, lambda: len(leg.heard) >= 3200)
        worker._sessions[leg.call]._model.backend.received = lambda data: None
        began_at = asyncio.get_running_loop().time()
        await at_line(leg, lambda: asyncio.get_running_loop().time() > began_at + 1)
        await hung_up(leg)
        await left(worker)
        (usage,) = of_kind(await events_of(worker, leg), "usage.reported")
        assert 1 < usage.seconds < 4


async def test_a_live_session_that_ends_in_the_moment_it_opens_is_no_session(server):
    error = {"type": "error", "error": {"type": "server_error", "code": "insufficient_quota", "message": "no more"}}
    async with a_live_call(server) as (worker, leg):
        await leg.until_ready()
        link = worker._sessions[leg.call]._model
        make = link._plan.make

        def spoilt(emit):
            backend = make(emit)
            started = backend._started
            backend._started = lambda event: (started(event), backend.received(json.dumps(error).encode()))
            return backend

        object.__setattr__(link._plan, "make", spoilt)
        link.backend.disconnected()
        await at_line(leg, lambda: leg.commanded("failed"))
        assert leg.commanded("failed")[0].detail == "no more"


@pytest.mark.parametrize("strange", [7, "x", [], {"format": 1}, {"format": {"type": 1, "rate": "8000"}}])
def test_a_strange_answer_of_a_live_server_is_counted_and_survived(strange):
    events = LiveEvents()
    started = {"type": "session.started", "session": {"id": "s", "audio": strange, "expires_at": "soon"}}
    failed = {"type": "response.event", "event": {"type": "response.failed", "response": {"error": [strange]}}}
    assert events.read(json.dumps(started).encode()) == []
    assert events.counters["malformed"] == 1
    (over,) = events.read(json.dumps(failed).encode())
    assert over.failed
