"""When a model may be asked again, and what the attempts of a call make of it."""

import json

import pytest
from hypothesis import given, strategies as st

from libs.contracts.agent import Fillers
from services.ai_session.actions import Fail, NoteTrouble, PlayLocal, StartResponse, Why
from services.ai_session.attempts import LIMITED_RESPONSES, Attempts
from services.ai_session.backends.port import Capabilities, LimitUsedUp, ResponseEnded, ResponseStarted
from services.ai_session.backends.realtime_events import RealtimeEvents
from services.ai_session.costs import Models
from services.ai_session.history import GoOn
from services.ai_session.phrases import Phrases
from services.ai_session.rate_limit import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    SPACING_S,
    RateLimit,
    RateLimits,
    hint_of,
    hint_of_headers,
    is_limit,
)
from services.ai_session.speech_text import SpeechText
from services.ai_session.turn import TurnMachine
from services.ai_session.turn_rules import TurnRules


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Rate limit reached for gpt-realtime-2.1. Please try again in 1.5s. Visit ...", 1.5),
        ("Please try again in 350ms.", 0.35),
        ("please try again in 1m2s", 62.0),
        ("Please try again in 1h0m5.25s.", 3605.25),
        ("Please try again later.", None),
        ("", None),
    ],
)
def test_the_providers_hint_is_read_from_its_message(message, seconds):
    assert hint_of(f"rate_limit_exceeded: {message}") == (pytest.approx(seconds) if seconds else None)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after-ms": "350", "retry-after": "1"}, 0.35),
        ({"retry-after-ms": "soon", "retry-after": "1"}, 1.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_the_providers_hint_is_read_from_headers(headers, seconds):
    assert hint_of_headers(headers) == (pytest.approx(seconds) if seconds is not None else None)


def test_only_the_code_says_that_it_is_a_limit():
    assert is_limit("rate_limit_exceeded: whatever")
    assert not is_limit("server_error: rate_limit_exceeded elsewhere")


def test_without_a_hint_the_pause_doubles_and_ends_with_a_success():
    limit, now, pauses = RateLimit(), 0.0, []
    for _ in range(7):
        limit.refused(now)
        then = limit.may_ask_at(now)
        pauses.append(then - now)
        now = then + 1
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert max(pauses) == LONGEST_PAUSE_S
    limit.answered(now)
    limit.refused(now)
    assert limit.may_ask_at(now) == now + FIRST_PAUSE_S


def test_calls_that_were_refused_together_count_as_one_refusal_and_come_back_one_after_the_other():
    limit = RateLimit()
    for _ in range(5):
        limit.refused(10.0, hint_s=2.0)
    assert [limit.may_ask_at(10.0) for _ in range(3)] == pytest.approx([12.0, 12.0 + SPACING_S, 12.0 + 2 * SPACING_S])
    limit.refused(13.0)
    assert limit.may_ask_at(13.0) == pytest.approx(13.0 + 2 * FIRST_PAUSE_S)
    assert limit.counters["refused"] == 6


def test_a_limit_that_is_used_up_is_closed_before_it_refuses():
    limit = RateLimit()
    limit.used_up(0.0, reset_s=3.0)
    assert not limit.is_open(2.9)
    assert limit.may_ask_at(1.0) == 3.0
    assert limit.may_ask_at(3.0) == 3.0


@given(st.lists(st.tuples(st.floats(0, 10), st.sampled_from(["refused", "hinted", "asked", "answered"])), max_size=40))
def test_nobody_waits_for_ever_and_nobody_asks_in_the_past(script):
    limit, now, asked = RateLimit(), 0.0, 0
    for passed, what in script:
        now += passed
        if what == "refused":
            limit.refused(now)
        elif what == "hinted":
            limit.refused(now, hint_s=1e6)
        elif what == "answered":
            limit.answered(now)
        else:
            asked += 1
            assert now <= limit.may_ask_at(now) <= now + LONGEST_PAUSE_S + asked * SPACING_S + 1e-6


def test_each_model_has_a_limit_of_its_own():
    limits = RateLimits()
    limits.of("a").refused(0.0)
    assert limits.of("b").is_open(0.0)
    assert not limits.of("a").is_open(0.0)
    assert limits.counted() == {"refused": 1}


# -- the attempts of a call --------------------------------------------------------------------------------------


def pause_s(attempts, now):
    return attempts._retry[0] - now if attempts.is_planned else 0.0


def fails(attempts, now, detail):
    attempts.requested("hello")
    attempts.began("r", asked=True)
    return attempts.ended(ResponseEnded("r", "failed", detail), now, may_repeat=True)[1]


def test_a_limited_response_is_asked_for_again_when_the_provider_allows_it():
    attempts = Attempts(RateLimit())
    actions = fails(attempts, 100.0, "rate_limit_exceeded: Please try again in 2s.")
    assert actions == [NoteTrouble("rate_limited", "rate_limit_exceeded: Please try again in 2s.")]
    assert pause_s(attempts, 100.5) == pytest.approx(1.5)
    assert attempts.due(101.9) == (False, None)
    assert attempts.due(102.0) == (True, "hello")
    assert pause_s(attempts, 102.0) == 0.0


def test_limits_are_shared_and_in_the_end_the_model_counts_as_broken():
    limit = RateLimit()
    one, two = Attempts(limit), Attempts(limit)
    fails(one, 0.0, "rate_limit_exceeded: try again in 4s")
    fails(two, 1.0, "rate_limit_exceeded: try again in 1s")
    assert pause_s(two, 1.0) == pytest.approx(3.0 + SPACING_S)
    now, actions = 10.0, []
    for _ in range(LIMITED_RESPONSES):
        actions = fails(one, now, "rate_limit_exceeded: try again in 1s")
        now += 5
        if any(isinstance(action, Fail) for action in actions):
            break
    assert isinstance(actions[-1], Fail)


def test_an_answer_ends_the_row_of_limited_responses():
    limit = RateLimit()
    attempts = Attempts(limit)
    fails(attempts, 0.0, "rate_limit_exceeded: x")
    attempts.began("good", asked=False)
    attempts.spoke("good")
    attempts.ended(ResponseEnded("good", "completed"), 5.0, may_repeat=True)
    fails(attempts, 6.0, "rate_limit_exceeded: x")
    assert pause_s(attempts, 6.0) == pytest.approx(FIRST_PAUSE_S)


# -- a call that meets a limit -----------------------------------------------------------------------------------


def test_the_caller_hears_a_filler_while_the_provider_makes_us_wait():
    rules = TurnRules(Phrases(), fillers=Fillers(texts=("Einen Moment bitte.",), after_ms=1500))
    turn = TurnMachine(rules, Capabilities(), SpeechText(8000), 8000, RateLimit())
    turn.begin(GoOn.LISTEN, 0.0, 0.0)
    turn.on_backend(ResponseStarted("r"), 1.0)
    turn.on_backend(ResponseEnded("r", "failed", "rate_limit_exceeded: Please try again in 4s."), 1.0)
    done = {tenth: turn.tick(tenth / 10) for tenth in range(10, 60)}
    said = [(tenth, action) for tenth, actions in done.items() for action in actions]
    (at, filler), (again_at, again) = said
    assert isinstance(filler, PlayLocal)
    assert 25 <= at <= 27
    assert (again_at, again) == (50, StartResponse(None))


def test_a_call_does_not_ask_while_another_one_s_refusal_has_closed_the_model():
    limit = RateLimit()
    rules = TurnRules(Phrases(), fillers=Fillers(texts=("Einen Moment bitte.",), after_ms=1500))
    turn = TurnMachine(rules, Capabilities(), SpeechText(8000), 8000, limit)
    turn.begin(GoOn.LISTEN, 0.0, 0.0)
    limit.refused(1.0, 15.0)
    assert turn._respond("answer the keys", 1.0) == []
    said = [(tenth, action) for tenth in range(10, 200) for action in turn.tick(tenth / 10)]
    assert [action for _, action in said if isinstance(action, PlayLocal)]  # not silence
    assert [(tenth, action) for tenth, action in said if isinstance(action, StartResponse)] == [
        (160, StartResponse("answer the keys"))
    ]


def test_a_goodbye_is_tried_whatever_the_limit():
    limit = RateLimit()
    turn = TurnMachine(TurnRules(Phrases()), Capabilities(), SpeechText(8000), 8000, limit)
    turn.begin(GoOn.LISTEN, 0.0, 0.0)
    limit.refused(1.0, 15.0)
    ending = [*turn.end_politely(Why.IDLE, 1.0), *(do for tenth in range(10, 40) for do in turn.tick(tenth / 10))]
    assert any(isinstance(action, StartResponse) for action in ending)


def test_a_limit_that_the_server_tells_to_be_used_up_is_known_to_all_calls():
    events = RealtimeEvents(Models(), "m", "t", bytes)
    limits = [
        {"name": "requests", "limit": 1000, "remaining": 0, "reset_seconds": 7.5},
        {"name": "tokens", "limit": 1000, "remaining": 10, "reset_seconds": 60.0},
    ]
    assert events.read(json.dumps({"type": "rate_limits.updated", "rate_limits": limits}).encode()) == [
        LimitUsedUp(7.5)
    ]
    assert events.read(json.dumps({"type": "rate_limits.updated", "rate_limits": limits[1:]}).encode()) == []
    assert events.read(b'{"type": "rate_limits.updated"}') == []
