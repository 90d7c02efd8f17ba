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
from services.ai_session.memory import RecentIds
from services.ai_session.phrases import Phrases, Told, Verbatim
from services.ai_session.playout import Drained, Flushed, Part, PartBegan, PartDone
from services.ai_session.speech_text import SpeechText
from services.ai_session.turn import Phase, TurnMachine
from services.ai_session.turn_rules import TurnRules


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
    assert start.wish == Verbatim("Guten Tag.")
    assert machine("Guten Tag.")[0].begin(GoOn.LISTEN, 0, 0.0) == []
    assert machine()[0].begin(GoOn.ANSWER, 0, 0.0) == [StartResponse(None)]
    assert "Apologise" in machine()[0].begin(GoOn.CONTINUE, 0, 0.0)[0].wish
    assert "repeat" in machine()[0].begin(GoOn.ASK_TO_REPEAT, 0, 0.0)[0].wish


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
    assert turn.tool_done(1.3) == []
    assert turn.phase is Phase.THINKING  # the answer to the output is due
    assert turn.tick(1.4) == []  # still not a pause
    turn.on_backend(ResponseStarted("s", asked=True), 1.5)
    turn.accepts("s", "a", 1.6)
    turn.on_backend(ResponseEnded("s", "completed", "", ("a",)), 1.7)
    turn.on_playout(PartDone(part(response="s", heard=8000, ended=True)), 2.7)
    assert turn.on_playout(Drained(), 2.7) == [HandOver()]


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
    assert turn.tick(10.0) == []  # the answer under way may be finished
    assert turn.on_backend(ResponseEnded("r", "completed"), 10.1) == []
    (goodbye,) = turn.on_playout(Drained(), 10.2)
    assert goodbye.wish == Verbatim("Tschüss.")
    assert turn.tick(10.25) == []
    turn.on_backend(ResponseStarted("bye", asked=True), 10.3)
    turn.accepts("bye", "b", 10.4)
    assert turn.on_backend(SpeechStarted("c"), 10.5) == [PublishCallerSpoke("c")]  # no interruption any more
    turn.on_backend(ResponseEnded("bye", "completed"), 10.6)
    assert turn.on_playout(Drained(), 11.0) == [HangUp(Why.MAX_DURATION)]
    assert turn.tick(40.0) == []


def test_a_long_answer_is_cut_off_for_the_goodbye_which_is_heard():
    turn, _ = speaking(max_duration_s=10)
    assert turn.tick(10.0) == []
    assert turn.tick(14.9) == []
    flush, cancel, goodbye = turn.tick(15.0)
    assert (flush, cancel) == (FlushPlayout(), CancelResponse("r"))  # the server does not know that it is over
    assert goodbye.wish == Verbatim("Tschüss.")
    assert not turn.accepts("r", "a", 15.1)
    turn.on_playout(Flushed((part(heard=4000),)), 15.1)
    turn.on_playout(Drained(), 15.1)
    assert turn.on_backend(ResponseEnded("r", "cancelled", "client_cancelled", ("a",)), 15.2) == []
    turn.on_backend(ResponseStarted("bye", asked=True), 20.0)
    turn.accepts("bye", "b", 20.1)
    turn.on_backend(ResponseEnded("bye", "completed", "", ("b",)), 20.2)
    assert turn.tick(34.9) == []  # the 15 s count from its beginning
    assert turn.on_playout(Drained(), 34.9) == [HangUp(Why.MAX_DURATION)]


def test_an_answer_that_is_due_when_the_time_is_over_comes_before_the_goodbye():
    turn, _ = machine(max_duration_s=10)
    turn.begin(GoOn.LISTEN, 0, 0.0)
    turn.on_backend(ResponseStarted("r"), 9.0)
    turn.on_backend(ToolRequested("r", "t", "n", "{}"), 9.1)
    turn.on_backend(ResponseEnded("r", "completed"), 9.1)
    assert turn.tick(10.0) == []
    assert turn.tool_done(10.1) == []
    turn.on_backend(ResponseStarted("s", asked=True), 10.2)  # with the tool's output: not the goodbye
    turn.accepts("s", "a", 10.3)
    turn.on_backend(ResponseEnded("s", "completed", "", ("a",)), 10.4)
    assert kinds(turn.on_playout(Drained(), 11.0)) == [StartResponse]


def test_a_goodbye_that_does_not_begin_or_does_not_end_is_not_waited_for_longer_than_15_s():
    turn, _ = machine(max_duration_s=10)
    turn.begin(GoOn.LISTEN, 0, 0.0)
    assert kinds(turn.tick(10.0)) == [StartResponse]
    assert turn.tick(24.9) == []
    assert turn.tick(25.0) == [HangUp(Why.MAX_DURATION)]
    assert turn.tick(25.1) == []
    turn, _ = machine(max_duration_s=10)
    turn.begin(GoOn.LISTEN, 0, 0.0)
    turn.tick(10.0)
    turn.on_backend(ResponseStarted("bye", asked=True), 12.0)
    turn.accepts("bye", "b", 12.1)
    assert turn.tick(26.9) == []
    assert turn.tick(27.0) == [HangUp(Why.MAX_DURATION)]


def test_an_answer_of_the_turn_detection_is_not_taken_for_the_goodbye():
    turn, _ = machine(max_duration_s=10)
    turn.begin(GoOn.LISTEN, 0, 0.0)
    turn.tick(10.0)
    turn.on_backend(ResponseStarted("vad"), 10.1)
    turn.accepts("vad", "a", 10.2)
    turn.on_backend(ResponseEnded("vad", "completed", "", ("a",)), 10.3)
    assert turn.on_playout(Drained(), 11.0) == []


def test_a_failed_goodbye_is_asked_for_once_more_and_then_the_line_is_cut():
    turn, _ = machine(max_duration_s=10)
    turn.begin(GoOn.LISTEN, 0, 0.0)
    (goodbye,) = turn.tick(10.0)
    turn.on_backend(ResponseStarted("bye", asked=True), 10.1)
    assert kinds(turn.on_backend(ResponseEnded("bye", "failed", "busy"), 10.2)) == [NoteTrouble]
    assert turn.tick(10.3) == []
    assert turn.tick(10.8) == [goodbye]
    turn.on_backend(ResponseStarted("again", asked=True), 10.9)
    actions = turn.on_backend(ResponseEnded("again", "failed", "busy"), 11.0)
    assert actions[1:] == [HangUp(Why.MAX_DURATION)]


def test_a_goodbye_that_broke_off_while_it_plays_is_not_repeated():
    turn, _ = machine(max_duration_s=10)
    turn.begin(GoOn.LISTEN, 0, 0.0)
    turn.tick(10.0)
    turn.on_backend(ResponseStarted("bye", asked=True), 10.1)
    turn.accepts("bye", "b", 10.2)
    turn.on_backend(ResponseEnded("bye", "failed", "busy"), 10.3)
    assert turn.on_playout(Drained(), 11.0) == [HangUp(Why.MAX_DURATION)]


def test_the_successor_of_a_lost_model_says_the_goodbye():
    turn, _ = machine(max_duration_s=10)
    turn.begin(GoOn.LISTEN, 0, 0.0)
    (goodbye,) = turn.tick(10.0)
    turn.on_backend(ResponseStarted("bye", asked=True), 10.1)
    turn.backend_lost(1.6)
    assert turn.begin(GoOn.ANSWER, 0.0, 11.0) == [goodbye]


def test_an_agent_that_hangs_up_is_heard_to_the_end_and_waits_for_its_other_tools():
    turn, _ = speaking()
    turn.on_backend(ToolRequested("r", "t1", "order_submit", "{}"), 1.1)
    turn.on_backend(ToolRequested("r", "t2", "hang_up", "{}"), 1.1)
    turn.on_backend(ResponseEnded("r", "completed", "", ("a",)), 1.1)
    assert turn.tool_done(1.1) == []
    assert turn.end_politely(Why.AGENT, 1.1) == []
    assert turn.end_politely(Why.BUDGET, 1.2) == []
    assert kinds(turn.on_playout(PartDone(part(heard=8000, ended=True)), 2.0)) == [PublishAgentTurn]
    assert turn.on_playout(Drained(), 2.0) == []
    assert turn.tool_done(4.0) == [HangUp(Why.AGENT)]


def test_an_agent_that_hangs_up_without_a_word_says_goodbye_first():
    turn, _ = speaking()
    turn.on_backend(ResponseEnded("r", "completed", "", ("a",)), 1.2)
    turn.on_playout(Drained(), 2.0)
    turn.on_backend(SpeechStarted("c"), 3.0)
    turn.on_backend(SpeechStopped("c"), 4.0)
    turn.on_backend(ResponseStarted("s"), 4.1)
    turn.on_backend(ToolRequested("s", "t", "end_call", "{}"), 4.2)
    turn.on_backend(ResponseEnded("s", "completed"), 4.2)
    turn.tool_done(4.3)
    assert turn.end_politely(Why.AGENT, 4.3) == [StartResponse(Verbatim("Tschüss."))]
    turn.on_backend(ResponseStarted("bye", asked=True), 4.4)
    turn.accepts("bye", "b", 4.5)
    assert turn.on_backend(ResponseEnded("bye", "completed"), 4.6) == []
    assert turn.on_playout(Drained(), 6.0) == [HangUp(Why.AGENT)]


def test_nothing_is_said_after_the_goodbye():
    turn, _ = machine(max_duration_s=10)
    turn.begin(GoOn.LISTEN, 0, 0.0)
    turn.tick(10.0)
    turn.on_backend(ResponseStarted("bye", asked=True), 10.1)
    turn.accepts("bye", "b", 10.2)
    turn.on_backend(ResponseEnded("bye", "completed"), 10.3)
    turn.on_backend(SpeechStarted("c"), 10.4)
    turn.on_backend(SpeechStopped("c"), 10.9)
    assert turn.on_backend(ResponseStarted("vad"), 11.0) == [CancelResponse("vad")]  # the server answers as ever
    assert not turn.accepts("vad", "v", 11.1)
    turn.on_backend(ResponseEnded("vad", "cancelled"), 11.2)
    assert turn.on_playout(Drained(), 12.0) == [HangUp(Why.MAX_DURATION)]


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
    turn, _ = speaking()
    turn.drain(5, 2.0)
    assert turn.tick(6.9) == []
    assert turn.tick(7.1) == [HandOver()]
    assert turn.tick(9.0) == []


def test_a_refused_hand_over_is_asked_for_again_at_pauses_and_the_limits_stay():
    turn, _ = machine(max_duration_s=4)
    turn.begin(GoOn.LISTEN, 0, 0.0)
    assert turn.drain(5, 1.0) == [HandOver()]
    assert turn.tick(1.9) == []
    assert turn.tick(2.0) == [HandOver()]
    turn.on_backend(SpeechStarted("c"), 2.5)
    assert turn.tick(3.5) == []
    assert kinds(turn.tick(4.0) + turn.tick(4.1)) == [StartResponse]
    assert turn.tick(6.0) == [HandOver()]  # the deadline
    assert turn.tick(19.1) == [HangUp(Why.MAX_DURATION)]


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
    assert turn.tick(3.6) == [StartResponse(Told(Phrases.keys("42")))]


def test_news_are_told_once_even_if_the_answer_to_them_fails():
    turn, _ = machine()
    turn.begin(GoOn.LISTEN, 0, 0.0)
    assert turn.pressed("#", 1.0) == [StartResponse(Told(Phrases.keys("#")))]
    turn.on_backend(ResponseStarted("r", asked=True), 1.1)
    turn.on_backend(ResponseEnded("r", "failed", "busy"), 1.2)
    assert turn.tick(2.2) == [StartResponse(None)]


def test_what_a_lost_connection_cut_off_counts_as_interrupted():
    turn, _ = speaking()
    turn.backend_lost(1.6)
    (said,) = turn.on_playout(PartDone(part(heard=8000, ended=True)), 2.0)
    assert said.interrupted


# -- what still arrives of a response that is over ---------------------------------------------------------


def test_audio_of_an_interrupted_response_is_refused_also_after_its_end():
    turn, _ = speaking()
    turn.on_playout(PartBegan(part(heard=160)), 1.2)
    turn.on_backend(SpeechStarted("c"), 1.5)
    turn.on_playout(Flushed((part(heard=4000),)), 1.6)
    turn.on_backend(ResponseEnded("r", "cancelled", "turn_detected", ("a",)), 1.65)
    assert not turn.accepts("r", "a", 1.7)
    assert turn.floor.is_dead("r")
    assert turn.phase is Phase.LISTENING
    assert turn.on_backend(ResponseEnded("r", "cancelled", "", ("a", "b")), 1.8) == []


def test_audio_after_the_end_of_a_completed_response_is_refused_but_its_text_is_welcome():
    turn, _ = speaking()
    turn.on_backend(ResponseEnded("r", "completed", "", ("a",)), 1.65)
    assert not turn.accepts("r", "a", 1.7)
    assert not turn.floor.is_dead("r")


def test_what_is_remembered_of_old_responses_is_bounded():
    ids = RecentIds(2)
    for name in ("a", "b", "a", "c"):
        ids.add(name)
    assert [name in ids for name in "abc"] == [True, False, True]
    turn, _ = machine()
    for n in range(500):
        turn.on_backend(ResponseStarted(f"r{n}"), n)
        turn.accepts(f"r{n}", f"i{n}", n)
        turn.on_backend(ResponseEnded(f"r{n}", "completed", "", (f"i{n}",)), n)
        turn.on_playout(PartBegan(part(f"i{n}", f"r{n}", heard=160)), n)
        turn.on_playout(PartDone(part(f"i{n}", f"r{n}", heard=8000, ended=True)), n)
        turn.on_playout(Drained(), n)
    assert turn.spoken.remembered_items == 0


def test_the_next_connection_may_use_the_names_of_the_last_one():
    turn, _ = speaking()
    turn.on_backend(SpeechStarted("c"), 1.5)  # "r" is dead, and the caller still speaks
    turn.backend_lost(1.6)
    turn.on_playout(Flushed((part(heard=4000),)), 1.6)
    turn.on_playout(Drained(), 1.6)
    turn.begin(GoOn.ANSWER, 0.0, 2.0)
    assert turn.accepts("r", "b", 2.5)
    turn.on_backend(ResponseEnded("r", "completed", "", ("b",)), 2.6)
    turn.drain(60, 2.7)
    assert turn.on_playout(Drained(), 3.0) == [HandOver()]  # a pause: nobody speaks


def test_the_next_connection_may_use_the_name_of_a_response_that_was_over():
    turn, _ = speaking()
    turn.on_backend(ResponseEnded("r", "completed", "", ("a",)), 1.5)
    turn.backend_lost(1.6)
    assert turn.accepts("r", "b", 2.5)


# -- asking again ----------------------------------------------------------------------------------------


def test_a_failed_greeting_is_repeated_as_a_greeting():
    turn, _ = machine("Guten Tag, ich bin eine KI.")
    (greeting,) = turn.begin(GoOn.GREET, 0, 0.0)
    turn.on_backend(ResponseStarted("r", asked=True), 0.1)
    turn.on_backend(ResponseEnded("r", "failed", "rate_limit_exceeded"), 0.2)
    assert turn.tick(0.8) == [greeting]
    turn.on_backend(ResponseStarted("vad"), 1.0)  # not ours: the greeting's request still waits
    turn.on_backend(ResponseEnded("vad", "failed", "busy"), 1.1)
    assert turn.tick(2.2) == [StartResponse(None)]


def test_nothing_is_repeated_when_the_caller_speaks_or_another_response_began():
    turn, _ = machine()
    turn.begin(GoOn.LISTEN, 0, 0.0)
    turn.on_backend(ResponseStarted("r"), 1.0)
    turn.on_backend(ResponseEnded("r", "failed", "busy"), 1.0)
    turn.on_backend(SpeechStarted("c"), 1.2)
    assert turn.tick(1.6) == []
    turn.on_backend(SpeechStopped("c"), 1.7)
    turn.on_backend(ResponseStarted("s"), 1.8)
    turn.on_backend(ResponseEnded("s", "failed", "busy"), 1.9)
    turn.on_backend(ResponseStarted("vad"), 2.0)
    turn.accepts("vad", "i", 2.1)
    assert turn.tick(4.0) == []


def test_a_response_that_fails_while_the_caller_speaks_is_not_repeated():
    turn, _ = machine(interruptible=False)
    turn.on_backend(ResponseStarted("r"), 1.0)
    turn.on_backend(SpeechStarted("c"), 1.1)
    turn.on_backend(ResponseEnded("r", "failed", "busy"), 1.2)
    assert turn.tick(2.5) == []


def test_a_response_that_failed_with_audio_in_the_air_is_not_repeated():
    turn, _ = speaking()
    assert turn.on_backend(ResponseEnded("r", "failed", "busy"), 1.2) == [NoteTrouble("response_failed", "busy")]
    assert turn.tick(3.0) == []


def test_an_answer_without_words_is_noted_and_asked_for_once_more():
    for status, detail, noted in (("incomplete", "content_filter", "content_filter"), ("completed", "", "completed")):
        turn, _ = machine()
        turn.begin(GoOn.LISTEN, 0, 0.0)
        turn.on_backend(ResponseStarted("r"), 1.0)
        assert turn.on_backend(ResponseEnded("r", status, detail), 1.2) == [NoteTrouble("response_empty", noted)]
        assert turn.tick(1.3) == []
        assert turn.tick(1.8) == [StartResponse(None)]
        turn.on_backend(ResponseStarted("s", asked=True), 2.0)
        assert kinds(turn.on_backend(ResponseEnded("s", status, detail), 2.1)) == [NoteTrouble]
        assert turn.tick(3.0) == []
        turn.on_backend(SpeechStarted("c"), 4.0)  # the next turn has its own chance
        turn.on_backend(SpeechStopped("c"), 4.5)
        turn.on_backend(ResponseStarted("t"), 4.6)
        turn.on_backend(ResponseEnded("t", status, detail), 4.7)
        assert turn.tick(5.3) == [StartResponse(None)]


def test_a_cancelled_response_without_audio_is_not_repeated():
    turn, _ = machine()
    turn.on_backend(ResponseStarted("r"), 1.0)
    assert turn.on_backend(ResponseEnded("r", "cancelled", "client_cancelled"), 1.2) == []
    assert turn.tick(3.0) == []


def test_only_failures_in_a_row_give_up():
    for gives in ("audio", "tool"):
        turn, _ = machine()
        turn.begin(GoOn.LISTEN, 0, 0.0)
        for n in range(4):
            now = 1.0 + 5 * n
            turn.on_backend(ResponseStarted(f"f{n}"), now)
            assert kinds(turn.on_backend(ResponseEnded(f"f{n}", "failed", "busy"), now)) == [NoteTrouble]
            turn.on_backend(ResponseStarted(f"ok{n}"), now + 2)
            if gives == "audio":
                turn.accepts(f"ok{n}", f"i{n}", now + 2)
            else:
                turn.on_backend(ToolRequested(f"ok{n}", f"t{n}", "x", "{}"), now + 2)
                turn.tool_done(now + 2)
            assert turn.on_backend(ResponseEnded(f"ok{n}", "completed"), now + 2) == []


def test_audio_of_a_living_response_ends_a_row_of_failures():
    turn, _ = machine()
    now = 1.0
    for name in ("f1", "f2", "f3"):
        turn.on_backend(ResponseStarted(name), now)
        if name == "f2":
            turn.accepts(name, "i", now)  # it fails later, but the model does work
        assert kinds(turn.on_backend(ResponseEnded(name, "failed", "busy"), now)) == [NoteTrouble]


# -- silence of the model ----------------------------------------------------------------------------------


def test_nobody_reconnects_while_the_caller_dictates():
    turn, _ = machine()
    turn.begin(GoOn.LISTEN, 0, 0.0)
    turn.on_backend(ResponseStarted("r"), 1.0)
    turn.on_backend(ToolRequested("r", "t", "n", "{}"), 1.0)
    turn.on_backend(ResponseEnded("r", "completed"), 1.0)
    turn.on_backend(SpeechStarted("c"), 1.5)
    turn.tool_done(1.8)
    assert [turn.tick(1.8 + n) for n in range(40)] == [[]] * 40


def test_the_wait_for_the_model_counts_from_the_last_tool_and_from_the_last_reconnect():
    turn, _ = machine()
    turn.begin(GoOn.LISTEN, 0, 0.0)
    turn.on_backend(ResponseStarted("r"), 1.0)
    turn.on_backend(ToolRequested("r", "t", "n", "{}"), 1.0)
    turn.on_backend(ResponseEnded("r", "completed"), 1.0)
    assert turn.tick(30.0) == []  # the tool is slow, not the model
    turn.tool_done(31.0)
    assert turn.tick(50.9) == []
    assert kinds(turn.tick(51.1)) == [Fail]
    assert turn.tick(51.2) == []
    assert kinds(turn.tick(71.2)) == [Fail]


def test_each_sign_of_life_lets_the_wait_for_the_model_begin_anew():
    turn, _ = machine()
    turn.begin(GoOn.ANSWER, 0, 0.0)
    turn.on_backend(ResponseStarted("r", asked=True), 15.0)
    assert turn.tick(34.9) == []
    assert kinds(turn.tick(35.1)) == [Fail]


# -- barge-in, details -------------------------------------------------------------------------------------


def test_a_second_barge_in_before_the_first_one_is_acknowledged_flushes_again():
    turn, _ = speaking()
    turn.on_backend(SpeechStarted("c"), 1.5)
    turn.on_backend(ResponseEnded("r", "cancelled", "", ("a",)), 1.5)
    assert turn.on_backend(SpeechStarted("c1"), 1.51) == [PublishCallerSpoke("c1")]  # nothing plays any more
    turn.on_backend(ResponseStarted("s"), 1.52)
    turn.accepts("s", "b", 1.53)
    assert turn.on_backend(SpeechStarted("c2"), 1.54)[1:] == [FlushPlayout()]
    turn.on_backend(ResponseEnded("s", "cancelled", "", ("b",)), 1.55)
    actions = turn.on_playout(Flushed((part(heard=800), part("b", "s", heard=0))), 1.6)
    assert [a for a in actions if not isinstance(a, PublishAgentTurn)] == [Truncate("a", 0, 100), DeleteItem("b")]


def test_an_interrupted_turn_is_not_measured():
    turn, _ = machine()
    turn.on_backend(SpeechStopped("c"), 1.0)
    turn.on_backend(ResponseStarted("r"), 1.1)
    turn.accepts("r", "a", 1.2)
    turn.on_backend(SpeechStarted("d"), 1.3)
    assert turn.on_playout(PartBegan(part(heard=160)), 1.4) == []


def test_a_partly_heard_item_is_not_deleted_when_its_response_ends_after_the_flush():
    turn, _ = speaking()
    turn.on_playout(PartBegan(part(heard=160)), 1.2)
    turn.on_backend(SpeechStarted("c"), 1.5)
    turn.on_playout(Flushed((part(heard=4000),)), 1.6)
    turn.on_playout(Drained(), 1.6)  # everything known is dealt with, but the response is still under way
    assert turn.on_backend(ResponseEnded("r", "cancelled", "", ("a",)), 1.7) == []
    assert turn.spoken.remembered_items == 0


def test_a_heard_item_with_an_unheard_second_part_is_not_deleted():
    turn, _ = speaking()
    turn.on_playout(PartBegan(part(heard=160)), 1.2)
    turn.on_backend(SpeechStarted("c"), 1.5)
    second = Part(("a", 1), "r", received=800)
    actions = turn.on_playout(Flushed((part(heard=4000), second)), 1.6)
    assert [a for a in actions if not isinstance(a, PublishAgentTurn)] == [Truncate("a", 0, 500)]


def test_a_model_whose_memory_cannot_be_cut_is_not_asked_to():
    turn, _ = speaking(capabilities=Capabilities(truncate=False))
    turn.accepts("r", "b", 1.2)
    turn.on_backend(SpeechStarted("c"), 1.5)
    assert kinds(turn.on_playout(Flushed((part(heard=4000), part("b", heard=0))), 1.6)) == [PublishAgentTurn] * 2
    turn.accepts("r", "late", 1.6)
    assert turn.on_backend(ResponseEnded("r", "cancelled", "", ("a", "b", "late")), 1.7) == []


def test_audio_that_was_written_off_does_not_count_as_heard():
    turn, text = speaking()
    text.end(("a", 0), "")
    lost = part(sent=8000, heard=4000, ended=True)
    lost.lost = 4000
    (said,) = turn.on_playout(PartDone(lost), 2.0)
    assert (said.interrupted, said.heard_text, said.heard_ms) == (True, "Eins zwei", 500)
    turn.on_backend(ResponseEnded("r", "completed", "", ("a",)), 2.0)
    turn.on_playout(Drained(), 2.0)
    assert turn.spoken.remembered_items == 0  # also of a part that never began
    turn, text = speaking()
    turn.on_backend(SpeechStarted("c"), 1.5)
    truncate, said = turn.on_playout(Flushed((lost,)), 2.0)
    assert (truncate, said.interrupted) == (Truncate("a", 0, 500), True)


def test_texts_are_learnt_from_and_forgotten_when_a_turn_is_published():
    turn, text = speaking()
    text.end(("a", 0), "Ein Satz von vierzig Zeichen, ungefähr.")
    assert text._per_second == 15
    turn.on_playout(PartDone(part(received=32000, heard=32000, ended=True)), 5.0)
    assert text._per_second < 15
    assert text.text(("a", 0)) == ""


def test_tools_that_run_side_by_side_are_measured_once():
    turn, _ = machine()
    turn.on_backend(SpeechStopped("c"), 1.0)
    turn.on_backend(ResponseStarted("r"), 1.1)
    turn.on_backend(ToolRequested("r", "t", "n", "{}"), 1.5)
    turn.on_backend(ToolRequested("r", "u", "n", "{}"), 1.5)
    turn.on_backend(ResponseEnded("r", "completed"), 1.5)
    turn.tool_done(2.5)
    turn.tool_done(2.75)
    turn.on_backend(ResponseStarted("s", asked=True), 2.8)
    turn.accepts("s", "a", 3.0)
    turn.latency.first_frame(3.0)
    (measured,) = turn.on_playout(PartBegan(part(response="s", heard=160)), 3.1)
    assert measured.latency.tools_ms == 1250
