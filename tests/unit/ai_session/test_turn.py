"""The turn machine by scripts of (time, input) -> actions."""

from __future__ import annotations

from services.ai_session.actions import (
    CancelResponse,
    DeleteItem,
    Fail,
    FlushPlayout,
    HandOver,
    HangUp,
    NoteTrouble,
    PublishAgentTurn,
    PublishCallerSpoke,
    PublishCallerTurn,
    PublishLatency,
    RunTool,
    StartResponse,
    Truncate,
    Why,
)
from services.ai_session.backends.port import (
    CallerTranscript,
    Capabilities,
    ResponseEnded,
    ResponseStarted,
    SpeechStarted,
    SpeechStopped,
    ToolRequested,
)
from services.ai_session.history import GoOn
from services.ai_session.phrases import Phrases
from services.ai_session.playout import Drained, Flushed, Part, PartBegan, PartDone
from services.ai_session.speech_text import SpeechText
from services.ai_session.turn import Phase, TurnMachine, TurnRules


def machine(greeting=None, capabilities=None, **rules):
    text = SpeechText(8000)
    rules = TurnRules(Phrases.of(greeting, "Tschüss."), **rules)
    return TurnMachine(rules, capabilities or Capabilities(), text, 8000), text


def part(item="a", response="r", received=8000, heard=0, ended=False, sent=None):
    spans = heard if sent is None else sent
    return Part((item, 0), response, received=received, sent=spans, heard=heard, ended=ended, from_sample=0)


def speaking(**rules):
    """A machine in the middle of a response with one item."""
    turn, text = machine(**rules)
    turn.begin(GoOn.LISTEN, 0, 0.0)
    turn.on_backend(ResponseStarted("r"), 1.0)
    assert turn.accepts("r", "a", 1.1)
    text.add(("a", 0), "Eins zwei drei vier.")
    return turn, text


def kinds(actions):
    return [type(action) for action in actions]


def test_a_greeting_is_asked_for_first_but_not_after_a_takeover():
    turn, _ = machine("Guten Tag.")
    (start,) = turn.begin(GoOn.GREET, 0, 0.0)
    assert start.instructions.endswith("Guten Tag.")
    assert machine("Guten Tag.")[0].begin(GoOn.LISTEN, 0, 0.0) == []
    assert machine()[0].begin(GoOn.ANSWER, 0, 0.0) == [StartResponse(None)]
    assert "Apologise" in machine()[0].begin(GoOn.CONTINUE, 0, 0.0)[0].instructions
    assert "repeat" in machine()[0].begin(GoOn.ASK_TO_REPEAT, 0, 0.0)[0].instructions


def test_a_turn_goes_from_listening_over_thinking_to_speaking_and_back():
    turn, _ = machine()
    assert turn.on_backend(SpeechStarted("c"), 1.0) == [PublishCallerSpoke("c")]
    turn.on_backend(SpeechStopped("c"), 2.0)
    assert turn.phase is Phase.THINKING
    assert turn.on_backend(CallerTranscript("c", "Hallo"), 2.1) == [PublishCallerTurn("c", "Hallo")]
    turn.on_backend(ResponseStarted("r"), 2.1)
    assert turn.accepts("r", "a", 2.5)
    assert turn.phase is Phase.SPEAKING
    turn.latency.first_frame(2.5)
    (measured,) = turn.on_playout(PartBegan(part(heard=160)), 2.6)
    assert isinstance(measured, PublishLatency)
    assert round(measured.latency.stopped_to_heard_ms) == 600
    assert round(measured.latency.stopped_to_first_delta_ms) == 500
    turn.on_backend(ResponseEnded("r", "completed"), 3.0)
    assert turn.phase is Phase.SPEAKING
    (said,) = turn.on_playout(PartDone(part(heard=8000, ended=True)), 4.0)
    assert not said.interrupted
    turn.on_playout(Drained(), 4.0)
    assert turn.phase is Phase.LISTENING


def test_a_barge_in_flushes_at_once_and_truncates_when_the_position_is_known():
    turn, _ = speaking()
    turn.on_playout(PartBegan(part(heard=160)), 1.2)
    assert turn.on_backend(SpeechStarted("c"), 1.5) == [PublishCallerSpoke("c"), FlushPlayout()]
    assert not turn.accepts("r", "a", 1.6)  # later deltas of the dead response
    turn.on_backend(ResponseEnded("r", "cancelled", "turn_detected", ("a",)), 1.6)
    actions = turn.on_playout(Flushed((part(heard=4000),)), 1.7)
    assert actions[0] == Truncate("a", 0, 500)
    assert isinstance(actions[1], PublishAgentTurn)
    assert (actions[1].interrupted, actions[1].heard_ms, actions[1].heard_text) == (True, 500, "Eins")


def test_a_truncation_never_exceeds_what_was_received_and_never_is_zero():
    turn, _ = speaking()
    turn.on_backend(SpeechStarted("c"), 1.5)
    (truncate, _) = turn.on_playout(Flushed((part(received=4001, heard=4001),)), 1.7)
    assert truncate == Truncate("a", 0, 500)
    turn, _ = speaking()
    turn.on_backend(SpeechStarted("c"), 1.5)
    actions = turn.on_playout(Flushed((part(heard=0),)), 1.7)
    assert actions[0] == DeleteItem("a")


def test_an_item_that_was_heard_to_its_end_is_left_alone():
    turn, _ = speaking()
    turn.on_backend(ResponseEnded("r", "completed", "", ("a",)), 1.4)
    assert turn.on_backend(SpeechStarted("c"), 1.5)[1:] == [FlushPlayout()]
    (said,) = turn.on_playout(Flushed((part(heard=8000, ended=True),)), 1.7)
    assert isinstance(said, PublishAgentTurn)
    assert not said.interrupted


def test_of_two_items_the_heard_one_is_truncated_and_the_unheard_one_deleted():
    turn, _ = speaking()
    turn.accepts("r", "b", 1.2)
    turn.on_playout(PartBegan(part(heard=160)), 1.2)
    turn.on_backend(SpeechStarted("c"), 1.5)
    actions = turn.on_playout(Flushed((part(heard=4000, ended=True), part("b", heard=0))), 1.7)
    assert [a for a in actions if not isinstance(a, PublishAgentTurn)] == [Truncate("a", 0, 500), DeleteItem("b")]
    assert turn.on_backend(ResponseEnded("r", "cancelled", "", ("a", "b")), 1.8) == []


def test_an_item_that_appears_after_the_barge_in_is_deleted_when_its_response_ends():
    turn, _ = speaking()
    turn.on_backend(SpeechStarted("c"), 1.5)
    turn.on_playout(Flushed((part(heard=4000),)), 1.6)
    assert not turn.accepts("r", "late", 1.6)
    assert turn.on_backend(ResponseEnded("r", "cancelled", "", ("a", "late")), 1.7) == [DeleteItem("late")]


def test_an_unheard_item_is_judged_only_when_the_flush_has_said_where_playback_stopped():
    turn, _ = speaking()
    turn.on_backend(SpeechStarted("c"), 1.5)
    # The cancelled response ends before the gateway answers; the first 100 ms play meanwhile.
    assert turn.on_backend(ResponseEnded("r", "cancelled", "", ("a", "b")), 1.51) == []
    actions = turn.on_playout(Flushed((part(heard=800),)), 1.55)
    assert [a for a in actions if not isinstance(a, PublishAgentTurn)] == [Truncate("a", 0, 100), DeleteItem("b")]


def test_a_response_without_audio_is_dead_at_once_and_needs_no_flush():
    turn, _ = machine()
    turn.on_backend(ResponseStarted("r"), 1.0)
    assert turn.on_backend(SpeechStarted("c"), 1.5) == [PublishCallerSpoke("c")]
    assert not turn.accepts("r", "a", 1.6)


def test_a_backend_that_does_not_interrupt_itself_is_told_to_cancel():
    turn, _ = speaking(capabilities=Capabilities(server_interrupts=False))
    actions = turn.on_backend(SpeechStarted("c"), 1.5)
    assert actions == [PublishCallerSpoke("c"), FlushPlayout(), CancelResponse("r")]


def test_an_agent_that_may_not_be_interrupted_goes_on():
    turn, _ = speaking(interruptible=False)
    assert turn.on_backend(SpeechStarted("c"), 1.5) == [PublishCallerSpoke("c")]
    assert turn.accepts("r", "a", 1.6)


def test_tools_keep_the_turn_thinking():
    turn, _ = machine()
    turn.on_backend(ResponseStarted("r"), 1.0)
    assert turn.on_backend(ToolRequested("r", "t", "n", "{}"), 1.1) == [RunTool("t", "n", "{}")]
    turn.on_backend(ResponseEnded("r", "completed"), 1.1)
    assert turn.phase is Phase.THINKING
    assert turn.drain(5, 1.2) == []  # not a pause
    turn.tool_done(100, 1.3)


def test_a_failed_response_is_repeated_with_pauses_and_the_third_gives_up():
    turn, _ = machine()
    turn.begin(GoOn.LISTEN, 0, 0.0)
    now = 1.0
    for _ in range(2):
        turn.on_backend(ResponseStarted("r"), now)
        assert kinds(turn.on_backend(ResponseEnded("r", "failed", "busy"), now)) == [NoteTrouble]
        assert turn.tick(now + 0.1) == []
        assert turn.tick(now + 1.1) == [StartResponse(None)]
        now += 2
    turn.on_backend(ResponseStarted("r"), now)
    assert kinds(turn.on_backend(ResponseEnded("r", "failed", "busy"), now)) == [NoteTrouble, Fail]


def test_the_call_ends_politely_after_the_last_words_were_heard():
    turn, _ = speaking(max_duration_s=10)
    (goodbye,) = turn.tick(10.0)
    assert goodbye.instructions.endswith("Tschüss.")
    turn.on_backend(ResponseEnded("r", "completed"), 10.1)
    assert turn.on_playout(Drained(), 10.2) == []  # that was the answer before
    turn.on_backend(ResponseStarted("bye", asked=True), 10.3)
    turn.accepts("bye", "b", 10.4)
    assert turn.on_backend(SpeechStarted("c"), 10.5) == [PublishCallerSpoke("c")]  # no interruption any more
    turn.on_backend(ResponseEnded("bye", "completed"), 10.6)
    assert turn.on_playout(Drained(), 11.0) == [HangUp(Why.MAX_DURATION)]
    assert turn.tick(40.0) == []


def test_the_call_ends_at_the_latest_15_s_after_its_time():
    turn, _ = speaking(max_duration_s=10)
    turn.tick(10.0)
    assert turn.tick(24.9) == []
    assert turn.tick(25.1) == [HangUp(Why.MAX_DURATION)]


def test_talk_before_a_takeover_counts_towards_the_duration():
    turn, _ = machine(max_duration_s=100)
    turn.begin(GoOn.LISTEN, 95, 0.0)
    assert turn.tick(4.0) == []
    assert kinds(turn.tick(5.1)) == [StartResponse]


def test_a_spent_budget_ends_the_call_politely():
    turn, _ = machine(budget_usd=1.0)
    turn.begin(GoOn.LISTEN, 0, 0.0)
    assert turn.spent(0.6, 1.0) == []
    assert kinds(turn.spent(0.6, 2.0)) == [StartResponse]


def test_a_drain_waits_for_the_pause_but_not_for_ever():
    turn, _ = speaking()
    assert turn.drain(5, 2.0) == []
    turn.on_backend(ResponseEnded("r", "completed"), 2.1)
    assert turn.on_playout(Drained(), 3.0) == [HandOver()]
    assert turn.tick(4.0) == []
    turn, _ = speaking()
    turn.drain(5, 2.0)
    assert turn.tick(6.9) == []
    assert turn.tick(7.1) == [HandOver()]


def test_a_silent_model_is_reconnected():
    turn, _ = machine()
    turn.begin(GoOn.ANSWER, 0, 0.0)
    assert turn.tick(19.0) == []
    (fail,) = turn.tick(20.5)
    assert fail.reconnect


def test_keys_are_told_to_the_model_as_a_group():
    turn, _ = machine()
    turn.begin(GoOn.LISTEN, 0, 0.0)
    turn.pressed("4", 1.0)
    turn.pressed("2", 2.0)
    assert turn.tick(3.0) == []
    assert "42" in turn.tick(3.6)[0].instructions


def test_what_a_lost_connection_cut_off_counts_as_interrupted():
    turn, _ = speaking()
    turn.backend_lost()
    (said,) = turn.on_playout(PartDone(part(heard=8000, ended=True)), 2.0)
    assert said.interrupted
