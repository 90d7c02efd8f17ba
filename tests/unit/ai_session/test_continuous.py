"""The stream without end: what of it goes on, and when."""

import pytest
from hypothesis import given, strategies as st

from libs.audio.level import dbfs
from libs.audio.tone import silence, tone
from services.ai_session.continuous import END_MS, PAUSE_MS, Talk, TalkBegan, TalkEnded, Talkspurts

RATE_HZ = 8000


class Stream:
    """Pushes pieces at the moment at which a server in real time would send them, and plays what goes on."""

    def __init__(self, piece_ms=20, rate_hz=RATE_HZ):
        self.talk = Talkspurts(rate_hz)
        self.rate_hz, self.piece = rate_hz, 2 * rate_hz * piece_ms // 1000
        self.now = 100.0
        self.events = []

    def push(self, pcm, *, late_s=0.0):
        for start in range(0, len(pcm), self.piece):
            piece = pcm[start : start + self.piece]
            self.now += len(piece) / 2 / self.rate_hz
            self.events += self.talk.push(piece, max(self.now, late_s))
        return self.events

    def burst(self, pcm):
        """All pieces at once, now."""
        for start in range(0, len(pcm), self.piece):
            self.events += self.talk.push(pcm[start : start + self.piece], self.now)

    @property
    def sound(self):
        return b"".join(event.pcm for event in self.events if isinstance(event, Talk))


def voice(ms, rate_hz=RATE_HZ):
    return tone(440, ms, rate_hz, -20)


def quiet(ms, rate_hz=RATE_HZ):
    return silence(ms, rate_hz)


def loud_ms(pcm):
    frames = [pcm[start : start + 320] for start in range(0, len(pcm), 320)]
    return 20 * sum(dbfs(frame) > -40 for frame in frames)


def test_silence_between_talkspurts_goes_nowhere():
    stream = Stream()
    assert stream.push(quiet(5000)) == []
    stream.push(voice(400))
    stream.push(quiet(3000))
    assert [type(event) for event in stream.events if not isinstance(event, Talk)] == [TalkBegan, TalkEnded]
    assert loud_ms(stream.sound) == 400
    assert len(stream.sound) / 16 <= 400 + PAUSE_MS + 140


@pytest.mark.parametrize("piece_ms", [20, 33, 60, 100])
@pytest.mark.parametrize("rate_hz", [8000, 16000])
def test_a_voice_begins_one_piece_behind_the_stream_and_never_waits_for_the_next_piece(piece_ms, rate_hz):
    stream = Stream(piece_ms, rate_hz)
    stream.push(quiet(1000 + 7, rate_hz))
    stream.push(voice(200, rate_hz))
    lag_ms = stream.talk.lead_ms(stream.now)
    assert piece_ms <= lag_ms <= 160
    before = stream.talk.inserted_ms
    for _ in range(20):
        stream.push(voice(100, rate_hz))
        assert stream.talk.lead_ms(stream.now) == pytest.approx(lag_ms, abs=40)
    assert stream.talk.inserted_ms == before


def test_a_pause_in_mid_sentence_keeps_its_length():
    stream = Stream(40)
    stream.push(quiet(400) + voice(500) + quiet(220) + voice(500))
    middle = stream.sound
    assert loud_ms(middle) == 1000
    assert stream.talk.skipped_ms == 0


def test_after_a_stall_pauses_are_shortened_until_the_voice_is_in_time_again_and_no_speech_is_lost():
    stream = Stream(100)
    stream.push(quiet(500) + voice(400))
    usual_ms = stream.talk.lead_ms(stream.now)
    stream.now += 1.0  # the server sends nothing for a second, and then all of it at once
    stream.burst(voice(1000))
    assert stream.talk.lead_ms(stream.now) > 900
    spoken_ms = 1400
    for _ in range(5):
        stream.push(quiet(280) + voice(300))
        spoken_ms += 300
    assert loud_ms(stream.sound) == spoken_ms
    assert stream.talk.lead_ms(stream.now) <= usual_ms + 60


def test_a_long_silence_makes_up_for_any_lag():
    stream = Stream(20)
    stream.push(quiet(500))
    stream.burst(voice(1500))
    stream.push(quiet(END_MS + 2000))
    stream.push(voice(100))
    assert stream.talk.lead_ms(stream.now) <= 100


def test_a_stream_that_falters_gets_a_new_cushion():
    stream = Stream(20)
    stream.push(quiet(200) + voice(200))
    stream.now += 0.5
    before = len(stream.sound)
    stream.push(voice(20))
    assert stream.talk.inserted_ms > 0
    assert len(stream.sound) > before + 320


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40), st.integers(1, 900), st.integers(0, 800)), max_size=30))
def test_whatever_comes_in_whatever_pieces_speech_is_complete_and_in_order(stretches):
    talk, now, events, spoken = Talkspurts(RATE_HZ), 0.0, [], b""
    for number, (loud, frames, piece, wait_ms) in enumerate(stretches):
        pcm = bytes((1000 + 40 * number).to_bytes(2, "little") * 160 * frames) if loud else bytes(320 * frames)
        spoken += pcm if loud else b""
        now += wait_ms / 1000
        for start in range(0, len(pcm), 2 * piece):
            events += talk.push(pcm[start : start + 2 * piece], now)
    sound = b"".join(event.pcm for event in events if isinstance(event, Talk))
    frames = [sound[start : start + 320] for start in range(0, len(sound), 320)]
    assert b"".join(frame for frame in frames if any(frame)) == spoken
    kinds = [type(event) for event in events if not isinstance(event, Talk)]
    assert kinds == ([TalkBegan, TalkEnded] * len(kinds))[: len(kinds)]
