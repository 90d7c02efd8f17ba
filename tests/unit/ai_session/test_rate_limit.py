"""When a model may be asked again, and what the attempts of a call make of it."""

import pytest
from hypothesis import given, strategies as st

from services.ai_session.actions import Fail, NoteTrouble
from services.ai_session.attempts import LIMITED_RESPONSES, Attempts
from services.ai_session.backends.port import ResponseEnded
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


def fails(attempts, now, detail):
    attempts.requested("hello")
    attempts.began("r", asked=True)
    return attempts.ended(ResponseEnded("r", "failed", detail), now, may_repeat=True)[1]


def test_a_limited_response_is_asked_for_again_when_the_provider_allows_it():
    attempts = Attempts(RateLimit())
    actions = fails(attempts, 100.0, "rate_limit_exceeded: Please try again in 2s.")
    assert actions == [NoteTrouble("rate_limited", "rate_limit_exceeded: Please try again in 2s.")]
    assert attempts.pause_s(100.5) == pytest.approx(1.5)
    assert attempts.due(101.9) == (False, None)
    assert attempts.due(102.0) == (True, "hello")
    assert attempts.pause_s(102.0) == 0.0


def test_limits_are_shared_and_in_the_end_the_model_counts_as_broken():
    limit = RateLimit()
    one, two = Attempts(limit), Attempts(limit)
    fails(one, 0.0, "rate_limit_exceeded: try again in 4s")
    fails(two, 1.0, "rate_limit_exceeded: try again in 1s")
    assert two.pause_s(1.0) == pytest.approx(3.0 + SPACING_S)
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
    assert attempts.pause_s(6.0) == pytest.approx(FIRST_PAUSE_S)
