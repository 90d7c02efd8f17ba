"""How a session ends: the last words are stored, hang-ups are insisted on, silence is reported."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace

import nats.errors
import pytest

from libs.audio.tone import silence
from libs.contracts import subjects
from libs.contracts.agent import AgentConfig, Budget, Limits
from libs.contracts.commands import HangUp
from libs.contracts.events import AgentText, UsageReported
from libs.contracts.ids import new_call_id
from libs.contracts.offer import CallState, Offer, Release, Resume
from libs.contracts.termination import Reason
from services.ai_session.backends.factory import plan_scripted
from services.ai_session.backends.port import (
    CallerTranscript,
    Lost,
    ResponseEnded,
    ResponseStarted,
    SpeechStopped,
    ToolRequested,
)
from services.ai_session.journal import Journal
from services.ai_session.leg_link import LegLink
from services.ai_session.model_link import ModelLink
from services.ai_session.outstanding import Outstanding
from tests.support.fake_leg import FakeLeg
from tests.unit.ai_session.conftest import ended, gateway, running_worker
from tests.unit.ai_session.test_realtime import SPEECH, a_call as a_realtime_call, events_of, of_kind
from tests.unit.ai_session.test_worker import a_call, agent


async def hung_up(leg, played=None):
    """What a gateway sends when the caller has hung up."""
    release = Release(call=leg.call, epoch=leg.epoch, reason=Reason.CALLER_HUNG_UP, played=played)
    await leg.nats.publish(subjects.release(leg.wk), release.to_json())
    await leg.nats.flush()


async def leaving(worker):
    """Wait until the worker has read the release."""
    async with asyncio.timeout(2):
        while not worker._leaving:  # noqa: ASYNC110  a release has no answer
            await asyncio.sleep(0.005)


async def left(worker):
    """Wait until nothing is waited for any more."""
    async with asyncio.timeout(3):
        while worker.sessions or worker._leaving:
            worker._idle.clear()
            await worker._idle.wait()


def test_what_is_owed_is_known_from_the_events():
    owed = Outstanding()
    assert not owed
    for event in (ResponseStarted("r"), SpeechStopped("c"), ToolRequested("r", "t", "n", "{}")):
        owed.note(event)
    assert owed.responses == {"r"}
    owed.note(ResponseEnded("r", "completed"))
    owed.note(CallerTranscript("c", "Ja."))
    assert owed
    owed.tool_done("t")
    assert not owed
    owed.note(SpeechStopped("d"))
    owed.note(Lost("closed", ""))
    assert not owed


async def test_the_last_words_before_a_hang_up_are_stored_and_the_running_answer_is_cancelled(server):
    async with a_realtime_call(server) as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 8000)
        session = worker._sessions[leg.call]
        await leg.run(400, SPEECH)
        await leg.run_until(lambda: session._outstanding)  # the turn is committed, its transcript due in 20 ms
        frames = len(leg.frames)
        await hung_up(leg)
        await left(worker)
        assert worker.claims.count == 0
        assert leg.commanded("failed") == []
        events = await events_of(worker, leg)
        assert [e.text for e in of_kind(events, "caller.turn")] == ["Zehn Bögen."]
        assert {e.source for e in of_kind(events, "usage.reported")} == {"response", "transcription"}
        assert len(leg.frames) <= frames + 12, "some may be on their way; the answer has seconds left"
        assert leg.rehearsal.sessions.all()[-1].client_errors == []


async def test_the_ledger_is_closed_at_what_the_release_says_was_played(server):
    say = [["text:Eins zwei drei vier fünf sechs.", "tone:440:5000"]]
    async with a_call(server, agent(greeting="x", options={"say": say})) as (worker, leg):
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 16000)
        await hung_up(leg, played=leg.played)
        await left(worker)
        (turn,) = of_kind(await events_of(worker, leg), "agent.turn")
        assert turn.interrupted
        assert turn.heard_ms == leg.played / 8
        assert 0 < len(turn.heard_text) < len(turn.text)


async def test_a_release_for_another_worker_ends_the_session_at_once(server):
    async with a_realtime_call(server) as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 4000)
        session = worker._sessions[leg.call]
        session._outstanding.note(SpeechStopped("a turn without a transcript"))
        await leg.release()
        await ended(worker)
        assert not worker._leaving
        assert session.ended_by == "released"


async def test_a_transcript_that_never_comes_is_awaited_for_two_seconds(server, monkeypatch):
    monkeypatch.setattr("services.ai_session.settlement.LINGER_S", 0.2)
    async with a_call(server, agent(), capacity=1) as (worker, leg):
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.run(60)
        worker._sessions[leg.call]._on_event(SpeechStopped("c"))
        began = asyncio.get_running_loop().time()
        await hung_up(leg)
        await leaving(worker)
        other = FakeLeg(leg.nats, leg.agent)
        await other.start()
        assert (await other.offer(worker.id)).accepted  # the slot is free at once
        await other.release()
        await left(worker)
        assert 0.15 < asyncio.get_running_loop().time() - began < 1.5


async def test_a_tool_that_runs_at_the_hang_up_is_recorded_and_not_answered(server):
    say = [["tool:price:{}"], ["tone:440:100"]]
    async with a_call(server, agent(greeting="x", tools=("price",), options={"say": say})) as (worker, leg):
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def price(msg):
            asked.set()
            await go_on.wait()
            await msg.respond(b'{"ok": true, "output": 4}')

        await leg.nats.subscribe("v1.*.tool.price", cb=price)
        await leg.offer(worker.id)
        await leg.until_ready()
        await asyncio.wait_for(asked.wait(), 2)
        await hung_up(leg)
        await leaving(worker)
        go_on.set()
        await left(worker)
        assert [e.kind for e in await events_of(worker, leg)] == ["tool.called", "tool.returned"]
        assert not leg.heard


async def test_a_session_without_uplink_tells_the_leg(server, monkeypatch):
    monkeypatch.setattr("services.ai_session.session.NO_UPLINK_S", 0.3)
    async with a_call(server, agent()) as (worker, leg):
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.until(lambda: leg.commanded("failed"))
        assert "no audio of the caller" in leg.commanded("failed")[0].detail
        await ended(worker)


async def test_a_late_ticker_judges_nobody(server):
    async with a_call(server, agent()) as (worker, leg):
        await leg.offer(worker.id)
        await leg.until_ready()
        session = worker._sessions[leg.call]
        later = asyncio.get_running_loop().time() + 60
        session.tick(later, 0.11)
        assert session.ended_by == ""
        session.tick(later, 0.09)
        assert session.ended_by == "no_uplink"
        await ended(worker)


class DeafBus:
    """Answers only from the n-th request on."""

    def __init__(self, answers):
        self.answers = answers
        self.asked = 0

    async def request(self, *_):
        self.asked += 1
        answer = self.answers.pop(0)
        if answer is None:
            raise nats.errors.TimeoutError
        return answer


@pytest.mark.parametrize("first", [None, b'{"ok": false, "error": "not now"}'])
async def test_a_hang_up_is_repeated_until_it_is_heard(first, monkeypatch):
    monkeypatch.setattr("services.ai_session.leg_link.LAST_PAUSE_S", 0.01)
    bus = DeafBus([first] * 4 + [b'{"ok": true}'])
    offer = Offer(call="c", org="default", gw="g", epoch=1, caller="a", callee="b", agent=AgentConfig(name="x"))
    await asyncio.wait_for(LegLink(offer, bus).press(HangUp(epoch=1, reason=Reason.MAX_DURATION)), 2)
    assert bus.asked == 5


async def test_the_worker_insists_on_a_hang_up_that_the_leg_refuses(server):
    config = agent(limits=Limits(max_duration_s=0.1), goodbye="x", options={"say": ["tone:440:40"]})
    async with a_call(server, config) as (worker, leg):
        leg.refuse["hang_up"] = "not now"
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.commanded("hang_up")) >= 5)


async def test_a_session_that_cannot_be_made_frees_its_claim(server):
    async with a_call(server, agent(), capacity=1) as (worker, leg):
        leg.state = CallState(rate_hz=12345)
        reply = await leg.offer(worker.id)
        assert not reply.accepted
        assert "cannot be served" in reply.reason
        other = FakeLeg(leg.nats, leg.agent)
        await other.start()
        assert (await other.offer(worker.id)).accepted
        await other.release()


# -- what a failover must not forget ----------------------------------------------------------------------


async def resumed(client, worker, config, **resume):
    leg = FakeLeg(client, config, call=new_call_id())
    await leg.start()
    leg.epoch = 1
    event = UsageReported(
        event_id="1",
        org="default",
        call=leg.call,
        at=datetime.now(UTC),
        epoch=1,
        source="response",
        model="m",
        reference="r",
        cost_usd=0.99,
    )
    await worker._bus.js.publish(subjects.event("default", leg.call, event.kind), event.to_json())
    await leg.offer(worker.id, resume=Resume(cause="failover", previous_wk="o", previous_epoch=1, **resume))
    await leg.until_ready()
    return leg


async def test_the_budget_counts_what_the_call_had_cost_before(server):
    async with running_worker(server.url) as worker, gateway(server.url) as client:
        spent = agent(budget=Budget(per_call_usd=0.98), goodbye="Tschüss.", options={"say": ["tone:440:40"]})
        leg = await resumed(client, worker, spent)
        await leg.run_until(lambda: leg.commanded("hang_up"))
        assert "budget" in leg.commanded("hang_up")[0].detail
        await leg.release()
        richer = await resumed(client, worker, agent(budget=Budget(per_call_usd=1.0)))
        await richer.run(400)
        assert richer.commanded("hang_up") == []
        await richer.release()
        await left(worker)


async def test_the_time_limit_counts_the_talk_before_a_failover(server):
    async with running_worker(server.url) as worker, gateway(server.url) as client:
        config = agent(limits=Limits(max_duration_s=60), goodbye="x", options={"say": ["tone:440:40"]})
        leg = await resumed(client, worker, config, talk_ms=59_900)
        await leg.run_until(lambda: leg.commanded("hang_up"))
        assert leg.commanded("hang_up")[0].reason == "max_duration"
        await leg.release()
        await left(worker)


async def test_a_replaced_connection_knows_only_what_this_epoch_has_played(server):
    say = [["text:Eins.", "tone:440:2000", "lose:gone"], ["tone:440:40"]]
    async with a_call(server, agent(greeting="x", options={"say": say})) as (worker, leg):
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.run_until(lambda: worker.counters["reconnected"] == 1)
        opening = worker._sessions[leg.call]._model.backend.opening
        assert [item.text for item in opening.history] == ["Eins."]


async def test_a_tool_of_a_lost_connection_is_handed_to_nobody(server):
    say = [["text:Eins.", "tone:440:1000", "tool:price:{}", "lose:gone"], ["tone:440:40"]]
    async with a_call(server, agent(greeting="x", tools=("price",), options={"say": say})) as (worker, leg):
        go_on = asyncio.Event()

        async def price(msg):
            await go_on.wait()
            await msg.respond(b'{"ok": true, "output": 4}')

        await leg.nats.subscribe("v1.*.tool.price", cb=price)
        await leg.offer(worker.id)
        await leg.until_ready()
        before = worker._sessions[leg.call]._model.backend
        await leg.run_until(lambda: worker.counters["reconnected"] == 1)
        backend = worker._sessions[leg.call]._model.backend
        assert backend is not before
        go_on.set()
        await leg.run_until(lambda: worker.counters["tool_calls"] == 1)
        await leg.run(100, silence(100, 8000))
        assert not [told for told in before.heard + backend.heard if told.startswith("tool:")]


async def test_what_was_heard_of_an_unfinished_turn_is_known_from_the_played_position():
    offer = Offer(call="c", org="default", gw="g", epoch=2, caller="a", callee="b", agent=AgentConfig(name="x"))
    events = SimpleNamespace(put=lambda event: None)
    journal = Journal(offer, events)
    journal.put(AgentText, item="a", from_sample=0, text="Eins.")
    journal.put(AgentText, item="a", from_sample=8000, text="Zwei.")
    bridge = SimpleNamespace(playout=SimpleNamespace(played=4000))
    model = ModelLink(offer, plan_scripted(offer), None, bridge, lambda event: None)
    assert [item.text for item in model._so_far(journal).items] == ["Eins."]
