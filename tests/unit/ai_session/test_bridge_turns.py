"""Local barge-in, fillers and answering machines through the bridge, joined to the gateway's half of the ledger."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings, strategies as st

from libs.audio.tone import comfort_noise
from libs.contracts.agent import AgentConfig
from libs.contracts.events import AgentText, AgentTurn, ToolCalled
from libs.contracts.frame import AudioFrame, Codec
from libs.contracts.offer import CallState, Offer
from services.ai_session.actions import HangUp, Why
from services.ai_session.backends.port import (
    AudioDelta,
    CallerTranscript,
    Capabilities,
    ResponseEnded,
    ResponseStarted,
    SpeechDiscarded,
    SpeechStarted,
    SpeechStopped,
    ToolRequested,
)
from services.ai_session.bridge import Bridge
from services.ai_session.history import CalledTool, GoOn, rebuild
from services.ai_session.journal import Journal
from services.ai_session.turn import Phase
from tests.unit.ai_session.test_bridge import Line, pcm

LOCAL = Capabilities(server_interrupts=False, answers=False)


@pytest.fixture(scope="module", autouse=True)
def without_fades():
    """The samples are counted by their value."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("services.ai_session.playout.fade_in", lambda payload: payload)
        yield


class Ready(dict):
    """Texts that are rendered."""


class TurnsLine(Line):
    """With capabilities, a direction and what is rendered already."""

    def __init__(self, capabilities=LOCAL, direction="inbound", ready=(), state=None, **config):
        super().__init__(**config)
        agent = AgentConfig(name="x", **config)
        offer = Offer(
            call="c", org="default", gw="g", epoch=1, caller="a", callee="b", agent=agent, direction=direction,
            state=state or CallState(),
        )  # fmt: skip
        self.bridge = Bridge(offer, capabilities, Journal(offer, self), self._send, self.escalated.append)
        self.bridge.attach(self)
        self.bridge.ready_speech = Ready(ready)
        self.bridge.do(self.bridge.turn.begin(GoOn.LISTEN, 0, 0.0), 0.0)

    def run(self, ticks=1):
        for tick in range(ticks):
            super().run()
            if tick % 5 == 4:
                self.bridge.tick(self.now)

    def told(self, item, received):
        """What the model believes was heard of an item, in samples."""
        for asked in self.asked:
            if asked == ("delete", item):
                return 0
            if isinstance(asked, tuple) and asked[:2] == ("truncate", item):
                return asked[2] * 8
        return received


def test_a_back_channel_costs_nothing_but_a_pause():
    line = TurnsLine(turn_taking={"barge_in": "local"})
    line.emit(ResponseStarted("r", True), AudioDelta("r", "i", 0, pcm(8000)), ResponseEnded("r", "completed"))
    line.run(20)
    line.emit(SpeechStarted("c"))
    line.run(4)
    heard = line.played[1]
    line.run(10)
    assert line.played[1] == heard  # silence
    line.emit(SpeechStopped("c"), CallerTranscript("c", "Mhm."))
    line.run(60)
    assert line.played[1] == 8000
    assert line.asked == []
    (turn,) = line.of_kind("agent.turn")
    assert (turn.interrupted, turn.heard_ms) == (False, 1000)


def test_a_filler_is_heard_before_the_answer_and_no_part_of_the_conversation():
    line = TurnsLine(
        Capabilities(), ready={"Einen Moment.": pcm(4000, 9)}, fillers={"texts": ["Einen Moment."], "after_ms": 500}
    )
    line.emit(ResponseStarted("r"), ToolRequested("r", "t", "slow", "{}"), ResponseEnded("r", "completed"))
    line.run(35)
    assert line.played[9] > 0
    line.bridge.tool_done(line.now)
    line.emit(ResponseStarted("r2", True), AudioDelta("r2", "i", 0, pcm(800)), ResponseEnded("r2", "completed"))
    line.run(60)
    assert (line.played[9], line.played[1]) == (4000, 800)
    assert [turn.local for turn in line.of_kind("agent.turn")] == [True, False]
    assert [text.text for text in line.of_kind("agent.text")] == ["Einen Moment."]
    assert line.asked == []


def test_a_filler_that_is_not_ready_is_not_said():
    line = TurnsLine(Capabilities(), fillers={"texts": ["Einen Moment."], "after_ms": 500})
    line.emit(ResponseStarted("r"), ToolRequested("r", "t", "slow", "{}"), ResponseEnded("r", "completed"))
    line.run(60)
    assert line.bridge.counters["local_not_ready"] == 1
    assert not line.played


@pytest.mark.parametrize("state", [{"held": True}, {"muted": True}, {"transfer": "pending"}])
def test_silence_that_is_not_the_agents_to_break_is_left_alone(state):
    fillers = {"texts": ["Einen Moment."], "after_ms": 500}
    line = TurnsLine(Capabilities(), ready={"Einen Moment.": pcm(4000, 9)}, fillers=fillers, idle={"after_s": 3})
    line.bridge.set_state(CallState(**state))
    line.run(60 * 50)
    assert (line.asked, line.escalated) == ([], [])  # nobody is asked whether they are there, or hung up on
    line.emit(ResponseStarted("r"), ToolRequested("r", "t", "slow", "{}"), ResponseEnded("r", "completed"))
    line.run(60)
    assert not line.played
    line.bridge.set_state(CallState())
    line.run(60)
    assert line.played[9] == 4000


def test_a_session_that_takes_over_a_held_call_leaves_it_alone_from_the_start():
    line = TurnsLine(Capabilities(), state=CallState(held=True), idle={"after_s": 3})
    line.run(20 * 50)
    assert line.asked == []


def test_the_next_model_is_told_nothing_of_a_filler():
    about = {"org": "o", "call": "c", "at": datetime.now(UTC), "epoch": 1}
    past = [
        ToolCalled(event_id="1", tool_call_id="t", name="slow", arguments={}, **about),
        AgentText(event_id="2", item="local-1", from_sample=0, text="Einen Moment.", local=True, **about),
        AgentTurn(
            event_id="3", item="local-1", response="local-1", text="Einen Moment.", heard_text="Einen Moment.",
            audio_ms=500, heard_ms=500, local=True, **about,
        ),
    ]  # fmt: skip
    rebuilt = rebuild(past, {1: 9000})
    assert isinstance(rebuilt.items[0], CalledTool)
    assert rebuilt.go_on is GoOn.ANSWER


def test_a_machine_that_takes_an_outbound_call_is_noticed_and_told():
    line = TurnsLine(Capabilities(), "outbound", answering_machine={"then": "hang_up"})
    greeting = comfort_noise(4000, 8000, -20.0)
    for at in range(0, len(greeting), 320):
        line.now += 0.02
        line.bridge.uplink(AudioFrame(Codec.of_rate(8000).value, 0, 1, 0, 0, greeting[at : at + 320], 0), line.now)
    (found,) = line.of_kind("call.answered_by")
    assert (found.who, found.why) == ("machine", "greeting")
    assert line.escalated == [HangUp(Why.MACHINE)]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(40, 4000)),
        st.tuples(st.just("run"), st.integers(1, 40)),
        st.tuples(st.sampled_from(["starts", "stops", "discarded", "ends"]), st.just(0)),
        st.tuples(st.just("words"), st.sampled_from([0, 1])),
        st.tuples(st.just("sound"), st.integers(0, 15)),
        st.tuples(st.just("sound"), st.integers(0, 15)),
    ),
    min_size=5,
    max_size=50,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_the_model_believes_what_the_ear_heard_whatever_the_caller_does(steps):  # noqa: PLR0912  one flat dispatch
    line = TurnsLine(turn_taking={"barge_in": "local", "barge_in_min_ms": 100, "silence_ms": 100})
    number, open_response, received, turn, stopped = 0, None, {}, 0, []
    speaking = None
    for step, count in steps:
        match step:
            case "say":
                if open_response is None:
                    number += 1
                    open_response = f"r{number}"
                    line.emit(ResponseStarted(open_response, True))
                value = number % 30000
                samples = count + -count % 8  # whole milliseconds
                if not line.bridge.turn.floor.is_dead(open_response):
                    received[value] = received.get(value, 0) + samples
                line.emit(AudioDelta(open_response, f"i{number}", 0, pcm(samples, value)))
            case "ends" if open_response is not None:
                line.emit(ResponseEnded(open_response, "completed", "", (f"i{number}",)))
                open_response = None
            case "run":
                line.run(count)
            case "starts" if speaking is None:
                turn += 1
                speaking = f"c{turn}"
                line.emit(SpeechStarted(speaking))
            case "stops" if speaking is not None:
                line.emit(SpeechStopped(speaking))
                stopped.append(speaking)
                speaking = None
            case "discarded" if speaking is not None:
                line.emit(SpeechDiscarded(speaking))
                speaking = None
            case "sound" if speaking is None:
                turn += 1
                line.emit(SpeechStarted(f"c{turn}"))
                line.run(count % 4)
                line.emit(SpeechStopped(f"c{turn}"))
                line.run(count // 4)
                line.emit(CallerTranscript(f"c{turn}", "Moment bitte" if count % 2 else "mhm"))
            case "words" if stopped:
                line.emit(CallerTranscript(stopped.pop(0), "Moment bitte" if count else "mhm"))
    if open_response is not None:
        line.emit(ResponseEnded(open_response, "completed", "", (f"i{number}",)))
    line.run(100)  # every verdict is in
    if speaking is not None:
        line.emit(SpeechStopped(speaking))
    line.run(120 + sum(received.values()) // 160)
    for value, count in received.items():
        assert abs(line.told(f"i{value}", count) - line.played[value]) < 8, (value, line.asked)
    assert not line.bridge.playout.busy
    assert line.bridge.turn.phase is not Phase.PARKED
    assert None in line.asked or not any(said.text == "Moment bitte" for said in line.of_kind("caller.turn"))
    assert line.bridge.turn.spoken.remembered_items <= 1
