"""Which connections are kept ready, and when they are made anew."""

from __future__ import annotations

from services.ai_session.spares import LONGEST_PAUSE_S, Drop, Open, Spares


def one(max_s=3600.0):
    spares = Spares(1, max_s)
    spares.served("m")
    return spares


def test_nothing_is_kept_before_anything_was_served():
    spares = Spares(1, 3600.0)
    assert spares.step(0.0) == []
    assert spares.next_at(0.0) is None
    assert spares.served("m")
    assert not spares.served("m")
    assert spares.step(0.0) == [Open("m")]


def test_none_are_kept_when_none_are_wanted():
    spares = Spares(0, 3600.0)
    spares.served("m")
    assert spares.step(0.0) == []
    assert spares.next_at(0.0) is None


def test_one_that_is_taken_is_replaced():
    spares = one()
    number = spares.opened("m", None, 0.0)
    assert spares.step(1.0) == []
    assert spares.take("other") is None
    assert spares.take("m") == number
    assert spares.take("m") is None
    assert spares.step(1.0) == [Open("m")]


def test_one_is_renewed_at_half_its_life_before_the_old_one_goes():
    spares = one()
    old = spares.opened("m", 60.0, 0.0)
    assert spares.next_at(0.0) == 30.0
    assert spares.step(29.0) == []
    assert spares.step(30.0) == [Open("m")]
    assert len(spares) == 1  # a caller may still take it
    new = spares.opened("m", 60.0, 30.5)
    assert spares.next_at(30.5) == 30.5  # not only when the server ends the old one
    assert spares.step(30.5) == [Drop(old)]
    assert spares.next_at(30.5) == 60.5
    assert spares.take("m") == new


def test_a_server_that_refuses_is_asked_after_doubling_pauses():
    spares, now, pauses = one(), 0.0, []
    for _ in range(9):
        assert spares.step(now) == [Open("m")]
        spares.refused(now)
        pauses.append(spares.next_at(now) - now)
        assert spares.step(now) == []
        now = spares.next_at(now)
    assert pauses == [1, 2, 4, 8, 16, 32, LONGEST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_one_that_is_dropped_at_once_counts_as_refused_and_one_that_lasted_does_not():
    spares = one()
    spares.lost(spares.opened("m", None, 0.0), 1.0)
    assert spares.step(1.0) == []
    assert spares.next_at(1.0) == 2.0
    spares.lost(spares.opened("m", None, 2.0), 100.0)
    assert spares.step(100.0) == [Open("m")]
    spares.lost(99, 100.0)  # unknown: nothing happens


def test_another_model_replaces_what_is_kept():
    spares = one()
    old = spares.opened("m", None, 0.0)
    assert spares.served("n")
    assert spares.step(1.0) == [Open("n")]
    spares.opened("n", None, 1.0)
    assert spares.step(1.0) == [Drop(old)]


def test_closing_keeps_nothing():
    spares = one()
    number = spares.opened("m", None, 0.0)
    assert spares.close() == [number]
    assert spares.step(1.0) == []
