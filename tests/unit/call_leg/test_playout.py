"""The downlink queue: fence, flush, played position, depth (R6; promises 3 to 5)."""

import pytest
from hypothesis import given, strategies as st

from libs.call_leg.playout import CONTINUOUS_MAX_TARGET, HARD_CAP_FRAMES, PACED_LEAD_FRAMES, Playout
from libs.contracts.frame import AudioFrame, Codec, Flag

SAMPLES = 160


def pcm(number, samples=SAMPLES):
    return number.to_bytes(2, "little") * samples


def frame(seq, timestamp=None, payload=None, flags=0, epoch=1):
    timestamp = seq * SAMPLES if timestamp is None else timestamp
    return AudioFrame(Codec.PCM16_8000, flags, epoch, seq, timestamp, pcm(seq) if payload is None else payload)


def flush(seq, epoch=1):
    return frame(seq, flags=Flag.FLUSH, payload=b"", epoch=epoch)


def playout(pacing="paced"):
    made = Playout()
    made.begin_epoch(1, pacing)
    return made


def heard(made, count):
    return [made.pop() for _ in range(count)]


# -- fence (promise 4) --------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [0, 2, 7])
def test_a_frame_of_another_epoch_never_enters(epoch):
    made = playout()
    assert made.push(frame(0, epoch=epoch)) is False
    assert made.pop() is None
    assert made.counters["fenced"] == 1


def test_a_flush_of_another_epoch_flushes_nothing():
    made = playout()
    made.push(frame(0))
    made.push(flush(9, epoch=0))
    assert (made.pop(), made.flushed) == (pcm(0), False)


def test_a_new_epoch_drops_what_the_old_one_left_and_tells_how_far_it_was_played():
    made = playout()
    for seq in range(4):
        made.push(frame(seq))
    heard(made, 2)
    assert made.begin_epoch(2) == 2 * SAMPLES
    assert (made.pop(), made.played, made.depth, made.counters["fenced"]) == (None, 0, 0, 2)
    assert made.push(frame(0, epoch=2)) is True
    assert made.pop() == pcm(0)


def test_a_new_epoch_drops_the_piece_of_a_frame_too():
    made = playout()
    made.push(frame(0, payload=bytes(100)))
    made.begin_epoch(2)
    made.push(frame(0, payload=pcm(5), epoch=2))
    assert made.pop() == pcm(5)


# -- played and flush (promise 3) -----------------------------------------------------------------------------


def test_played_is_the_position_behind_the_last_sample_handed_out():
    made = playout()
    for seq in range(3):
        made.push(frame(seq))
    positions = []
    for _ in range(4):
        made.pop()
        positions.append(made.played)
    assert positions == [160, 320, 480, 480]


def test_a_flush_drops_what_is_unplayed_and_played_stays_where_it_stopped():
    made = playout()
    for seq in range(5):
        made.push(frame(seq))
    heard(made, 2)
    assert made.push(flush(5)) is False
    assert (made.flushed, made.depth, made.played, made.counters["flushed"]) == (True, 0, 320, 3)
    assert heard(made, 3) == [None] * 3
    assert made.flushed


def test_the_flag_falls_with_newer_audio_and_a_repeated_flush_does_not_touch_that():
    made = playout()
    made.push(frame(0))
    made.push(flush(1))
    assert made.push(frame(2, timestamp=160)) is True
    assert made.flushed is False
    made.push(flush(1))
    assert made.pop() == pcm(2)


def test_a_repeated_flush_leaves_a_piece_of_newer_audio_alone():
    made = playout()
    made.push(flush(0))
    made.push(frame(1, timestamp=0, payload=pcm(1, 100)))
    made.push(flush(0))
    made.push(frame(2, timestamp=100, payload=pcm(1, 60)))
    assert made.pop() == pcm(1)


def test_a_first_flush_that_was_lost_is_made_up_by_its_repetition():
    made = playout()
    for seq in range(3):
        made.push(frame(seq))
    made.pop()
    made.push(flush(3))  # the first one never came
    assert (made.flushed, made.pop(), made.played) == (True, None, 160)


def test_a_frame_from_before_the_flush_that_comes_after_it_is_stale():
    made = playout()
    made.push(frame(0))
    made.push(flush(3))
    made.push(frame(2))
    assert (made.pop(), made.counters["stale"]) == (None, 1)


def test_an_older_flush_that_comes_late_flushes_nothing():
    made = playout()
    made.push(flush(5))
    made.push(frame(6, timestamp=0))
    made.push(flush(2))
    assert made.pop() == pcm(6)


def test_a_flush_counts_for_no_lost_frame():
    made = playout()
    made.push(frame(0))
    made.push(flush(1))
    made.push(frame(2))
    assert made.counters["lost"] == 0


def test_trimmed_samples_count_as_played_out():
    made = playout()
    for seq in range(HARD_CAP_FRAMES + 2):
        made.push(frame(seq))
    assert (made.depth, made.counters["trimmed"], made.played) == (HARD_CAP_FRAMES, 2, 320)
    assert made.pop() == pcm(2)


def test_the_last_frame_of_a_response_may_be_short_and_counts_its_samples_only():
    made = playout()
    made.push(frame(0))
    made.push(frame(1, payload=pcm(1, 50), flags=Flag.END_OF_RESPONSE))
    assert heard(made, 3) == [pcm(0), pcm(1, 50), None]
    assert made.played == 210


def test_an_end_mark_that_comes_alone_lets_the_last_piece_be_played():
    made = playout()
    made.push(frame(0, payload=pcm(1, 50)))
    assert made.pop() is None
    made.push(frame(1, timestamp=50, payload=b"", flags=Flag.END_OF_RESPONSE))
    assert (made.pop(), made.played) == (pcm(1, 50), 50)


def test_a_source_that_stops_within_a_frame_is_played_to_its_end_without_a_gap():
    made = playout()
    made.push(frame(0, payload=pcm(1, 200)))
    assert heard(made, 3) == [pcm(1, 160), pcm(1, 40), None]
    assert made.played == 200


# -- order --------------------------------------------------------------------------------------------------


def test_duplicates_and_reordered_frames_are_dropped_and_losses_counted():
    made = playout()
    for seq in (0, 1, 1, 0, 4, 3, 5):
        made.push(frame(seq))
    assert heard(made, 5) == [pcm(0), pcm(1), pcm(4), pcm(5), None]
    assert (made.counters["stale"], made.counters["lost"], made.counters["received"]) == (3, 2, 4)


@given(st.lists(st.integers(0, 480), min_size=1, max_size=30))
def test_pieces_of_any_length_give_the_same_samples_and_positions(lengths):
    made = playout()
    source = b"".join(n.to_bytes(2, "little") for n in range(sum(lengths)))
    at, out = 0, b""
    for seq, length in enumerate(lengths):
        flags = Flag.END_OF_RESPONSE if seq == len(lengths) - 1 else 0
        made.push(frame(seq, at, source[2 * at : 2 * (at + length)], flags))
        at += length
        while made.depth:
            piece = made.pop()
            assert len(piece) == 2 * SAMPLES or at == sum(lengths)
            out += piece
            assert made.played * 2 == len(out)
    assert out == source


def test_a_gap_within_a_piece_keeps_the_positions_right():
    made = playout()
    made.push(frame(0, timestamp=0, payload=pcm(1, 100)))
    made.push(frame(2, timestamp=320, payload=pcm(2)))
    assert (made.pop(), made.played) == (pcm(1, 100), 100)
    assert (made.pop(), made.played) == (pcm(2), 480)


# -- talkspurts ---------------------------------------------------------------------------------------------


def test_a_talkspurt_starts_once_and_the_next_one_again():
    made = playout()
    starts = []
    for seq in range(3):
        starts.append(made.push(frame(seq)))
        if seq == 0:
            made.pop()  # the entrance sends the first frame at once
    assert starts == [True, False, False]
    heard(made, 3)
    assert made.is_talking is False
    assert made.push(frame(3)) is True


def test_a_continuous_source_starts_when_its_pre_buffer_is_full():
    made = playout("continuous")
    assert made.push(frame(0)) is True
    heard(made, 2)  # and an underrun: the pre-buffer grows to two
    assert made.push(frame(1)) is False
    assert made.pop() is None
    assert made.push(frame(2)) is True
    assert heard(made, 2) == [pcm(1), pcm(2)]


def test_underruns_raise_the_pre_buffer_to_a_bound_and_calm_lowers_it_again():
    made = playout("continuous")
    seq = 0
    for _ in range(10):
        while not made.push(frame(seq)):
            seq += 1
        seq += 1
        while made.pop() is not None:
            pass
    assert made._target == CONTINUOUS_MAX_TARGET
    for _ in range(2000):
        made.push(frame(seq))
        made.pop()
        seq += 1
    assert made._target == 1


@pytest.mark.parametrize(
    ("then", "underruns"),
    [
        (frame(1), 1),
        (frame(1, flags=Flag.END_OF_RESPONSE), 1),
        (frame(1, flags=Flag.END_OF_RESPONSE, payload=b""), 0),  # there was nothing more to say
        (flush(1), 0),
    ],
)
def test_a_paced_voice_that_goes_on_after_silence_has_had_an_underrun(then, underruns):
    made = playout()
    made.push(frame(0))
    heard(made, 4)
    made.push(then)
    heard(made, 1)
    made.push(frame(2))
    assert made.counters["underrun"] == underruns


def test_silence_between_two_responses_is_no_underrun():
    made = playout()
    for seq in range(3):
        made.push(frame(seq, flags=Flag.END_OF_RESPONSE))
        heard(made, 3)
    assert made.counters["underrun"] == 0


# -- depth (promise 5) ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pacing", "target"), [("continuous", CONTINUOUS_MAX_TARGET), ("paced", PACED_LEAD_FRAMES)])
def test_the_depth_returns_to_its_target_after_a_stall_of_500_ms(pacing, target):
    made = playout(pacing)
    seq = 0
    for now in range(2500):  # 50 s of one frame in, one out
        made.push(frame(seq))
        seq += 1
        if not 100 <= now < 125:  # our ticker stands for half a second
            made.pop()
        if now == 125:
            assert made.depth >= 20
    assert made.depth <= target
    assert made.played == seq * SAMPLES - made.depth * SAMPLES


def test_a_quarter_of_a_second_of_delay_is_gone_within_two_seconds():
    made = playout("continuous")
    for seq in range(12):  # a stall left them behind
        made.push(frame(seq))
    for seq in range(12, 12 + 2 * 50):
        made.pop()
        made.push(frame(seq))
    assert made.depth <= 2
    assert made.counters["trimmed"] >= 10


def test_jitter_within_the_target_is_not_trimmed():
    made = playout("continuous")
    seq = 0
    for _ in range(1000):
        for _ in range(2):
            made.push(frame(seq))
            seq += 1
        heard(made, 2)
    assert made.counters["trimmed"] == 0


def test_a_paced_workers_lead_is_left_alone():
    made = playout()
    for seq in range(PACED_LEAD_FRAMES):
        made.push(frame(seq))
    for seq in range(PACED_LEAD_FRAMES, 1000):
        made.pop()
        made.push(frame(seq))
    assert (made.counters["trimmed"], made.depth) == (0, PACED_LEAD_FRAMES)


@given(st.integers(26, 200), st.sampled_from([80, 160, 240, 320, 480]))
def test_the_queue_never_exceeds_its_cap_and_what_it_drops_is_counted(count, samples):
    made = playout()
    for seq in range(count):
        made.push(frame(seq, seq * samples, pcm(1, samples)))
        assert made.depth <= HARD_CAP_FRAMES
    whole = count * samples // SAMPLES
    assert made.counters["trimmed"] == max(0, whole - HARD_CAP_FRAMES)
    assert made.played == made.counters["trimmed"] * SAMPLES
