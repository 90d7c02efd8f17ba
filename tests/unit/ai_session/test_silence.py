"""Silence and what breaks it, by scripts of (time, input) -> actions."""

from __future__ import annotations

from libs.contracts.agent import Fillers, Idle
from services.ai_session.actions import (
    FlushPlayout,
    HangUp,
    PlayLocal,
    PublishAgentTurn,
    PublishCallerSpoke,
    RunTool,
    StartResponse,
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
from services.ai_session.phrases import Phrases, Verbatim
from services.ai_session.playout import Drained, Flushed, Part, PartBegan, PartDone
from services.ai_session.speech_text import SpeechText
from services.ai_session.turn import Phase, TurnMachine
from services.ai_session.turn_rules import TurnRules

PROMPT = StartResponse(Verbatim("Sind Sie noch da?"))


def machine(idle=None, fillers=(), **rules):
    fillers = Fillers(texts=fillers, after_ms=1500, every_ms=8000)
    rules = TurnRules(Phrases(), idle=idle or Idle(), fillers=fillers, **rules)
    turn = TurnMachine(rules, Capabilities(), SpeechText(8000), 8000)
    turn.begin(GoOn.LISTEN, 0, 0.0)
    return turn


def says(turn, response, begins, ends, asked=True):
    turn.on_backend(ResponseStarted(response, asked), begins)
    turn.accepts(response, f"item-{response}", begins)
    turn.on_backend(ResponseEnded(response, "completed"), begins + 0.1)
    return turn.on_playout(Drained(), ends)


def ticks(turn, start, end):
    """What happens between two moments, with a tick every 100 ms."""
    done = []
    for tenth in range(round(start * 10), round(end * 10) + 1):
        done += [(tenth / 10, action) for action in turn.tick(tenth / 10)]
    return done


# -- the caller's silence ------------------------------------------------------------------------------


def test_a_silent_caller_is_asked_twice_and_then_the_call_ends_politely():
    turn = machine(Idle(after_s=5, prompts=2))
    assert ticks(turn, 0, 5.2) == [(5.0, PROMPT)]
    says(turn, "p1", 5.3, 7.0)
    assert ticks(turn, 7.0, 12.1) == [(12.0, PROMPT)]
    says(turn, "p2", 12.2, 14.0)
    ((at, goodbye),) = ticks(turn, 14.0, 19.2)
    assert (at, goodbye) == (19.0, StartResponse(Phrases().goodbye_to_nobody))
    assert says(turn, "bye", 19.3, 21.0) == [HangUp(Why.IDLE)]


def test_an_agents_own_goodbye_is_said_to_nobody_too():
    assert Phrases.of(None, "Tschüss.").goodbye_to_nobody == Verbatim("Tschüss.")


def test_any_sign_of_the_caller_starts_the_patience_anew():
    turn = machine(Idle(after_s=5, prompts=1))
    assert ticks(turn, 0, 5.1) == [(5.0, PROMPT)]
    says(turn, "p", 5.2, 7.0)
    turn.on_backend(SpeechStarted("c"), 8.0)
    assert ticks(turn, 8.0, 16.0) == []  # a long turn
    turn.on_backend(SpeechStopped("c"), 16.0)
    turn.on_backend(CallerTranscript("c", "Ja."), 16.3)
    says(turn, "r", 16.5, 20.0, asked=False)
    assert ticks(turn, 20.0, 25.1) == [(25.0, PROMPT)]
    says(turn, "p2", 25.2, 27.0)
    turn.pressed("4", 28.0)
    ((at, told),) = ticks(turn, 28.0, 31.0)
    assert "keys" in told.wish.text
    says(turn, "r2", at + 0.1, 32.0)
    assert ticks(turn, 32.0, 37.1) == [(37.0, PROMPT)]


def test_nobody_is_asked_while_an_answer_is_due_or_the_call_is_held():
    turn = machine(Idle(after_s=5))
    turn.on_backend(ToolRequested("r", "t", "slow", "{}"), 1.0)
    assert ticks(turn, 1.0, 15.0) == []
    turn.tool_done(15.0)
    says(turn, "r2", 15.1, 16.0)
    turn.is_set_aside = True
    assert ticks(turn, 16.0, 60.0) == []
    turn.is_set_aside = False
    assert [at for at, _ in ticks(turn, 60.0, 66.0)] == [65.0]


def test_what_the_server_asks_by_itself_counts_as_a_prompt():
    turn = machine(Idle(after_s=8, prompts=1))
    says(turn, "idle-timeout", 5.0, 7.0, asked=False)
    ((at, action),) = ticks(turn, 7.0, 15.2)
    assert (at, action) == (15.0, StartResponse(Phrases().goodbye_to_nobody))


def test_without_a_limit_the_agent_waits_for_ever():
    assert ticks(machine(), 0, 300) == []


def test_before_the_call_is_answered_nobody_is_asked():
    turn = TurnMachine(TurnRules(Phrases(), idle=Idle(after_s=5)), Capabilities(), SpeechText(8000), 8000)
    assert ticks(turn, 0, 30) == []


# -- our own silence -----------------------------------------------------------------------------------


def test_a_long_tool_is_bridged_by_fillers_never_the_same_twice_in_a_row():
    turn = machine(fillers=("Einen Moment.", "Ich schaue nach."))
    assert turn.on_backend(ToolRequested("r", "t", "slow", "{}"), 1.0) == [RunTool("t", "slow", "{}")]
    turn.on_backend(ResponseEnded("r", "completed"), 1.0)
    said = ticks(turn, 1.0, 20.0)
    assert said == [
        (2.5, PlayLocal("local-1", "Einen Moment.")),
        (10.5, PlayLocal("local-2", "Ich schaue nach.")),
        (18.5, PlayLocal("local-3", "Einen Moment.")),
    ]


def test_a_quick_tool_needs_no_filler():
    turn = machine(fillers=("Einen Moment.",))
    turn.on_backend(ToolRequested("r", "t", "quick", "{}"), 1.0)
    assert ticks(turn, 1.0, 2.0) == []
    turn.tool_done(2.0)
    turn.on_backend(ResponseStarted("r2", True), 2.1)
    turn.accepts("r2", "a", 2.4)
    assert ticks(turn, 2.1, 10.0) == []


def test_a_slow_model_and_one_that_is_asked_again_are_bridged_too():
    turn = machine(fillers=("Einen Moment.",))
    turn.on_backend(SpeechStarted("c"), 0.5)
    turn.on_backend(SpeechStopped("c"), 1.0)
    assert ticks(turn, 1.0, 2.9)[0] == (2.5, PlayLocal("local-1", "Einen Moment."))
    turn = machine(fillers=("Einen Moment.",))
    turn.on_backend(ResponseStarted("r"), 1.0)
    turn.on_backend(ResponseEnded("r", "failed", "rate_limit_exceeded: Please try again in 6s."), 1.1)
    assert (2.6, PlayLocal("local-1", "Einen Moment.")) in ticks(turn, 1.1, 4.0)


def test_a_filler_is_recorded_and_the_model_is_told_nothing_of_it():
    turn = machine(fillers=("Einen Moment.",))
    turn.on_backend(ToolRequested("r", "t", "slow", "{}"), 1.0)
    turn.on_backend(ResponseEnded("r", "completed"), 1.0)
    ticks(turn, 1.0, 2.5)
    turn.plays_local("local-1")
    assert turn.phase is Phase.SPEAKING
    part = Part(("local-1", 0), "local-1", received=8000, sent=8000, heard=8000, ended=True, from_sample=0)
    assert turn.on_playout(PartBegan(part), 2.6) == []
    (said,) = turn.on_playout(PartDone(part), 3.5)
    assert isinstance(said, PublishAgentTurn)
    assert said.local
    turn.on_playout(Drained(), 3.5)
    assert turn.phase is Phase.THINKING
    assert turn.spoken.remembered_items == 0


def test_a_caller_cuts_a_filler_off_and_the_model_has_nothing_to_forget():
    turn = machine(fillers=("Einen Moment.",))
    turn.on_backend(ToolRequested("r", "t", "slow", "{}"), 1.0)
    turn.on_backend(ResponseEnded("r", "completed"), 1.0)
    ticks(turn, 1.0, 2.5)
    turn.plays_local("local-1")
    assert turn.on_backend(SpeechStarted("c"), 2.8) == [PublishCallerSpoke("c"), FlushPlayout()]
    part = Part(("local-1", 0), "local-1", received=8000, sent=4000, heard=2000, from_sample=0)
    (said,) = turn.on_playout(Flushed((part,)), 2.9)
    assert (said.local, said.interrupted) == (True, True)


def test_after_a_filler_the_model_is_still_waited_for():
    turn = machine(Idle(after_s=3), fillers=("Einen Moment.",))
    turn.say("Guten Tag.", 0.0)
    assert ticks(turn, 0.1, 1.6) == [(1.6, PlayLocal("local-1", "Einen Moment."))]
    turn.plays_local("local-1")
    turn.on_playout(Drained(), 3.0)
    assert turn.phase is Phase.THINKING
    assert PROMPT not in [action for _, action in ticks(turn, 3.0, 8.0)]
