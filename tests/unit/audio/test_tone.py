import numpy as np
import pytest

from libs.audio.level import dbfs
from libs.audio.tone import comfort_noise, silence, tone, waiting_tone


@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000])
def test_length_frequency_and_level_are_as_asked(rate_hz):
    pcm = tone(440, 1000, rate_hz, -12)
    assert len(pcm) == 2 * rate_hz
    assert int(np.argmax(np.abs(np.fft.rfft(np.frombuffer(pcm, "<i2"))))) == 440
    assert dbfs(pcm) == pytest.approx(-12, abs=0.01)


def test_too_loud_a_tone_saturates():
    assert max(np.frombuffer(tone(440, 100, 8000, 0), "<i2")) == 32767


def test_silence_is_zeros():
    assert silence(20, 8000) == bytes(320)


def test_comfort_noise_depends_on_its_seed_alone():
    assert comfort_noise(100, 8000, -50, 1) == comfort_noise(100, 8000, -50, 1) != comfort_noise(100, 8000, -50, 2)
    assert dbfs(comfort_noise(1000, 8000, -50)) == pytest.approx(-50, abs=0.5)


@pytest.mark.parametrize("rate_hz", [8000, 24000])
def test_waiting_tone_is_two_soft_notes_that_loop_without_a_click(rate_hz):
    loop = waiting_tone(rate_hz)
    samples = np.frombuffer(loop, "<i2").astype(int)
    assert len(samples) == 2 * rate_hz
    frames = [dbfs(loop[at : at + 2 * rate_hz // 50]) for at in range(0, len(loop), 2 * rate_hz // 50)]
    assert max(frames) == pytest.approx(-30, abs=0.5)
    assert min(frames) == pytest.approx(-62, abs=2)
    last_5_ms_of_a_note = loop[2 * 745 * rate_hz // 1000 : 2 * 750 * rate_hz // 1000]
    assert dbfs(last_5_ms_of_a_note) < -40
    twice = np.concatenate((samples, samples))
    assert np.abs(np.diff(twice)).max() < 1.1 * 1466 * 2 * np.pi * 660 / rate_hz + 100
