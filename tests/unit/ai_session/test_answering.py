"""Who asks a model for its answer that does not answer by itself, by scripts of (time, input) -> actions."""

from __future__ import annotations

import pytest

from services.ai_session.actions import PublishCallerSpoke, PublishCallerTurn, StartResponse
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
