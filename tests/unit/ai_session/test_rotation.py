"""When a call goes over to a fresh session: the core by the clock, and calls that do it unheard."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from libs.audio.tone import tone
from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.commands import DtmfPressed
from services.ai_session import rotation as rotation_module
from services.ai_session.__main__ import Backends
from services.ai_session.backends.realtime_link import Endpoint
from services.ai_session.backends.realtime_spares import SpareConnections
from services.ai_session.costs import load
from services.ai_session.phrases import Phrases
from services.ai_session.rotation import PAUSE_S, Rotation, Step
from services.ai_session.settings import BUILT_IN_MODELS
from services.rehearsal.scenario import Scenario
from services.rehearsal.server import Rehearsal
from services.rehearsal.settings import RehearsalSettings
from tests.support.fake_leg import FakeLeg
from tests.unit.ai_session.conftest import ended, gateway, running_worker
from tests.unit.ai_session.test_realtime import Speech, events_of, of_kind

SPEECH = tone(300, 400, 8000, -15)

# -- the core -------------------------------------------------------------------------------------------


def looks(rotation, start, stop, *, quiet=True, settled=True, every_s=0.1):
    """The first step between two moments, and when."""
    for number in range(round((stop - start) / every_s)):
        now = start + number * every_s
        step = rotation.look(now, quiet=quiet, settled=settled)
        if step is not None:
            return step, round(now, 1)
    return None


def of_a_minute():
    rotation = Rotation(60.0)
    rotation.opened(100.0)
    return rotation  # its window opens at 145, half of it is over at 152.5, the last moment is 157


def test_the_first_pause_in_the_window_will_do():
    assert looks(of_a_minute(), 100.0, 200.0) == (Step.OPEN, 145.0)


def test_a_pause_must_last_a_moment():
    rotation = of_a_minute()
    assert looks(rotation, 100.0, 146.0, quiet=False) is None
    assert looks(rotation, 146.0, 150.0) == (Step.OPEN, 146.0 + PAUSE_S)


def test_what_is_still_owed_is_waited_for_half_of_the_window():
    assert looks(of_a_minute(), 100.0, 200.0, settled=False) == (Step.OPEN, 152.5)


def test_without_a_pause_the_session_is_given_up_at_the_last_moment_once():
    rotation = of_a_minute()
    assert looks(rotation, 100.0, 200.0, quiet=False) == (Step.FORCE, 157.0)
    assert looks(rotation, 157.1, 200.0, quiet=False) is None


def test_only_one_next_session_is_opened_at_a_time_and_a_pause_that_ended_gives_it_up():
    rotation = of_a_minute()
    assert looks(rotation, 100.0, 145.1) == (Step.OPEN, 145.0)
    assert looks(rotation, 145.1, 145.4) is None
    assert rotation.may_swap(145.4, quiet=True, settled=True)
    assert not rotation.may_swap(145.4, quiet=False, settled=True)
    rotation.given_up(145.4, failed=False)
    assert looks(rotation, 145.5, 150.0) == (Step.OPEN, 145.5 + PAUSE_S)


def test_a_next_session_that_could_not_be_had_is_tried_again_later():
    rotation = of_a_minute()
    assert looks(rotation, 100.0, 146.0) == (Step.OPEN, 145.0)
    rotation.given_up(146.0, failed=True)
    assert looks(rotation, 146.0, 147.4) is None
    assert looks(rotation, 147.5, 150.0) == (Step.OPEN, 147.5)


def test_a_swap_begins_a_new_session():
    rotation = of_a_minute()
    looks(rotation, 100.0, 146.0)
    rotation.opened(145.2)
    assert looks(rotation, 145.2, 300.0) == (Step.OPEN, 190.2)


def test_the_servers_end_counts_when_it_is_sooner_and_possible():
    rotation = Rotation(3600.0)
    rotation.opened(0.0)
    rotation.expires(60.0, 0.0)
    assert looks(rotation, 0.0, 100.0) == (Step.OPEN, 45.0)
    for strange in (-5.0, 10.0, float("inf"), 4000.0):
        rotation = Rotation(60.0)
        rotation.opened(0.0)
        rotation.expires(strange, 0.0)
        assert looks(rotation, 0.0, 100.0) == (Step.OPEN, 45.0)


def test_an_hour_leaves_five_minutes_for_a_pause():
    rotation = Rotation(3600.0)
    rotation.opened(0.0)
    assert looks(rotation, 0.0, 3600.0, every_s=1.0) == (Step.OPEN, 3300.0)
    rotation = Rotation(3600.0)
    rotation.opened(0.0)
    assert looks(rotation, 0.0, 3600.0, every_s=1.0, quiet=False) == (Step.FORCE, 3585.0)


# -- in a call --------------------------------------------------------------------------------------------

ANSWERS = ["Eins ist notiert.", "Zwei ist notiert.", "Drei ist notiert.", "Vier ist notiert.", "Fünf ist notiert."]
SCENARIO = Scenario.model_validate(
    {
        "name": "unit",
        "greeting": "Guten Tag.",
        "turns": [{"caller": f"Nummer {n}.", "answer": answer} for n, answer in enumerate(ANSWERS)],
    }
)
AGENT = AgentConfig(name="unit", prompt="[scenario: unit]", greeting="Guten Tag.")


@pytest.fixture
def short(monkeypatch):
    """Pauses and windows of a test."""
    monkeypatch.setattr(rotation_module, "PAUSE_S", 0.1)
    monkeypatch.setattr(rotation_module, "WINDOW", (0.6, 300.0))


@asynccontextmanager
async def a_call(server, *, limit_s=3600.0, max_s=3600.0, spares=0, transcription_delay_ms=20):
    settings = RehearsalSettings(
        default_scenario="unit",
        first_byte_ms=10,
        transcription_delay_ms=transcription_delay_ms,
        speed=20,
        session_limit_s=limit_s,
    )
    async with Rehearsal.start(settings, scenarios=[SCENARIO], speech=Speech()) as rehearsal:
        models = load(Path(BUILT_IN_MODELS))
        endpoint = Endpoint(rehearsal.base_url, "k", "gpt-realtime-2.1", models, session_max_s=max_s)
        kept = SpareConnections(endpoint, spares)
        endpoint = replace(endpoint, spares=kept)
        async with running_worker(server.url, Backends(endpoint)) as worker, gateway(server.url) as client:
            keeping = worker._group.create_task(kept.run())
            leg = FakeLeg(client, AGENT)
            await leg.start()
            leg.rehearsal, leg.endpoint = rehearsal, endpoint
            await leg.offer(worker.id)
            try:
                yield worker, leg
            finally:
                await leg.release()
                await ended(worker)
                keeping.cancel()


async def turn_of(leg, number):
    """The caller says something and hears the answer."""
    before = len(leg.heard)
    await leg.run(400, SPEECH)
    await leg.run_until(lambda: len(leg.heard) >= before + 8000)
    await leg.run(100)


async def test_three_rotations_lose_neither_context_nor_audio(server, short):
    async with a_call(server, limit_s=4.0, max_s=5.0) as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 8000)
        for number in range(4):
            rotated = worker.counters["rotated"]
            await turn_of(leg, number)
            if number < 3:
                await leg.run_until(lambda rotated=rotated: worker.counters["rotated"] > rotated)
        record = await events_of(worker, leg)
        assert [turn.text for turn in of_kind(record, "agent.turn")] == ["Guten Tag.", *ANSWERS[:4]]
        assert [turn.text for turn in of_kind(record, "caller.turn")] == [f"Nummer {n}." for n in range(4)]
        assert of_kind(record, "session.trouble") == []
        assert leg.commanded("failed") == []
        assert len(leg.heard) == 5 * 8000  # every sample of five sentences
        truths = leg.rehearsal.sessions.all()
        assert len(truths) == 4
        assert all(truth.client_errors == [] for truth in truths)
        said = [item.text for item in truths[-1].items() if item.kind == "message"]
        told = ["Guten Tag."] + [text for n in range(4) for text in (f"Nummer {n}.", ANSWERS[n])]
        assert said == told
        assert worker.counters["rotations_forced"] == worker.counters["reconnected"] == 0
        reported = {usage.reference for usage in of_kind(record, "usage.reported") if usage.source == "response"}
        assert reported == {response["id"] for truth in truths for response in truth.responses}


async def test_keys_that_the_caller_pressed_are_known_to_the_next_session(server, short):
    async with a_call(server, max_s=2.0) as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 8000)
        subject = subjects.control("default", leg.call, "agent")
        for digit in "42":
            await leg.nats.request(subject, DtmfPressed(digit=digit).to_json(), timeout=1)
        await leg.run_until(lambda: worker.counters["rotated"] == 1, limit_s=8)
        await leg.run_until(lambda: len(leg.rehearsal.sessions.all()[-1].items()) > 1)  # told, and on the way there
        said = [item.text for item in leg.rehearsal.sessions.all()[-1].items()]
        assert said[1] == Phrases.keys("42")


async def test_keys_stay_in_the_conversation_when_the_answer_to_them_is_interrupted(server):
    async with a_call(server, max_s=60.0) as (_, leg):
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 8000)
        subject = subjects.control("default", leg.call, "agent")
        for digit in "42#":
            await leg.nats.request(subject, DtmfPressed(digit=digit).to_json(), timeout=1)
        await leg.run(600, SPEECH)
        await leg.run(1000)
        (session,) = leg.rehearsal.sessions.all()
        assert Phrases.keys("42#") in [item.text for item in session.items()]


async def test_an_onset_during_the_exchange_is_heard_by_the_next_session(server, short):
    async with a_call(server, max_s=2.0) as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 8000)
        session = worker._sessions[leg.call]
        model = session._model
        swap = session.bridge.swap

        def swap_now(backend):
            for start in range(0, 2400, 320):  # 150 ms of speech, of which the old session's detection says nothing
                session.bridge._recent.append(SPEECH[start : start + 320])
            return swap(backend)

        session.bridge.swap = swap_now
        before = model.present
        await leg.run_until(lambda: worker.counters["rotated"] == 1)
        assert model.present is not before
        await leg.run(300, SPEECH[2400:])
        await leg.run_until(lambda: len(leg.heard) >= 16000)
        (turn,) = leg.rehearsal.sessions.all()[-1].turns
        assert turn["audio_end_ms"] - turn["audio_start_ms"] >= 400


async def test_a_caller_who_begins_to_speak_stays_on_the_present_session(server, short):
    async with a_call(server, max_s=3.0) as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 8000)
        session = worker._sessions[leg.call]
        open_next = session._model.open_next
        is_open, has_spoken = asyncio.Event(), asyncio.Event()

        async def interrupted(journal):
            connection = await open_next(journal)
            is_open.set()
            await has_spoken.wait()
            return connection

        session._model.open_next = interrupted
        await leg.run_until(is_open.is_set)
        await leg.run(400, SPEECH)
        has_spoken.set()
        await leg.run_until(lambda: worker.counters["rotations_postponed"] == 1)
        session._model.open_next = open_next
        await leg.run_until(lambda: len(leg.heard) >= 16000)
        await leg.run_until(lambda: worker.counters["rotated"] == 1)
        await turn_of(leg, 1)
        record = await events_of(worker, leg)
        assert [turn.text for turn in of_kind(record, "agent.turn")] == ["Guten Tag.", *ANSWERS[:2]]


async def test_what_the_left_session_still_owes_is_waited_for(server, short):
    async with a_call(server, max_s=4.0, transcription_delay_ms=2500) as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 8000)
        await leg.run(1000, tick_s=0.02)
        await turn_of(leg, 0)
        await leg.run_until(lambda: worker.counters["rotated"] == 1)
        record = await events_of(worker, leg)
        assert of_kind(record, "caller.turn") == []
        session = worker._sessions[leg.call]
        await leg.run_until(lambda: any(event.kind == "caller.turn" for event in session._journal.events))
        await leg.run_until(lambda: session._model._leaving is None)
        (turn,) = of_kind(await events_of(worker, leg), "caller.turn")
        assert turn.text == "Nummer 0."
        usage = of_kind(await events_of(worker, leg), "usage.reported")
        assert [event.source for event in usage].count("transcription") == 1


async def test_without_a_pause_the_next_session_goes_on_where_the_agent_was_cut_off(server, short, monkeypatch):
    monkeypatch.setattr(rotation_module, "PAUSE_S", 60.0)
    async with a_call(server, max_s=2.0) as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: worker.counters["rotations_forced"] == 1)
        await leg.run_until(lambda: worker.counters["reconnected"] == 1)
        troubles = of_kind(await events_of(worker, leg), "session.trouble")
        assert [trouble.code for trouble in troubles] == ["session_expiring"]
        assert leg.commanded("failed") == []


async def test_a_spare_session_is_taken_and_replaced(server, short):
    async with a_call(server, max_s=2.0, spares=1) as (worker, leg):
        counters = leg.endpoint.counters
        await leg.until_ready()
        await leg.run_until(lambda: counters["spare_opened"] == 1)
        await leg.run_until(lambda: worker.counters["rotated"] == 1)
        assert counters["spare_taken"] == 1
        await leg.run_until(lambda: counters["spare_opened"] >= 2)
        await turn_of(leg, 0)
        leg.endpoint.spares.close()
        assert len(leg.endpoint.spares) == 0
