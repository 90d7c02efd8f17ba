import pytest

from libs.audio.level import dbfs, rms
from libs.audio.tone import silence, tone


def test_levels_of_known_signals():
    assert rms(b"\x00\x40" * 100) == 16384
    assert dbfs(b"\x00\x40" * 100) == pytest.approx(-6.02, abs=0.01)
    assert dbfs(tone(1000, 100, 8000, -3.02)) == pytest.approx(-3.02, abs=0.01)


@pytest.mark.parametrize("pcm", [b"", silence(20, 8000)])
def test_silence_and_nothing_are_at_the_floor(pcm):
    assert (rms(pcm), dbfs(pcm)) == (0, -96)
