"""Turns made of streams: scripts of sound and words, and what the session is told."""

from libs.audio.tone import silence, tone
from services.ai_session.backends.live_config import MOST_MESSAGES, commentary, messages, replay
from services.ai_session.backends.live_tools import LiveTools
from services.ai_session.backends.live_turns import NO_WORDS_S, SILENT_S, UNANSWERED_S, Comment, LiveTurns
from services.ai_session.backends.port import (
    AudioDelta,
    AudioEnded,
    CallerTranscript,
    ResponseEnded,
    ResponseStarted,
    SpeechDiscarded,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    TextEnded,
)
from services.ai_session.history import CalledTool, Said, ToolOutput
from services.ai_session.phrases import Verbatim

VOICE, QUIET = tone(440, 20, 8000, -20), silence(20, 8000)


class Script:
    def __init__(self):
        self.turns = LiveTurns(8000, 500, "x")
        self.now = 0.0
        self.out = []

    def run(self, seconds, *, agent=False, caller=False, busy=False):
        """Time passes; agent and caller speak, or do not."""
        found = []
        for _ in range(round(seconds * 50)):
            self.now += 0.02
            found += self.turns.caller(VOICE if caller else QUIET, self.now)
            found += self.turns.audio(VOICE if agent else QUIET, self.now)
            found += self.turns.tick(self.now, busy=busy)
        self.out += found
        return told(found)

    def at_ms(self):
        return int(self.now * 1000)

    def said(self, words):
        self.out += self.turns.said(words, self.at_ms())

    def heard(self, words, start_ms):
        found = list(self.turns.heard(words, start_ms, self.now))
        self.out += found
        return found

    def ask(self, *pieces):
        found = self.turns.ask(pieces, self.now)
        self.out += found
        return found


def told(events):
    """All but audio, of which one delta stands for many."""
    found = []
    for event in events:
        if not isinstance(event, AudioDelta) or not found or not isinstance(found[-1], AudioDelta):
            found.append(event)
    return found


def kinds(events):
    return [type(event) for event in events]


def ended(events):
    return [event.status for event in events if isinstance(event, ResponseEnded)]


def test_a_talkspurt_is_a_response_with_its_words():
    script = Script()
    script.said("Guten ")
    assert script.run(0.5, agent=True)[:3] == [
        ResponseStarted("live-x-1"), TextDelta("live-x-1", "live-x-1-item", 0, "Guten "), script.out[2]
    ]  # fmt: skip
    script.said("Tag.")
    assert kinds(script.run(1.0)) == [AudioDelta, TextEnded, AudioEnded, ResponseEnded]
    assert ended(script.out) == ["completed"]
    assert script.out[-1].items == ("live-x-1-item",)
    assert "".join(event.text for event in script.out if isinstance(event, TextDelta)) == "Guten Tag."


def test_what_was_asked_for_begins_at_once_and_requests_wait_for_each_other():
    script = Script()
    assert script.ask("Eins.") == [ResponseStarted("live-x-1", asked=True), Comment(("Eins.",))]
    assert script.ask("Zwei.", "Drei.") == []
    script.run(0.5)
    script.run(0.5, agent=True)
    events = script.run(1.0)
    assert kinds(events) == [AudioDelta, TextEnded, AudioEnded, ResponseEnded, ResponseStarted, Comment]
    assert events[-1] == Comment(("Zwei.", "Drei."))


def test_a_request_that_stays_silent_has_failed_unless_somebody_works_on_it():
    script = Script()
    script.ask("Eins.")
    assert script.run(SILENT_S + 1, busy=True) == []
    (failed,) = script.run(SILENT_S + 0.5)
    assert failed.status == "failed"


def test_the_callers_words_belong_to_the_turn_in_whose_time_they_fall():
    script = Script()
    script.run(1.0)
    first_ms = script.at_ms()
    assert kinds(script.run(0.5, caller=True)) == [SpeechStarted]
    assert kinds(script.run(0.6)) == [SpeechStopped]
    second_ms = script.at_ms()
    script.run(0.5, caller=True)
    script.heard("Zwanzig ", first_ms)
    script.heard("bitte.", second_ms)
    script.heard("Bögen.", first_ms + 200)
    events = script.run(1.5)
    assert [event.text for event in events if isinstance(event, CallerTranscript)] == ["Zwanzig Bögen.", "bitte."]


def test_words_without_a_sound_make_a_turn_and_a_sound_without_words_is_none():
    script = Script()
    began, *_ = script.heard("Ja.", 500)
    assert kinds(script.run(1.0)) == [SpeechStopped, CallerTranscript]
    assert isinstance(began, SpeechStarted)
    script.run(0.4, caller=True)
    events = script.run(NO_WORDS_S + 1)
    assert kinds(events) == [SpeechStopped, SpeechDiscarded]


def test_a_model_that_yields_to_the_caller_was_interrupted():
    script = Script()
    script.run(1.0, agent=True)
    script.run(0.2, agent=True, caller=True)
    script.run(0.8, caller=True)
    assert ended(script.out) == ["cancelled"]


def test_a_model_that_talks_on_over_a_back_channel_was_not():
    script = Script()
    script.run(1.0, agent=True)
    script.run(0.2, agent=True, caller=True)
    script.run(1.0, agent=True)
    script.run(1.0)
    assert ended(script.out) == ["completed"]


def test_a_response_that_is_given_up_is_not_passed_on_until_the_voice_pauses():
    script = Script()
    script.run(1.0, agent=True)
    assert ended(script.turns.give_up("live-x-1", script.now)) == ["cancelled"]
    script.ask("Auf Wiederhören.")
    assert script.run(1.0, agent=True) == []
    script.run(0.3)
    events = script.run(0.5, agent=True)
    assert kinds(events) == [AudioDelta]
    assert events[0].response == "live-x-2"


def test_a_turn_that_is_not_answered_keeps_nobody_waiting():
    script = Script()
    script.run(0.5, caller=True)
    script.heard("Moment.", 100)
    script.run(0.6)
    events = script.run(UNANSWERED_S + 0.5)
    assert kinds(events) == [CallerTranscript, ResponseStarted, ResponseEnded]
    assert events[-1].status == "cancelled"
    assert script.run(20) == []


def test_the_chat_model_goes_on_when_it_is_done_and_all_outputs_are_in():
    tools = LiveTools()
    tools.delegated()
    tools.called("a")
    tools.called("b")
    assert not tools.returned("a")
    tools.delegated()  # another event of the same response
    assert not tools.over()
    assert tools.is_busy
    assert tools.returned("b")
    assert not tools.is_busy
    tools.delegated()
    assert not tools.over()


def test_history_is_text_and_calls_go_to_the_chat_model():
    history = [
        Said("user", "Zehn Bögen."),
        CalledTool("call_1", "order_add", '{"n": 10}'),
        ToolOutput("call_1", '{"ok": true}'),
        Said("assistant", "Notiert."),
    ]
    told = messages(history)
    assert [message["role"] for message in told] == ["user", "developer", "developer", "assistant"]
    assert "call_1" in told[1]["content"][0]["text"]
    assert [item["type"] for item in replay(history)] == ["function_call", "function_call_output"]
    assert len(messages([Said("user", "x")] * 300)) == MOST_MESSAGES
    assert len(messages([Said("user", "x" * 5000)] * 30)) == 4


def test_long_texts_are_commented_in_pieces_that_the_api_takes():
    text = "Das ist ein Satz mit einigen Wörtern. " * 100
    pieces = commentary(Verbatim(text))
    assert all(len(piece) <= 1400 for piece in pieces)
    assert "".join(pieces).endswith(text)
    assert all(piece.rstrip().endswith(".") for piece in pieces)
    assert commentary(None)[0]
