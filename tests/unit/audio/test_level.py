import pytest

from libs.audio.level import EnergyVad, SpeechEnded, SpeechStarted, dbfs, rms
from libs.audio.tone import silence, tone

LOUD, QUIET = tone(400, 20, 8000, -20), tone(400, 20, 8000, -60)


def run(vad, pattern):
    """Frames as letters: L loud, q quiet; returns (number of frame, event)."""
    events = ((number, vad.push(LOUD if letter == "L" else QUIET)) for number, letter in enumerate(pattern))
    return [(number, event) for number, event in events if event]


def test_levels_of_known_signals():
    assert rms(b"\x00\x40" * 100) == 16384
    assert dbfs(b"\x00\x40" * 100) == pytest.approx(-6.02, abs=0.01)
    assert dbfs(tone(1000, 100, 8000, -3.02)) == pytest.approx(-3.02, abs=0.01)


@pytest.mark.parametrize("pcm", [b"", silence(20, 8000)])
def test_silence_and_nothing_are_at_the_floor(pcm):
    assert (rms(pcm), dbfs(pcm)) == (0, -96)


def test_speech_starts_with_its_prefix_and_ends_after_the_pause():
    vad = EnergyVad(8000, prefix_ms=100, min_speech_ms=60, silence_ms=100)
    assert run(vad, "qqqqqqqqqqLLLLqqqqqqqq") == [
        (12, SpeechStarted(1600 - 800)),
        (18, SpeechEnded(14 * 160)),
    ]


def test_a_click_is_not_speech_and_a_short_pause_is_not_its_end():
    vad = EnergyVad(8000, min_speech_ms=60, silence_ms=100)
    assert run(vad, "LLqLqqLLq") == []
    assert [event for _, event in run(vad, "LLLqqqqLqqqqL")] == [SpeechStarted(9 * 160 - 800)]
    assert vad.speaking


def test_speech_at_once_starts_at_zero():
    assert run(EnergyVad(8000), "LLL") == [(2, SpeechStarted(0))]


def test_second_utterance_is_found():
    vad = EnergyVad(8000, prefix_ms=0, min_speech_ms=40, silence_ms=40)
    assert [event for _, event in run(vad, "LLqqLLqq")] == [
        SpeechStarted(0),
        SpeechEnded(320),
        SpeechStarted(640),
        SpeechEnded(960),
    ]
