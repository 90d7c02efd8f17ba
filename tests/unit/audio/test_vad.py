import time

import pytest

from libs.audio.level import dbfs
from libs.audio.tone import comfort_noise, silence, tone
from libs.audio.vad import EnergyVad, GateTimes, VoiceDiscarded, VoiceStarted, VoiceStopped
from libs.audio.vad_utterances import (
    LONGEST_UTTERANCE_MS,
    UtteranceBegan,
    UtteranceDropped,
    UtteranceEnded,
    Utterances,
)

RATE_HZ = 8000
TIMES = GateTimes(prefix_padding_ms=100, silence_ms=400, min_speech_ms=120)


def frames(pcm, rate_hz=RATE_HZ):
    step = rate_hz * 20 // 1000 * 2
    return [pcm[at : at + step] for at in range(0, len(pcm), step)]


def run(vad, *parts, rate_hz=RATE_HZ):
    """Events with the ms at the end of the frame that brought them."""
    events = []
    for number, frame in enumerate(frames(b"".join(parts), rate_hz), 1):
        event = vad.push(frame)
        if event is not None:
            events.append((20 * number, event))
    return events


def voice(ms, dbfs=-20.0, rate_hz=RATE_HZ):
    return tone(300, ms, rate_hz, dbfs)


@pytest.mark.parametrize("rate_hz", [8000, 16000])
def test_voice_begins_an_utterance_after_two_frames_and_silence_ends_it(rate_hz):
    vad = EnergyVad(rate_hz, times=TIMES)
    events = run(vad, silence(200, rate_hz), voice(500, rate_hz=rate_hz), silence(600, rate_hz), rate_hz=rate_hz)
    assert events == [(240, VoiceStarted(140)), (1100, VoiceStopped(500, 400))]
    assert not vad.speaking


def test_a_click_is_nothing_at_all():
    assert run(EnergyVad(RATE_HZ, times=TIMES), silence(100, RATE_HZ), voice(20), silence(600, RATE_HZ)) == []


def test_a_short_sound_is_discarded_sooner_than_an_utterance_ends():
    times = GateTimes(silence_ms=1000, min_speech_ms=120)
    events = run(EnergyVad(RATE_HZ, times=times), voice(80), silence(1500, RATE_HZ))
    assert events == [(40, VoiceStarted(340)), (380, VoiceDiscarded(80))]


def test_a_pause_that_is_shorter_than_the_silence_belongs_to_the_utterance():
    events = run(EnergyVad(RATE_HZ, times=TIMES), voice(300), silence(380, RATE_HZ), voice(300), silence(400, RATE_HZ))
    assert [type(event) for _, event in events] == [VoiceStarted, VoiceStopped]
    assert events[-1][1].voiced_ms == 600


def test_a_voice_may_flicker_around_the_threshold_once_it_began():
    vad = EnergyVad(RATE_HZ, -40.0, TIMES)
    events = run(vad, voice(100, -35), voice(1000, -43), silence(400, RATE_HZ))
    assert events[-1][1] == VoiceStopped(1100, 400)


def test_what_stays_below_the_threshold_is_silence():
    assert run(EnergyVad(RATE_HZ, -40.0, TIMES), voice(2000, -41)) == []


def test_steady_noise_raises_the_threshold_so_that_turns_still_end():
    hiss = comfort_noise(12_000, RATE_HZ, -36.0)
    deaf = run(EnergyVad(RATE_HZ, -40.0, TIMES, adaptive=False), hiss)
    assert [type(event) for _, event in deaf] == [VoiceStarted]
    vad = EnergyVad(RATE_HZ, -40.0, TIMES)
    assert [type(event) for _, event in run(vad, hiss)] == [VoiceStarted, VoiceStopped]
    assert [type(event) for _, event in run(vad, voice(400, -20), hiss[: 16 * 1000])] == [VoiceStarted, VoiceStopped]


def test_loud_noise_cannot_deafen_the_detector():
    vad = EnergyVad(RATE_HZ, -40.0, TIMES)
    run(vad, comfort_noise(8000, RATE_HZ, -12.0))
    assert vad.threshold_dbfs == -28.0


def test_levels_agree_with_their_definition():
    assert dbfs(voice(20, -20)) == pytest.approx(-20, abs=0.1)
    assert dbfs(silence(20, RATE_HZ)) == -96
    assert dbfs(b"") == -96


def test_a_frame_costs_microseconds():
    vad, some = EnergyVad(RATE_HZ), frames(voice(2000))
    began = time.process_time()
    for frame in some * 10:
        vad.push(frame)
    assert (time.process_time() - began) / (10 * len(some)) < 200e-6  # about 5; a shared machine may be slow


def collected(times=TIMES, *parts):
    cut = Utterances(EnergyVad(RATE_HZ, times=times), RATE_HZ, times)
    return [event for frame in frames(b"".join(parts)) if (event := cut.push(frame)) is not None]


def test_an_utterance_has_its_pre_roll_and_little_of_its_silence():
    before = tone(100, 400, RATE_HZ, -60)
    events = collected(TIMES, before, voice(500), silence(600, RATE_HZ))
    assert events[0] == UtteranceBegan()
    pcm = events[1].pcm
    assert len(pcm) == 16 * (100 + 500 + 240)
    assert pcm[: 16 * 100] == before[-16 * 100 :]
    assert pcm[16 * 100 : 16 * 600] == voice(500)


def test_a_stream_that_begins_with_voice_has_no_more_pre_roll_than_there_is():
    assert len(collected(TIMES, voice(500), silence(600, RATE_HZ))[1].pcm) == 16 * (500 + 240)


def test_a_short_sound_is_dropped_and_brought_back_by_the_next_utterance():
    times = GateTimes(prefix_padding_ms=400, silence_ms=1000, min_speech_ms=120)
    events = collected(times, voice(60), silence(320, RATE_HZ), voice(400), silence(1000, RATE_HZ))
    assert [type(event) for event in events] == [UtteranceBegan, UtteranceDropped, UtteranceBegan, UtteranceEnded]
    assert events[-1].pcm.startswith(voice(60))


def test_who_speaks_for_ever_is_cut_into_utterances():
    events = collected(TIMES, voice(LONGEST_UTTERANCE_MS + 5000))
    assert [type(event) for event in events] == [UtteranceBegan, UtteranceEnded, UtteranceBegan]
    assert len(events[1].pcm) == 16 * LONGEST_UTTERANCE_MS
