"""Both directions of a call side by side: distinct, and never further apart than a frame."""

import random

import numpy as np
import pytest

from libs.audio.stereo import StereoTrack
from libs.call_leg.audio import CallAudio
from libs.contracts.frame import AudioFrame, Codec, Flag, pack, unpack

FRAME = 160


def frame(value):
    return np.full(FRAME, value, "<i2").tobytes()


def channels(stereo):
    samples = np.frombuffer(stereo, "<i2").reshape(-1, 2)
    return samples[:, 0], samples[:, 1]


def test_the_caller_is_left_and_what_they_heard_is_right():
    track, stereo = StereoTrack(8000), b""
    for number in range(1, 11):
        track.caller(frame(number))
        stereo += track.heard(number, frame(-number))
    left, right = channels(stereo + track.rest())
    assert list(left[::FRAME]) == [0, 0, *range(1, 11)]
    assert list(right[::FRAME]) == [0, 0, *range(-1, -11, -1)]


def test_frames_of_any_length_and_silence_are_whole_frames_again():
    track = StereoTrack(8000)
    track.caller(frame(7) + frame(8)[:100])
    track.caller(frame(8)[100:])
    stereo = b"".join(track.heard(number, b"") for number in range(1, 5)) + track.rest()
    left, right = channels(stereo)
    assert list(left[::FRAME]) == [0, 0, 7, 8, 0, 0]
    assert not right.any()


def test_lost_out_frames_are_silence_and_repeated_ones_nothing():
    track = StereoTrack(8000)
    stereo = track.heard(1, frame(1)) + track.heard(4, frame(4)) + track.heard(3, frame(3))
    assert len(stereo) == 4 * 4 * FRAME
    assert track.counters == {"lost": 2, "repeated": 1}


@pytest.mark.parametrize("ppm", [-150, 0, 150])
def test_the_channels_are_within_a_frame_after_half_an_hour_of_jitter_loss_failovers_and_interruptions(ppm):
    """The real `CallAudio` in virtual time: what reached and what left the gateway together stands together."""
    rng, track, pieces, bus = random.Random(5), StereoTrack(8000), [], []
    audio = CallAudio("default", "gw", "call", lambda subject, data: bus.append((subject, data)) is None)
    audio.is_overheard = True
    audio.start("wk1", 1, "continuous", 0.0)
    arrivals, worker = _arrivals(rng, MINUTES * 60, ppm), _Worker(audio)
    said_at, heard_at, at = [], [], 0
    for tick in range(MINUTES * 60 * 50):
        now = tick * 0.02
        while at < len(arrivals) and arrivals[at][0] <= now:
            _, due_at, is_loud = arrivals[at]
            audio.received(frame(1000 if is_loud else 0), now)
            _note(said_at, due_at, is_loud)
            at += 1
        audio.fill(now)
        worker.speak(tick, now)
        played = audio.tick()
        _note(heard_at, now, played is not None and any(played))
        for subject, data in bus:
            sent = unpack(data)
            if subject.endswith(".up"):
                track.caller(sent.payload)
            elif rng.random() > 0.0005 or any(sent.payload):  # the bus loses some, but not what is measured
                pieces.append(track.heard(sent.seq, sent.payload))
        bus.clear()
    left, right = channels(b"".join([*pieces, track.rest()]))
    begins = _begins(left, 1000), _begins(right, 2000)
    assert len(begins[0]) == len(begins[1]) == len(said_at) == len(heard_at) == MINUTES
    recorded_ms = (begins[0] - begins[1]) / 8
    true_ms = 1000 * (np.array(said_at) - np.array(heard_at))
    assert np.abs(recorded_ms - true_ms).max() <= 20
    assert set(left) == {0, 1000}
    assert set(right) == {0, 2000}


MINUTES = 30


class _Worker:
    """Speaks for 200 ms at the full minute, is interrupted now and then, and dies twice."""

    def __init__(self, audio):
        self.audio, self.epoch, self.seq, self.timestamp = audio, 1, 0, 0

    def speak(self, tick, now):
        if tick in (20_000, 55_000):  # for half a second nobody has the call
            self.audio.stop()
        if tick in (20_025, 55_025):
            self.epoch, self.seq, self.timestamp = self.epoch + 1, 0, 0
            self.audio.start(f"wk{self.epoch}", self.epoch, "continuous", now)
        if self.audio.wk is None:
            return
        flags = Flag.FLUSH if tick % 700 == 350 else 0
        payload = b"" if flags else frame(2000 if tick % 3000 < 10 else 0)
        sent = AudioFrame(Codec.PCM16_8000, flags, self.epoch, self.seq, self.timestamp, payload)
        self.audio.heard_from_worker(f"wk{self.epoch}", pack(sent))
        self.seq, self.timestamp = self.seq + 1, self.timestamp + len(payload) // 2


def _arrivals(rng, seconds, ppm):
    """When each of the caller's frames arrives, when it is due, whether it is loud; losses are concealed in place."""
    arrivals, number, last_at = [], 0, 0.0
    while (sent_at := number * 0.02) < seconds:
        due_at = sent_at * (1 + ppm * 1e-6) + 0.025
        last_at = max(last_at, due_at + (rng.random() - 0.5) * 0.03)
        arrivals.append((last_at, due_at, sent_at % 60 < 0.2))
        number += 1
    return arrivals


def _note(beginnings, at, is_loud):
    if is_loud and (not beginnings or at - beginnings[-1] > 30):
        beginnings.append(at)


def _begins(channel, value):
    loud = np.flatnonzero(channel == value)
    before = np.r_[-(10**6), loud[:-1]]
    return loud[loud - before > 8000 * 30]
