import numpy as np
import pytest

from libs.audio.compare import snr_db
from libs.audio.conceal import Concealer
from libs.audio.level import dbfs
from libs.audio.tone import comfort_noise, silence, tone


def frames(pcm, rate_hz):
    size = 2 * rate_hz // 50
    return [pcm[at : at + size] for at in range(0, len(pcm), size)]


def play(pcm, lost, rate_hz=8000):
    concealer = Concealer(rate_hz)
    return b"".join(
        concealer.conceal(len(frame) // 2) if number in lost else concealer.good(frame)
        for number, frame in enumerate(frames(pcm, rate_hz))
    )


def steepest(pcm):
    return int(np.abs(np.diff(np.frombuffer(pcm, "<i2").astype(int))).max())


@pytest.mark.parametrize("pcm", [tone(137, 200, 8000), comfort_noise(200, 8000, -20)])
def test_without_loss_nothing_is_changed(pcm):
    assert play(pcm, set()) == pcm


@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000])
@pytest.mark.parametrize("hz", [90, 137, 210, 400, 1000])
def test_a_lost_frame_of_a_tone_is_continued_without_a_click(rate_hz, hz):
    sent = tone(hz, 400, rate_hz)
    heard = play(sent, {8, 13}, rate_hz)
    assert len(heard) == len(sent)
    assert steepest(heard) < 1.5 * steepest(sent)
    assert snr_db(sent, heard) > snr_db(sent, with_silence(sent, {8, 13}, rate_hz)) + 3


def with_silence(pcm, lost, rate_hz):
    return b"".join(bytes(len(f)) if n in lost else f for n, f in enumerate(frames(pcm, rate_hz)))


def test_concealment_fades_to_silence_within_60_ms():
    heard = frames(play(tone(200, 400, 8000), range(5, 12)), 8000)
    levels = [dbfs(frame) for frame in heard[5:12]]
    assert levels[0] > levels[1] > levels[2] > -40
    assert heard[8:12] == [bytes(320)] * 4


def test_the_first_good_frame_fades_in_and_the_next_is_untouched():
    sent = tone(1000, 400, 8000)
    heard = frames(play(sent, range(5, 12)), 8000)
    fade = 2 * 40
    assert heard[12][:fade] != frames(sent, 8000)[12][:fade]
    assert heard[12][fade:] == frames(sent, 8000)[12][fade:]
    assert heard[13:] == frames(sent, 8000)[13:]


def test_loss_before_any_audio_is_silence():
    assert Concealer(8000).conceal(160) == silence(20, 8000)


@pytest.mark.parametrize("hz", [50, 93.75, 137])
def test_a_tone_that_swells_to_full_scale_is_continued_without_a_click(hz):
    """No period fits here: the step into it is levelled out, it joins itself, and nothing wraps at 16 bits."""
    time = np.arange(-800, 800) / 8000  # frame 5, the lost one, begins at a full-scale peak
    wave = 32767 * np.minimum(np.exp(12 * time), 1) * np.cos(2 * np.pi * hz * time)
    sent = np.rint(wave).astype("<i2").tobytes()
    heard = frames(play(sent, {5, 6, 7}), 8000)
    into_and_through = heard[4][-2:] + b"".join(heard[5:8])
    assert steepest(into_and_through) < 1.5 * steepest(sent)
