"""What the leg's state does to a session: silent before the answer, deaf on hold, sorry after a failed transfer."""

from __future__ import annotations

import asyncio

import pytest

from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.commands import SayNow, StateChanged
from libs.contracts.events import CallTakenOver
from libs.contracts.frame import AudioFrame, Codec
from libs.contracts.offer import CallState, Offer, Resume
from services.ai_session.backends.port import Capabilities
from services.ai_session.bridge import HOLD_SILENCE_FRAMES, Bridge
from services.ai_session.history import GoOn, rebuild
from services.ai_session.journal import Journal
from services.ai_session.phrases import Phrases
from tests.support.builders import CallScript
from tests.unit.ai_session.test_worker import SPEECH, a_call, agent, events_of

SAY = [["text:Guten Tag.", "tone:440:200"], ["text:Leider nicht.", "tone:440:200"], ["text:Drei.", "tone:440:200"]]


async def tell(leg, command):
    """Command the session and wait for its word."""
    return await leg.nats.request(subjects.control("default", leg.call, "agent"), command.to_json(), timeout=2)


async def changed(leg, **state):
    leg.state = leg.state.model_copy(update=state)
    await tell(leg, StateChanged(epoch=leg.epoch, state=leg.state))


async def said(worker, leg):
    return [event.text for event in await events_of(worker, leg) if event.kind == "agent.text"]


async def test_nothing_is_said_or_heard_before_the_answer(server):
    async with a_call(server, agent(greeting="x", options={"say": SAY})) as (worker, leg):
        leg.state = CallState(answered=False)
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.run(800, SPEECH)  # early media: an announcement of the network
        assert not leg.heard
        assert await events_of(worker, leg) == []
        assert b"false" in (await tell(leg, SayNow(epoch=1, text="x"))).data
        await changed(leg, answered=True)
        await leg.run_until(lambda: len(leg.heard) >= 3200)
        assert await said(worker, leg) == ["Guten Tag."]


async def test_an_answer_that_overtakes_the_session_is_not_missed(server):
    async with a_call(server, agent(greeting="x", options={"say": SAY})) as (worker, leg):
        leg.state = CallState(answered=False)
        await leg.offer(worker.id)
        async with asyncio.timeout(2):
            while leg.call not in worker._sessions:  # noqa: ASYNC110  the worker's own step
                await asyncio.sleep(0)
        worker._sessions[leg.call].bridge.set_state(CallState())
        await leg.run_until(lambda: len(leg.heard) >= 3200)
        assert await said(worker, leg) == ["Guten Tag."]


async def test_the_answer_is_greeted_once(server):
    async with a_call(server, agent(greeting="x", options={"say": SAY})) as (worker, leg):
        leg.state = CallState(answered=False)
        await leg.offer(worker.id)
        await leg.until_ready()
        await changed(leg, answered=True)
        await changed(leg, muted=True)
        await leg.run_until(lambda: len(leg.heard) >= 3200)
        await leg.run(200)
        assert await said(worker, leg) == ["Guten Tag."]


async def test_a_failed_transfer_makes_the_agent_speak_once(server):
    async with a_call(server, agent(greeting="x", options={"say": SAY})) as (worker, leg):
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 3200)
        await changed(leg, transfer="pending")
        await leg.run(100)
        await changed(leg, transfer="failed")
        await changed(leg, muted=True)
        await leg.run_until(lambda: len(leg.heard) >= 6400)
        await leg.run(200)
        assert await said(worker, leg) == ["Guten Tag.", "Leider nicht."]


async def test_an_agent_that_comes_after_a_failed_transfer_tells_the_caller_first(server):
    async with a_call(server, agent(greeting="x", options={"say": SAY})) as (worker, leg):
        leg.state = CallState(transfer="failed")
        leg.epoch = 1
        await leg.offer(worker.id, resume=Resume(cause="failover", previous_wk="wk-x", previous_epoch=1))
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 3200)
        await leg.run(200)
        assert len(await said(worker, leg)) == 1


class Listener:
    """A model that remembers what it was fed."""

    def __init__(self, state, *, continuous=False):
        self.fed, self.asked = [], []
        offer = Offer(call="c", org="default", gw="g", epoch=1, caller="a", callee="b", agent=AgentConfig(name="x"),
                      state=state)  # fmt: skip
        capabilities = Capabilities(continuous_output=continuous)
        self.bridge = Bridge(offer, capabilities, Journal(offer, self), lambda _: None, lambda _: None)
        self.bridge.attach(self)

    def put(self, event, **_):
        pass

    def feed(self, pcm):
        self.fed.append(pcm)
        return True

    def start_response(self, instructions):
        self.asked.append(instructions)

    def frames(self, count, pcm=b"\x01\x10" * 160):
        for seq in range(count):
            self.bridge.uplink(AudioFrame(Codec.PCM16_8000.value, 0, 1, seq, 160 * seq, pcm, 0), seq * 0.02)


def test_early_media_does_not_reach_the_model():
    model = Listener(CallState(answered=False))
    model.frames(10)
    assert (model.fed, model.bridge.counters["up"]) == ([], 10)
    model.bridge.set_state(CallState())
    model.frames(2)
    assert len(model.fed) == 2


def test_a_held_line_is_silence_for_long_enough_to_end_a_turn_then_nothing():
    model = Listener(CallState(held=True))
    model.frames(HOLD_SILENCE_FRAMES + 50)
    assert model.fed == [bytes(320)] * HOLD_SILENCE_FRAMES


def test_a_model_that_counts_on_a_steady_stream_gets_silence_all_along():
    model = Listener(CallState(held=True), continuous=True)
    model.frames(HOLD_SILENCE_FRAMES + 50)
    assert len(model.fed) == HOLD_SILENCE_FRAMES + 50


def test_the_model_is_told_what_has_failed():
    model = Listener(CallState())
    bridge = model.bridge
    bridge.do(bridge.turn.begin(GoOn.LISTEN, 0, 0.0), 0.0)
    bridge.do(bridge.turn.transfer_failed(1.0), 1.0)
    assert model.asked == [Phrases().transfer_failed]


@pytest.mark.parametrize("word", ["caller", "failed", "language of the conversation"])
def test_the_instruction_after_a_failed_transfer_names_no_language(word):
    assert word in Phrases().transfer_failed


# -- after a person had the call -------------------------------------------------------------------------------


def taken_over(script):
    fields = script._fields("gw", script.epoch + 1)
    script.events.append(CallTakenOver(**fields, by="console-1", previous_wk="wk-1", previous_played=8000))
    script.epoch += 1
    return script


def test_an_agent_that_gets_the_call_back_knows_that_somebody_spoke_and_not_what():
    past = taken_over(CallScript().offered().claimed().answered().caller("Guten Tag").agent("Ja, bitte?", heard=0))
    rebuilt = rebuild(past.events, {1: 8000, 2: 16000})
    assert rebuilt.go_on is GoOn.COME_BACK
    assert rebuilt.items[-1].text == Phrases.PERSON_SPOKE


def test_what_comes_after_that_counts_again():
    past = taken_over(CallScript().offered().claimed().answered().caller("Guten Tag"))
    past.claimed("wk-2").caller("Zwei Bögen")
    assert rebuild(past.events, {1: 8000}).go_on is GoOn.ANSWER


def test_the_agent_says_that_it_is_back():
    model = Listener(CallState())
    model.bridge.do(model.bridge.turn.begin(GoOn.COME_BACK, 5.0, 0.0), 0.0)
    assert model.asked == [Phrases().come_back]
