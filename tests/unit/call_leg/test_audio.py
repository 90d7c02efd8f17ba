"""One call's audio at the gateway: whose frames are played, what the uplink says of it."""

import pytest

from libs.call_leg.audio import CallAudio
from libs.contracts.frame import AudioFrame, Codec, Flag, pack, unpack

T0 = 50.0
LOUD = b"\x01\x10" * 160
SILENCE = bytes(320)


class Side:
    """A call's audio with a list for a bus."""

    def __init__(self, wk="a", epoch=1, **settings):
        self.sent = []
        self.up = True
        self.audio = CallAudio("o", "gw", "c", self.publish, **settings)
        self.audio.start(wk, epoch, "paced", T0)
        self.now = T0

    def publish(self, subject, data):
        if self.up:
            self.sent.append((subject, unpack(data)))
        return self.up

    def hears(self, seq, wk="a", epoch=1, payload=LOUD, flags=0, codec=0):
        return self.audio.heard_from_worker(wk, pack(AudioFrame(codec, flags, epoch, seq, seq * 160, payload)))

    def caller_says(self, pcm=LOUD):
        self.audio.received(pcm, self.now)
        self.now += 0.02
        return self.sent[-1][1]


def test_the_owners_frames_are_played_and_a_talkspurts_first_goes_at_once():
    side = Side()
    assert [side.hears(0), side.audio.tick(), side.hears(1), side.audio.tick(), side.audio.tick()] == [
        True, LOUD, False, LOUD, None,
    ]  # fmt: skip


@pytest.mark.parametrize(("wk", "epoch"), [("b", 1), ("a", 2), ("a", 0), ("b", 2)])
def test_a_frame_of_a_foreign_worker_or_epoch_is_never_played(wk, epoch):
    side = Side()
    assert side.hears(0, wk=wk, epoch=epoch) is False
    assert side.audio.tick() is None
    assert side.audio.foreign + side.audio.playout.counters["fenced"] == 1


def test_after_a_failover_the_old_owners_frames_are_never_played_whatever_epoch_they_claim():
    side = Side()
    side.hears(0)
    side.audio.stop()
    for epoch in (-1, 0, 1, 2):
        if epoch >= 0:
            side.hears(1, epoch=epoch)
    assert side.audio.tick() is None
    side.audio.start("b", 2, "paced", T0)
    side.hears(2, epoch=1)
    side.hears(2, epoch=2)
    assert side.audio.tick() is None
    side.hears(0, wk="b", epoch=2)
    assert side.audio.tick() == LOUD


def test_what_is_no_frame_for_this_call_is_counted():
    side = Side()
    for data in b"", b"\x93\x01", pack(AudioFrame(Codec.PCM16_16000, 0, 1, 0, 0, bytes(640))):
        assert side.audio.heard_from_worker("a", data) is False
    assert (side.audio.malformed, side.audio.tick()) == (3, None)


def test_every_frame_up_tells_what_was_played():
    side = Side()
    side.hears(0), side.hears(1)
    positions = [side.caller_says().played]
    for _ in range(3):
        side.audio.tick()
        positions.append(side.caller_says().played)
    assert positions == [0, 160, 320, 320]


def test_frames_up_carry_the_flushed_flag_from_the_flush_until_newer_audio():
    side = Side()
    side.hears(0), side.hears(1), side.audio.tick()
    flags = [side.caller_says().flags]
    side.hears(2, flags=Flag.FLUSH, payload=b"")
    flags.append(side.caller_says().flags)  # the voice is still falling silent
    side.audio.tick()
    frame = side.caller_says()
    flags += [frame.flags, side.caller_says().flags]
    side.hears(3)
    flags.append(side.caller_says().flags)
    assert flags == [0, 0, Flag.FLUSHED, Flag.FLUSHED, 0]
    assert frame.played == 320


def level(pcm):
    return 0 if pcm is None else max(pcm[1::2])


def test_a_voice_that_is_cut_falls_silent_within_its_next_frame():
    side = Side()
    for seq in range(6):
        side.hears(seq)
    assert side.audio.tick() == side.audio.tick() == LOUD
    side.hears(6, flags=Flag.FLUSH, payload=b"")
    last = side.audio.tick()
    assert (level(last[:20]), level(last[-20:]), len(last)) == (level(LOUD), 0, len(LOUD))
    assert [side.audio.tick() for _ in range(5)] == [None] * 5
    assert side.audio.playout.played == 3 * 160
    assert (side.audio.playout.counters["flushed"], side.audio.playout.counters["played"]) == (3, 3)


def test_a_voice_that_had_not_begun_needs_no_end():
    side = Side()
    side.hears(0), side.hears(1)
    side.hears(2, flags=Flag.FLUSH, payload=b"")
    assert (side.audio.tick(), side.audio.playout.played, side.audio.playout.flushed) == (None, 0, True)


def test_a_repeated_flush_leaves_the_falling_frame_alone():
    side = Side()
    for seq in range(4):
        side.hears(seq)
    side.audio.tick()
    side.hears(4, flags=Flag.FLUSH, payload=b"")
    side.hears(4, flags=Flag.FLUSH, payload=b"")
    side.hears(5)
    assert side.audio.tick() != LOUD
    assert side.audio.tick() == LOUD


def test_muting_within_a_word_is_silence_after_one_falling_frame_and_unmuting_rises():
    side = Side()
    for seq in range(6):
        side.hears(seq)
    side.audio.tick()
    side.audio.muted = True
    falling, silent = side.audio.tick(), side.audio.tick()
    side.audio.muted = False
    rising, loud = side.audio.tick(), side.audio.tick()
    assert (level(falling[-20:]), silent, level(rising[:20]), loud) == (0, None, 0, LOUD)
    assert side.audio.playout.played == 5 * 160  # what was muted is not said again


def test_frames_up_count_without_gaps_on_the_owners_subject():
    side = Side()
    for _ in range(3):
        side.caller_says()
    side.now += 0.2
    side.audio.fill(side.now)
    frames = [frame for _, frame in side.sent]
    assert {subject for subject, _ in side.sent} == {"v1.o.aud.gw.a.c.up"}
    assert [frame.seq for frame in frames] == list(range(len(frames)))
    assert [frame.timestamp for frame in frames] == [160 * n for n in range(len(frames))]
    assert [bool(frame.flags & Flag.CONCEALED) for frame in frames] == [n >= 3 for n in range(len(frames))]
    assert frames[-1].payload == SILENCE
    side.audio.start("b", 2, "paced", side.now)
    frame = side.caller_says()
    assert (side.sent[-1][0], frame.seq, frame.timestamp, frame.epoch) == ("v1.o.aud.gw.b.c.up", 0, 0, 2)


def test_what_the_network_owes_is_concealed_where_the_entrance_can():
    side = Side()
    side.audio.fill(T0 + 0.1, lambda: LOUD)
    assert {frame.payload for _, frame in side.sent} == {LOUD}


def test_frames_that_the_bus_does_not_take_are_counted_and_not_kept():
    side = Side()
    side.up = False
    side.audio.received(LOUD, T0)
    side.up = True
    side.now = T0 + 0.02
    assert side.caller_says().seq == 1
    assert (side.audio.published, side.audio.unpublished, len(side.sent)) == (1, 1, 1)


def test_without_an_owner_nothing_goes_up():
    side = Side()
    side.audio.stop()
    side.audio.received(LOUD, T0)
    side.audio.fill(T0 + 5)
    assert side.sent == []


def test_a_muted_agent_is_played_out_unheard():
    side = Side()
    side.hears(0), side.hears(1), side.hears(2)
    side.audio.muted = True
    assert (side.audio.tick(), side.audio.playout.played) == (None, 160)
    side.audio.muted = False
    side.audio.tick()  # rises
    assert side.audio.tick() == LOUD


def test_hold_wins_at_the_ear_whoever_speaks():
    side = Side()
    side.audio.held = True
    side.audio.set_filler(b"\x01\x00" * 160)
    side.hears(0), side.hears(1)
    assert (side.audio.tick()[:2], side.audio.playout.played) == (b"\x01\x00", 160)
    side.audio.set_filler(b"")
    assert (side.audio.tick(), side.audio.playout.played) == (None, 320)  # what was said is not said again
    side.hears(2)
    side.audio.held = False
    assert side.audio.tick() == LOUD


def test_filler_fills_only_what_the_agent_leaves_silent():
    side = Side()
    loop = b"\x01\x00" * 160 + b"\x02\x00" * 160 + b"\x03\x00" * 10
    side.audio.set_filler(loop)
    pieces = [side.audio.tick()[:2] for _ in range(5)]
    assert pieces == [b"\x01\x00", b"\x02\x00"] * 2 + [b"\x01\x00"]
    side.hears(0)
    assert side.audio.tick() == LOUD
    side.audio.set_filler(b"")
    assert side.audio.tick() is None


def test_a_short_last_frame_is_padded_for_the_network():
    side = Side()
    side.hears(0, payload=LOUD[:100], flags=Flag.END_OF_RESPONSE)
    assert side.audio.tick() == LOUD[:100] + bytes(220)
    assert side.audio.playout.played == 50


def test_wideband_frames_are_twice_as_long():
    side = Side(rate_hz=16000)
    side.audio.fill(T0 + 0.1)
    assert (side.audio.frame_samples, len(side.sent[0][1].payload), side.sent[0][1].codec) == (320, 640, 3)
