import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from libs.audio.level import dbfs
from libs.audio.resample import Resampler
from libs.audio.tone import comfort_noise, tone

PAIRS = [(24000, 8000), (8000, 24000), (24000, 16000), (16000, 24000), (8000, 16000), (16000, 8000), (48000, 8000)]
DOWN = [pair for pair in PAIRS if pair[0] > pair[1]]
UP = [pair for pair in PAIRS if pair[0] < pair[1]]


def settled(in_hz, out_hz, pcm):
    """Output without the first and last 50 ms, where the filter fills and a tone begins."""
    out = Resampler(in_hz, out_hz).process(pcm)
    edge = 2 * out_hz // 20
    return out[edge:-edge]


def residue_dbfs(pcm, hz, rate_hz):
    """Level of what is left after the best fitting sine at `hz` has been taken out."""
    samples = np.frombuffer(pcm, "<i2").astype(float)
    angle = 2 * math.pi * hz / rate_hz * np.arange(len(samples))
    basis = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    fit, *_ = np.linalg.lstsq(basis, samples, rcond=None)
    left = samples - basis @ fit
    return 20 * math.log10(math.sqrt(float(np.mean(left**2))) / 32768)


@pytest.mark.parametrize(("in_hz", "out_hz"), PAIRS)
def test_20_ms_in_are_exactly_20_ms_out_every_time(in_hz, out_hz):
    resampler = Resampler(in_hz, out_hz)
    frame = comfort_noise(20, in_hz, -20)
    assert {len(resampler.process(frame)) for _ in range(50)} == {2 * out_hz // 50}


@pytest.mark.parametrize(("in_hz", "out_hz"), PAIRS)
@given(cuts=st.lists(st.integers(0, 700), max_size=30))
def test_the_way_a_stream_is_cut_does_not_change_one_bit(in_hz, out_hz, cuts):
    pcm = comfort_noise(250, in_hz, -12, seed=7)
    whole = Resampler(in_hz, out_hz).process(pcm)
    resampler, at, parts = Resampler(in_hz, out_hz), 0, []
    for samples in cuts:
        parts.append(resampler.process(pcm[at : at + 2 * samples]))
        at = min(len(pcm), at + 2 * samples)
        assert sum(map(len, parts)) // 2 == -(-(at // 2) * out_hz // in_hz)
    parts.append(resampler.process(pcm[at:]))
    assert b"".join(parts) == whole


@pytest.mark.parametrize(("in_hz", "out_hz"), DOWN)
def test_tones_above_the_new_band_are_rejected_by_80_db(in_hz, out_hz):
    lowest = 4400 * out_hz // 8000  # aliases to 3.6 kHz and below
    for hz in range(lowest, in_hz // 2, 370):
        assert dbfs(settled(in_hz, out_hz, tone(hz, 300, in_hz, -4))) < -84


@pytest.mark.parametrize(("in_hz", "out_hz"), UP)
@pytest.mark.parametrize("share_of_rate", [0.0125, 0.125, 0.3, 0.4])
def test_images_of_the_old_band_are_rejected_by_80_db(in_hz, out_hz, share_of_rate):
    hz = in_hz * share_of_rate
    assert residue_dbfs(settled(in_hz, out_hz, tone(hz, 300, in_hz, -4)), hz, out_hz) < -84


@pytest.mark.parametrize(("in_hz", "out_hz"), PAIRS)
@pytest.mark.parametrize("share_of_band", [0.02, 0.3, 0.85])
def test_the_speech_band_passes_without_loss(in_hz, out_hz, share_of_band):
    hz = share_of_band * min(in_hz, out_hz) / 2  # 0.85: 3.4 kHz at 8 kHz
    assert dbfs(settled(in_hz, out_hz, tone(hz, 300, in_hz, -10))) == pytest.approx(-10, abs=0.1)


@pytest.mark.parametrize(("in_hz", "out_hz"), PAIRS)
def test_delay_is_3_ms_at_8_khz_and_as_stated(in_hz, out_hz):
    click = bytearray(2 * in_hz // 10)
    click[2 * in_hz // 20 : 2 * in_hz // 20 + 2] = (20000).to_bytes(2, "little")
    resampler = Resampler(in_hz, out_hz)
    out = np.frombuffer(resampler.process(bytes(click)), "<i2")
    assert int(np.argmax(out)) == out_hz // 20 + resampler.delay_samples
    assert resampler.delay_samples / out_hz == (0.003 if 8000 in (in_hz, out_hz) else 0.0015)


@pytest.mark.parametrize(("in_hz", "out_hz"), PAIRS)
def test_full_scale_square_wave_saturates_instead_of_wrapping(in_hz, out_hz):
    half = in_hz // 200
    square = np.tile(np.r_[np.full(half, 32767), np.full(half, -32768)], 10).astype("<i2")
    out = np.frombuffer(Resampler(in_hz, out_hz).process(square.tobytes()), "<i2").astype(int)
    delay = Resampler(in_hz, out_hz).delay_samples
    middle = delay + out_hz // 400  # middle of the first positive half
    assert out[middle] > 28000
    assert np.abs(np.diff(out)).max() < 65000 or in_hz > out_hz


def test_equal_rates_pass_through():
    resampler = Resampler(8000, 8000)
    assert (resampler.process(b"\x01\x02"), resampler.delay_samples) == (b"\x01\x02", 0)


def test_other_rates_and_half_samples_are_errors():
    with pytest.raises(ValueError, match="cannot resample 44100 Hz to 8000 Hz"):
        Resampler(44100, 8000)
    with pytest.raises(ValueError, match="3 bytes are not a whole number"):
        Resampler(24000, 8000).process(b"abc")
