"""Keys in groups, by scripts of (time, key) -> group."""

from __future__ import annotations

from services.ai_session.keys import PAUSE_S, Keys


def test_keys_without_a_pause_are_one_group():
    keys = Keys()
    assert [keys.pressed(digit, 0.3 * number) for number, digit in enumerate("4711")] == [""] * 4
    assert keys.due(0.9 + PAUSE_S) == ""
    assert keys.waiting
    assert keys.due(0.91 + PAUSE_S) == "4711"
    assert not keys.waiting


def test_a_hash_ends_a_group_at_once():
    keys = Keys()
    keys.pressed("1", 0.0)
    assert keys.pressed("#", 0.2) == "1#"
    assert keys.due(10.0) == ""
    assert keys.pressed("#", 11.0) == "#"


def test_a_key_that_hangs_does_not_make_an_endless_group():
    keys = Keys()
    groups = [keys.pressed("5", at / 10) for at in range(200)]
    assert [len(group) for group in groups if group] == [64, 64, 64]
