"""Who asks a model for its answer that does not answer by itself, by scripts of (time, input) -> actions."""

from __future__ import annotations

import pytest

from libs.contracts.agent import Fillers
from services.ai_session.actions import ParkPlayout, PublishCallerSpoke, PublishCallerTurn, ResumePlayout, StartResponse
from services.ai_session.answering import TRANSCRIPT_S
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
from services.ai_session.phrases import Phrases
from services.ai_session.playout import Drained
from services.ai_session.speech_text import SpeechText
from services.ai_session.turn import Phase, TurnMachine
from services.ai_session.turn_rules import TurnRules

BY_SOUND = Capabilities(server_interrupts=False, answers=False)
BY_WORDS = Capabilities(server_interrupts=False, answers=False, needs_transcript=True)
ANSWER = StartResponse(None)
REPEAT = StartResponse(Phrases().not_understood)


def machine(capabilities=BY_WORDS, **rules):
    turn = TurnMachine(TurnRules(Phrases.of(None, "Tschüss."), **rules), capabilities, SpeechText(8000), 8000)
    turn.begin(GoOn.LISTEN, 0, 0.0)
    return turn


def test_a_model_that_hears_is_asked_as_soon_as_the_caller_stops():
    turn = machine(BY_SOUND)
    assert turn.on_backend(SpeechStarted("c"), 1.0) == [PublishCallerSpoke("c")]
    assert turn.on_backend(SpeechStopped("c"), 2.0) == [ANSWER]
    assert turn.phase is Phase.THINKING
    assert turn.on_backend(CallerTranscript("c", "Hallo"), 2.4) == [PublishCallerTurn("c", "Hallo")]
    assert turn.phase is Phase.THINKING


def test_a_model_that_reads_is_asked_when_the_words_are_there():
    turn = machine()
    turn.on_backend(SpeechStarted("c"), 1.0)
    assert turn.on_backend(SpeechStopped("c"), 2.0) == []
    assert turn.phase is Phase.THINKING
    assert turn.on_backend(CallerTranscript("c", "Hallo"), 2.4) == [PublishCallerTurn("c", "Hallo"), ANSWER]
    assert turn.tick(3.0) == []
    turn.on_backend(ResponseStarted("r", asked=True), 3.1)
    turn.on_backend(ResponseEnded("r", "completed"), 3.2)


@pytest.mark.parametrize("text", ["", "  "])
def test_empty_words_get_no_answer(text):
    turn = machine()
    turn.on_backend(SpeechStarted("c"), 1.0)
    turn.on_backend(SpeechStopped("c"), 2.0)
    assert turn.on_backend(CallerTranscript("c", text), 2.4) == [PublishCallerTurn("c", text)]
    assert turn.phase is Phase.LISTENING
    assert turn.tick(60.0) == []


def test_what_was_no_speech_gets_no_answer():
    for capabilities in (BY_WORDS, BY_SOUND):
        turn = machine(capabilities)
        turn.on_backend(SpeechStarted("c"), 1.0)
        assert turn.on_backend(SpeechDiscarded("c"), 1.2) == []
        assert turn.phase is Phase.LISTENING
        assert turn.tick(60.0) == []


def test_words_that_could_not_be_transcribed_are_asked_for_again():
    turn = machine()
    turn.on_backend(SpeechStarted("c"), 1.0)
    turn.on_backend(SpeechStopped("c"), 2.0)
    actions = turn.on_backend(CallerTranscript("c", "", failed=True), 2.4)
    assert actions == [PublishCallerTurn("c", "", failed=True), REPEAT]


def test_a_transcript_that_never_comes_is_not_waited_for_for_ever():
    turn = machine()
    turn.on_backend(SpeechStarted("c"), 1.0)
    turn.on_backend(SpeechStopped("c"), 2.0)
    assert turn.tick(2.0 + TRANSCRIPT_S - 0.1) == []
    assert turn.tick(2.0 + TRANSCRIPT_S) == [REPEAT]
    assert turn.tick(60.0) != [REPEAT]


def test_a_caller_who_goes_on_before_the_words_are_there_gets_one_answer_to_all_of_it():
    turn = machine()
    turn.on_backend(SpeechStarted("c1"), 1.0)
    turn.on_backend(SpeechStopped("c1"), 2.0)
    turn.on_backend(SpeechStarted("c2"), 2.2)
    assert turn.on_backend(CallerTranscript("c1", "Drei Kisten"), 2.4) == [PublishCallerTurn("c1", "Drei Kisten")]
    turn.on_backend(SpeechStopped("c2"), 3.0)
    assert turn.on_backend(CallerTranscript("c2", "und Wasser"), 3.3)[1:] == [ANSWER]


def test_after_the_goodbye_was_asked_for_no_answer_is():
    turn = machine(max_duration_s=10)
    turn.on_backend(SpeechStarted("c"), 9.0)
    turn.tick(10.0)
    turn.on_backend(SpeechStopped("c"), 10.5)
    assert turn.on_backend(CallerTranscript("c", "Moment"), 10.8) == [PublishCallerTurn("c", "Moment")]


def test_a_model_that_answers_by_itself_is_never_asked():
    turn = machine(Capabilities())
    turn.on_backend(SpeechStarted("c"), 1.0)
    assert turn.on_backend(SpeechStopped("c"), 2.0) == []
    assert turn.on_backend(CallerTranscript("c", "Hallo"), 2.4) == [PublishCallerTurn("c", "Hallo")]
    assert turn.tick(3.0) == []


# -- an answer that has to be asked for again ----------------------------------------------------------------


def refused(capabilities=BY_WORDS, **rules):
    """The caller's question is not answered yet, because of the provider's limit: it may be asked again at 7 s."""
    turn = machine(capabilities, **rules)
    turn.on_backend(SpeechStarted("c"), 1.0)
    turn.on_backend(SpeechStopped("c"), 2.0)
    turn.on_backend(CallerTranscript("c", "Was kostet das?"), 2.4)
    turn.on_backend(ResponseStarted("r", True), 2.5)
    turn.on_backend(ResponseEnded("r", "failed", "rate_limit_exceeded: Please try again in 4.5s."), 2.5)
    return turn


def test_a_cough_does_not_take_the_place_of_the_question():
    turn = refused()
    turn.on_backend(SpeechStarted("cough"), 6.5)
    assert turn.tick(7.1) == []  # it may be more than a cough
    assert turn.on_backend(SpeechDiscarded("cough"), 7.2) == []
    assert turn.tick(7.3) == [ANSWER]


def test_a_back_channel_to_a_filler_does_not_take_the_place_of_the_question():
    rules = {"local_barge_in": True, "back_channels": ("okay",)}
    turn = refused(**rules, fillers=Fillers(texts=("Einen Moment.",), after_ms=1500))
    (filler,) = [action for tenth in range(25, 42) for action in turn.tick(tenth / 10)]
    turn.plays_local(filler.response)
    assert turn.on_backend(SpeechStarted("k"), 4.5)[1:] == [ParkPlayout()]
    turn.on_backend(SpeechStopped("k"), 5.4)
    assert turn.on_backend(CallerTranscript("k", "Okay."), 5.7)[1:] == [ResumePlayout()]
    turn.on_playout(Drained(), 6.0)
    assert turn.tick(7.1) == [ANSWER]


def test_who_says_more_meanwhile_gets_one_answer():
    turn = refused()
    turn.on_backend(SpeechStarted("d"), 5.0)
    turn.on_backend(SpeechStopped("d"), 6.0)
    asked = turn.on_backend(CallerTranscript("d", "Hallo?"), 6.4)[1:]
    asked += [action for tenth in range(65, 90) for action in turn.tick(tenth / 10)]
    assert asked == [ANSWER]


def test_a_response_that_fails_while_the_caller_coughs_is_asked_for_again():
    turn = machine(local_barge_in=True)
    turn.on_backend(ResponseStarted("r", True), 2.5)
    turn.on_backend(SpeechStarted("cough"), 2.6)
    turn.on_backend(ResponseEnded("r", "failed", "server_error: busy"), 2.7)
    assert turn.tick(3.5) == []
    turn.on_backend(SpeechDiscarded("cough"), 3.6)
    assert turn.tick(3.7) == [ANSWER]
