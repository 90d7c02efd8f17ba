"""The measurement of interruptions finds what it is there to find."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from libs.audio.tone import comfort_noise
from tests.load.interruptions import _judge, _on_the_line, report

BEGAN_AT = 10.0


def judged(spoke_at, carried_ms, *, mode="server", told_ms=None):
    """The caller spoke at these moments, and the first of a sentence of 3 s was on the line."""
    whole = comfort_noise(3000, 8000, -20.0)
    packets = [
        SimpleNamespace(position_samples=160 * n, arrived_at=BEGAN_AT + 0.02 * n, samples=160)
        for n in range(carried_ms // 20)
    ]
    caller = SimpleNamespace(
        mode=mode,
        clock_offset_s=0.0,
        phone_call=SimpleNamespace(heard=_on_the_line(whole)[: 16 * carried_ms], heard_positions=packets),
        spoke_at=lambda: spoke_at,
    )
    told_ms = carried_ms if told_ms is None else told_ms
    item = {"deleted": False, "truncated_at_ms": told_ms, "audio_ms": 3000}
    return _judge(caller, "item", item, whole, 0.0, BEGAN_AT + carried_ms / 1000)


@pytest.mark.parametrize("late_ms", [40, 900, 2000])
def test_a_voice_that_goes_on_is_found_however_long_it_does(late_ms):
    for mode in ("server", "local"):
        found = judged([BEGAN_AT + 0.5], 500 + late_ms, mode=mode)
        assert found.silent_after_ms == pytest.approx(late_ms)
        assert found.error_ms == 0


def test_what_the_model_was_told_is_held_against_the_line():
    assert judged([BEGAN_AT + 0.5], 600, told_ms=660).error_ms == pytest.approx(60)


def test_too_few_interruptions_prove_nothing():
    found = [judged([BEGAN_AT + 0.5], 540)] * 3
    console = Console(file=io.StringIO())
    assert report(found, console, 3)
    assert not report(found, console, 4)
    assert not report([judged([], 540)] * 3, console, 3)  # nobody noticed that the caller spoke
    assert not report([judged([BEGAN_AT + 0.1], 1500)], console, 1)
