"""Who took an outbound call: frames and words in, findings and actions out."""

from __future__ import annotations

import pytest

from libs.audio.tone import comfort_noise, silence, tone
from services.ai_session.actions import CancelResponse, FlushPlayout, HangUp, StartResponse, Why
from services.ai_session.answering_machine import Finding, Found, MachineWatch, is_typical
from services.ai_session.backends.port import (
    Capabilities,
    ResponseEnded,
    ResponseStarted,
    SpeechStarted,
    SpeechStopped,
)
from services.ai_session.history import GoOn
from services.ai_session.phrases import Phrases, Verbatim
from services.ai_session.playout import Drained
from services.ai_session.speech_text import SpeechText
from services.ai_session.turn import TurnMachine
from services.ai_session.turn_rules import TurnRules


def speech(ms):
    """Loud, and of many frequencies."""
    return comfort_noise(ms, 8000, -20.0, seed=ms)


def quiet(ms):
    return comfort_noise(ms, 8000, -60.0, seed=ms)


def beep(ms, hz=1000.0):
    return tone(hz, ms, 8000, -12.0)


def hears(watch, *sounds):
    """What was found out, with the second at which it was."""
    pcm, found = b"".join(sounds), []
    for number, at in enumerate(range(0, len(pcm) - 319, 320)):
        finding = watch.frame(pcm[at : at + 320])
        if finding is not None:
            found.append((round((number + 1) * 0.02, 1), finding))
    return found


def test_a_short_hello_is_a_persons():
    found = hears(MachineWatch(8000), quiet(800), speech(600), quiet(4000))
    assert [finding for _, finding in found] == [Finding(Found.PERSON, "short_answer")]


def test_somebody_who_says_nothing_is_taken_for_a_person():
    assert hears(MachineWatch(8000), silence(6000, 8000)) == [(4.0, Finding(Found.PERSON, "silence"))]


def test_a_long_greeting_is_a_machines_which_is_ready_after_its_tone():
    found = hears(MachineWatch(8000), quiet(500), speech(4000), quiet(600), speech(1500), beep(400), quiet(1000))
    assert [finding for _, finding in found] == [Finding(Found.MACHINE, "greeting"), Finding(Found.READY, "tone")]
    assert found[1][0] == pytest.approx(7.0, abs=0.2)


def test_short_pauses_do_not_end_a_greeting_and_long_ones_do():
    together = hears(MachineWatch(8000), speech(1200), quiet(200), speech(1400))
    assert [finding.found for _, finding in together] == [Found.MACHINE]
    apart = hears(MachineWatch(8000), speech(1200), quiet(800), speech(1200), quiet(3000))
    assert [finding.found for _, finding in apart] == [Found.PERSON]


@pytest.mark.parametrize("hz", [425.0, 800.0, 1000.0, 1400.0])
def test_a_tone_gives_a_machine_away(hz):
    found = hears(MachineWatch(8000), speech(900), quiet(200), beep(300, hz), quiet(500))
    assert [finding for _, finding in found] == [Finding(Found.MACHINE, "tone"), Finding(Found.READY, "tone")]


def test_a_machine_without_a_tone_is_ready_after_a_silence():
    found = hears(MachineWatch(8000), speech(3000), quiet(4000))
    assert [finding for _, finding in found] == [Finding(Found.MACHINE, "greeting"), Finding(Found.READY, "silence")]


def test_typical_words_give_a_machine_away_once():
    watch = MachineWatch(8000)
    hears(watch, speech(1500), quiet(200))
    assert watch.words("Bitte sprechen Sie nach dem Signalton.") == Finding(Found.MACHINE, "words")
    assert watch.words("Please leave a message after the tone.") is None
    assert is_typical("I'm sorry, I can't come to the phone right now.")
    assert not is_typical("Müller, guten Tag?")


def machine(message=None):
    rules = TurnRules(Phrases.of("Guten Tag, hier ist Muster.", "Tschüss."), message=message)
    turn = TurnMachine(rules, Capabilities(), SpeechText(8000), 8000)
    turn.begin(GoOn.GREET, 0, 0.0)
    turn.on_backend(ResponseStarted("greeting", asked=True), 0.2)
    turn.accepts("greeting", "a", 0.3)
    return turn


def test_a_person_is_spoken_with_as_ever():
    turn = machine("Bitte rufen Sie zurück.")
    assert turn.answered_by(Found.PERSON, 2.0) == []


def test_without_a_message_a_machine_is_hung_up_on_at_once():
    turn = machine()
    assert turn.answered_by(Found.MACHINE, 3.0) == [HangUp(Why.MACHINE)]


def test_a_message_is_left_when_the_machine_is_ready_and_nothing_else_is_said():
    turn = machine("Bitte rufen Sie zurück.")
    assert turn.answered_by(Found.MACHINE, 3.0) == [FlushPlayout(), CancelResponse("greeting")]
    turn.on_backend(ResponseEnded("greeting", "cancelled"), 3.1)
    turn.on_backend(SpeechStarted("c"), 3.2)
    turn.on_backend(SpeechStopped("c"), 6.0)
    turn.on_backend(ResponseStarted("chat"), 6.1)  # the server answers the machine's greeting
    assert not turn.accepts("chat", "b", 6.2)
    turn.on_backend(ResponseEnded("chat", "cancelled"), 6.3)
    assert turn.answered_by(Found.READY, 7.0) == [StartResponse(Verbatim("Bitte rufen Sie zurück."))]
    turn.on_backend(ResponseStarted("message", asked=True), 7.2)
    assert turn.accepts("message", "m", 7.4)
    turn.on_backend(ResponseEnded("message", "completed"), 7.6)
    assert turn.on_playout(Drained(), 11.0) == [HangUp(Why.MACHINE)]


def test_a_message_of_a_minute_is_left_completely():
    turn = machine("Bitte rufen Sie zurück. " * 30)
    turn.answered_by(Found.MACHINE, 3.0)
    turn.on_backend(ResponseEnded("greeting", "cancelled"), 3.1)
    turn.answered_by(Found.READY, 7.0)
    turn.on_backend(ResponseStarted("message", asked=True), 7.2)
    turn.accepts("message", "m", 7.4)
    turn.on_backend(ResponseEnded("message", "completed"), 10.0)
    assert [action for tenth in range(100, 670) for action in turn.tick(tenth / 10)] == []
    assert turn.on_playout(Drained(), 67.0) == [HangUp(Why.MACHINE)]


def test_a_machine_hears_the_message_and_no_answer_to_its_greeting():
    turn = machine("Bitte rufen Sie zurück.")
    turn.answered_by(Found.MACHINE, 3.0)
    turn.on_backend(ResponseEnded("greeting", "cancelled"), 3.1)
    turn.answered_by(Found.READY, 7.0)
    assert turn.on_backend(ResponseStarted("vad"), 7.1) == [CancelResponse("vad")]  # the server heard the tone end
    assert not turn.accepts("vad", "v", 7.2)
    turn.on_backend(ResponseEnded("vad", "cancelled"), 7.3)
    turn.on_backend(ResponseStarted("message", asked=True), 7.4)
    assert turn.accepts("message", "m", 7.5)
    turn.on_backend(ResponseEnded("message", "completed"), 7.6)
    assert turn.on_backend(ResponseStarted("late", asked=True), 7.7) == [CancelResponse("late")]
    assert not turn.accepts("late", "l", 7.8)
    turn.on_backend(ResponseEnded("late", "cancelled"), 7.9)
    assert turn.on_playout(Drained(), 9.0) == [HangUp(Why.MACHINE)]
