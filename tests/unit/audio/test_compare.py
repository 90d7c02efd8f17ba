import math
import time

import numpy as np
import pytest

from libs.audio.compare import best_correlation, snr_db
from libs.audio.tone import comfort_noise, silence, tone

SPEECH = comfort_noise(500, 8000, -20, seed=1)


def scaled(pcm, gain):
    return np.rint(np.frombuffer(pcm, "<i2") * gain).astype("<i2").tobytes()


def test_reference_is_found_at_its_place_whatever_its_gain():
    heard = comfort_noise(300, 8000, -45, seed=2) + scaled(SPEECH, 0.3) + silence(200, 8000)
    correlation, lag = best_correlation(SPEECH, heard)
    assert lag == 2400
    assert correlation > 0.999


def test_correlation_agrees_with_its_definition():
    rng = np.random.default_rng(5)
    reference, heard = rng.integers(-999, 999, 50), rng.integers(-999, 999, 90)
    best = -1.0
    for lag in range(-49, 90):
        padded = np.concatenate((np.zeros(50), heard, np.zeros(50)))[50 + lag : 100 + lag]
        value = reference @ padded / math.sqrt((reference @ reference) * max(padded @ padded, 1e-9))
        if value > best:
            best, best_lag = value, lag
    correlation, lag = best_correlation(reference.astype("<i2").tobytes(), heard.astype("<i2").tobytes())
    assert (correlation, lag) == (pytest.approx(best), best_lag)


def test_something_else_does_not_correlate():
    assert best_correlation(SPEECH, comfort_noise(3000, 8000, -20, seed=3))[0] < 0.1


def test_beginning_that_was_cut_off_gives_a_negative_lag():
    correlation, lag = best_correlation(SPEECH, SPEECH[800:])
    assert lag == -400
    assert 0.9 < correlation < 0.97


def test_max_lag_bounds_the_search_both_ways():
    heard = silence(300, 8000) + SPEECH
    assert best_correlation(SPEECH, heard, max_lag=2400)[1] == 2400
    assert best_correlation(SPEECH, heard, max_lag=2399)[0] < 0.2
    assert best_correlation(SPEECH, heard, max_lag=10**9)[1] == 2400


@pytest.mark.parametrize(
    ("reference", "heard"), [(b"", SPEECH), (SPEECH, b""), (SPEECH, bytes(100)), (bytes(9), SPEECH)]
)
def test_silence_correlates_with_nothing(reference, heard):
    reference = reference[: len(reference) & ~1]
    assert best_correlation(reference, heard) == (0.0, 0)


def test_ratio_is_that_of_the_noise_added_and_gain_counts_as_noise():
    noise = np.frombuffer(comfort_noise(500, 8000, -50, seed=4), "<i2")
    heard = silence(40, 8000) + (np.frombuffer(SPEECH, "<i2") + noise).astype("<i2").tobytes()
    assert snr_db(SPEECH, heard) == pytest.approx(30, abs=0.5)
    assert snr_db(SPEECH, scaled(SPEECH, 0.5)) == pytest.approx(6, abs=0.1)
    assert snr_db(SPEECH, silence(40, 8000) + SPEECH) == math.inf
    assert snr_db(bytes(100), SPEECH) == -math.inf


def test_ten_seconds_are_found_in_sixty_quickly():
    reference = tone(440, 5000, 8000) + comfort_noise(5000, 8000, -20)
    heard = comfort_noise(30000, 8000, -30, seed=6) + reference + silence(20000, 8000)
    started_at = time.process_time()
    correlation, lag = best_correlation(reference, heard)
    assert time.process_time() - started_at < 0.5
    assert (lag, round(correlation, 3)) == (240000, 1.0)
