"""Local barge-in: what is an interruption and what is not, by scripts of (time, input) -> actions."""

from __future__ import annotations

import pytest

from services.ai_session.actions import (
    CancelResponse,
    FlushPlayout,
    HangUp,
    ParkPlayout,
    PublishAgentTurn,
    PublishCallerSpoke,
    PublishCallerTurn,
    ResumePlayout,
    StartResponse,
    Truncate,
    Why,
)
from services.ai_session.backends.port import (
    CallerTranscript,
    Capabilities,
    ResponseEnded,
    ResponseStarted,
    SpeechDiscarded,
    SpeechStarted,
    SpeechStopped,
)
from services.ai_session.history import GoOn
from services.ai_session.interruption import LONG_MS, VERDICT_S, BackChannels
from services.ai_session.phrases import Phrases
from services.ai_session.playout import Drained, Flushed, Parked, Part
from services.ai_session.speech_text import SpeechText
from services.ai_session.turn import Phase, TurnMachine
from services.ai_session.turn_rules import TurnRules

BY_SOUND = Capabilities(server_interrupts=False, answers=False)
BY_WORDS = Capabilities(server_interrupts=False, answers=False, needs_transcript=True)
ANSWER = StartResponse(None)
MANY = Parked(5000, open=False)


def part(heard, received=80_000):
    return Part(("a", 0), "r", received=received, sent=heard, heard=heard, from_sample=0)


def speaking(capabilities=BY_WORDS, *, ended=False, **rules):
    """The agent has said something for a second."""
    rules = {"back_channels": ("mhm", "ja", "ja genau", "oh"), "silence_ms": 500, "barge_in_min_ms": 300, **rules}
    rules = TurnRules(Phrases.of(None, "Tschüss."), local_barge_in=True, **rules)
    turn = TurnMachine(rules, capabilities, SpeechText(8000), 8000)
    turn.begin(GoOn.LISTEN, 0, 0.0)
    turn.on_backend(ResponseStarted("r", asked=True), 1.0)
    assert turn.accepts("r", "a", 1.1)
    if ended:
        turn.on_backend(ResponseEnded("r", "completed", "", ("a",)), 1.2)
    return turn


def sound(turn, item, starts, stops, parked=MANY):
    """A sound of the caller from `starts` on, whose end is told at `stops`; what that leads to at once."""
    actions = turn.on_backend(SpeechStarted(item), starts)
    turn.on_playout(parked, starts + 0.04)
    return actions + turn.on_backend(SpeechStopped(item), stops)


def said(turn, item, text, now, **more):
    return [a for a in turn.on_backend(CallerTranscript(item, text, **more), now) if type(a) is not PublishCallerTurn]


def test_the_voice_stops_at_the_first_sound_and_nothing_else_happens_yet():
    turn = speaking()
    assert turn.on_backend(SpeechStarted("c"), 2.0) == [PublishCallerSpoke("c"), ParkPlayout()]
    assert turn.phase is Phase.PARKED
    assert turn.accepts("r", "a", 2.1)  # what still comes waits with the rest
    assert turn.phase is Phase.PARKED
    assert turn.tick(2.2) == []


@pytest.mark.parametrize("text", ["Mhm.", "ja, genau", "Ja ja ja!", "", "mhm mhm", "Oh - ja."])
def test_a_back_channel_lets_the_agent_go_on_and_gets_no_answer(text):
    for capabilities in (BY_WORDS, BY_SOUND):
        turn = speaking(capabilities)
        assert ANSWER not in sound(turn, "c", 2.0, 3.2)
        assert said(turn, "c", text, 3.5) == [ResumePlayout()]
        assert turn.phase is Phase.SPEAKING
        turn.on_backend(ResponseEnded("r", "completed", "", ("a",)), 4.0)
        assert turn.on_playout(Drained(), 6.0) == []
        assert turn.phase is Phase.LISTENING
        assert turn.tick(20.0) == []


def test_words_interrupt_and_are_answered_when_it_is_known_what_was_heard():
    for capabilities in (BY_WORDS, BY_SOUND):
        turn = speaking(capabilities)
        sound(turn, "c", 2.0, 2.9)
        assert said(turn, "c", "Ja, aber Stopp!", 3.2) == [FlushPlayout(), CancelResponse("r")]
        truncate, told, answer = turn.on_playout(Flushed((part(8000),)), 3.24)
        assert (truncate, answer) == (Truncate("a", 0, 1000), ANSWER)
        assert isinstance(told, PublishAgentTurn)
        assert turn.phase is Phase.THINKING


def test_a_long_turn_interrupts_while_it_is_spoken():
    turn = speaking(BY_SOUND)
    turn.on_backend(SpeechStarted("c"), 2.0)
    sure_at = 2.0 + (LONG_MS + 500) / 1000
    assert turn.tick(sure_at - 0.05) == []
    assert turn.tick(sure_at + 0.05) == [FlushPlayout(), CancelResponse("r")]
    turn.on_playout(Flushed((part(8000),)), sure_at + 0.1)
    assert turn.on_backend(SpeechStopped("c"), 6.0) == [ANSWER]


def test_without_back_channels_the_minimum_is_enough():
    turn = speaking(BY_SOUND, back_channels=())
    turn.on_backend(SpeechStarted("c"), 2.0)
    assert turn.tick(2.75) == []
    assert turn.tick(2.85) == [FlushPlayout(), CancelResponse("r")]


def test_what_was_no_speech_lets_the_agent_go_on():
    turn = speaking()
    turn.on_backend(SpeechStarted("c"), 2.0)
    assert turn.on_backend(SpeechDiscarded("c"), 2.1) == [ResumePlayout()]
    assert turn.phase is Phase.SPEAKING


def test_a_lost_transcript_parks_nobody_for_ever_and_the_length_decides():
    short, longer = speaking(), speaking()
    sound(short, "c", 2.0, 2.7)  # 200 ms
    sound(longer, "c", 2.0, 3.0)  # 500 ms
    assert short.tick(2.7 + VERDICT_S - 0.1) == []
    assert short.tick(2.7 + VERDICT_S) == [ResumePlayout()]
    assert longer.tick(3.0 + VERDICT_S) == [FlushPlayout(), CancelResponse("r")]


def test_words_that_come_late_interrupt_all_the_same():
    turn = speaking()
    sound(turn, "c", 2.0, 2.7)
    assert turn.tick(4.0) == [ResumePlayout()]
    assert said(turn, "c", "Halt, nein!", 4.5) == [FlushPlayout(), CancelResponse("r")]
    assert turn.on_playout(Flushed((part(8000),)), 4.6)[-1] == ANSWER


def test_a_late_back_channel_is_none_of_the_agents_business():
    turn = speaking()
    sound(turn, "c", 2.0, 2.7)
    turn.tick(4.0)
    assert said(turn, "c", "mhm", 4.5) == []
    assert turn.tick(30.0) == []


def test_a_second_sound_before_the_verdict_on_the_first_keeps_the_voice_parked():
    turn = speaking()
    sound(turn, "c1", 2.0, 2.9)
    assert turn.on_backend(SpeechStarted("c2"), 3.0) == [PublishCallerSpoke("c2")]
    assert said(turn, "c1", "mhm", 3.2) == []
    turn.on_backend(SpeechStopped("c2"), 4.0)
    assert said(turn, "c2", "Moment", 4.3) == [FlushPlayout(), CancelResponse("r")]
    turn.on_playout(Flushed((part(8000),)), 4.4)


def test_the_first_sound_without_words_is_answered_with_the_second_that_has_them():
    turn = speaking()
    sound(turn, "c1", 2.0, 2.9)
    turn.on_backend(SpeechStarted("c2"), 3.0)
    turn.on_backend(SpeechStopped("c2"), 3.6)
    assert said(turn, "c2", "Stopp", 3.7) == [FlushPlayout(), CancelResponse("r")]
    assert ANSWER not in turn.on_playout(Flushed((part(8000),)), 3.8)
    assert said(turn, "c1", "Warten Sie", 3.9) == [ANSWER]


def test_a_yes_into_the_last_syllable_is_an_answer():
    turn = speaking(ended=True)
    sound(turn, "c", 2.0, 2.9, parked=Parked(150, open=False))
    assert said(turn, "c", "Ja.", 3.2) == [FlushPlayout()]
    assert turn.on_playout(Flushed((part(78_800),)), 3.3)[-1] == ANSWER


def test_when_all_was_heard_before_the_voice_stopped_the_turn_is_one_like_any_other():
    turn = speaking(ended=True)
    turn.on_backend(SpeechStarted("c"), 2.0)
    turn.on_playout(Parked(0, open=False), 2.04)
    assert turn.on_playout(Drained(), 2.04) == [ResumePlayout()]
    turn.on_backend(SpeechStopped("c"), 3.0)
    assert said(turn, "c", "Ja.", 3.3) == [ANSWER]


def test_a_caller_who_goes_on_before_the_answer_is_heard_gets_one_to_all_of_it():
    rules = TurnRules(Phrases(), local_barge_in=True, back_channels=("mhm",))
    turn = TurnMachine(rules, BY_WORDS, SpeechText(8000), 8000)
    turn.begin(GoOn.LISTEN, 0, 0.0)
    turn.on_backend(SpeechStarted("c1"), 1.0)
    turn.on_backend(SpeechStopped("c1"), 2.0)
    assert said(turn, "c1", "Drei Kisten", 2.3) == [ANSWER]
    turn.on_backend(ResponseStarted("r1", asked=True), 2.4)
    assert turn.on_backend(SpeechStarted("c2"), 2.5)[1:] == [ParkPlayout()]
    assert turn.accepts("r1", "a", 2.8)  # not heard: the voice is parked
    turn.on_backend(SpeechStopped("c2"), 3.5)
    assert said(turn, "c2", "und Wasser", 3.8) == [FlushPlayout(), CancelResponse("r1")]
    assert turn.on_playout(Flushed((Part(("a", 0), "r1", received=800),)), 3.9)[-1] == ANSWER


def test_a_cough_while_the_answer_is_made_costs_no_answer_and_no_time():
    turn = speaking()
    turn.on_playout(Drained(), 1.5)
    turn.on_backend(ResponseEnded("r", "completed"), 1.6)
    turn.on_backend(ResponseStarted("r2", asked=True), 2.0)
    assert turn.on_backend(SpeechStarted("c"), 2.1)[1:] == [ParkPlayout()]
    turn.accepts("r2", "b", 2.2)
    assert turn.on_backend(SpeechDiscarded("c"), 2.3) == [ResumePlayout()]
    assert turn.phase is Phase.SPEAKING


def test_a_response_that_begins_while_the_caller_speaks_is_not_heard_before_the_verdict():
    turn = speaking()
    turn.on_backend(ResponseEnded("r", "completed"), 1.2)
    turn.on_playout(Drained(), 1.5)
    turn.on_backend(SpeechStarted("c"), 2.0)
    assert turn.on_backend(ResponseStarted("r2", asked=True), 2.2) == [ParkPlayout()]  # after a tool, say
    turn.on_backend(SpeechStopped("c"), 3.0)
    assert said(turn, "c", "Und noch etwas", 3.3) == [ResumePlayout(), CancelResponse("r2"), ANSWER]


def test_a_response_without_audio_leaves_nothing_parked():
    turn = speaking()
    turn.on_playout(Drained(), 1.5)
    turn.on_backend(SpeechStarted("c"), 2.0)
    assert ResumePlayout() in turn.on_backend(ResponseEnded("r", "completed"), 2.2)
    turn.on_backend(SpeechStopped("c"), 3.0)
    assert said(turn, "c", "ja", 3.3) == [ANSWER]


def test_an_agent_that_is_not_to_be_interrupted_goes_on_and_answers_afterwards():
    turn = speaking(interruptible=False)
    assert turn.on_backend(SpeechStarted("c"), 2.0) == [PublishCallerSpoke("c")]
    turn.on_backend(SpeechStopped("c"), 3.0)
    assert said(turn, "c", "Stopp", 3.3) == [ANSWER]


def test_last_words_that_were_parked_are_said():
    turn = speaking(ended=True)
    turn.on_backend(SpeechStarted("c"), 2.0)
    assert turn.end_politely(Why.AGENT, 2.2) == [ResumePlayout()]
    assert turn.phase is Phase.SPEAKING
    assert turn.on_backend(SpeechStarted("c2"), 2.5) == [PublishCallerSpoke("c2")]
    assert turn.on_playout(Drained(), 4.0) == [HangUp(Why.AGENT)]


def test_when_the_model_is_lost_what_it_had_said_is_heard():
    turn = speaking()
    turn.on_backend(SpeechStarted("c"), 2.0)
    assert turn.backend_lost(2.1) == [ResumePlayout()]
    assert turn.phase is Phase.SPEAKING


def test_a_server_that_decides_for_itself_is_left_to_it():
    rules = TurnRules(Phrases(), local_barge_in=True)
    turn = TurnMachine(rules, Capabilities(), SpeechText(8000), 8000)
    turn.on_backend(ResponseStarted("r"), 1.0)
    turn.accepts("r", "a", 1.1)
    assert turn.on_backend(SpeechStarted("c"), 2.0) == [PublishCallerSpoke("c"), FlushPlayout()]


def test_back_channels_are_compared_by_words_alone():
    sounds = BackChannels(("Mhm", "ja genau", "ok"))
    assert sounds.are_all_of("MHM ... ja, genau! OK?")
    assert not sounds.are_all_of("genau")
    assert not sounds.are_all_of("ja genau nicht")
    assert not BackChannels(()).are_all_of("mhm")


def test_a_turn_that_was_shorter_than_the_silence_after_it_is_answered_all_the_same():
    for capabilities in (BY_WORDS, BY_SOUND):
        turn = speaking(capabilities)
        sound(turn, "c", 2.0, 2.3)
        assert said(turn, "c", "Stopp", 2.6) == [FlushPlayout(), CancelResponse("r")]
        assert turn.on_playout(Flushed((part(8000),)), 2.7)[-1] == ANSWER
