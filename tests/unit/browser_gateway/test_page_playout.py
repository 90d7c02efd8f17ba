"""What counts as played is what the page played: scripts of frames, positions, flushes and new owners."""

from hypothesis import given, strategies as st

from libs.contracts.frame import AudioFrame, Codec, Flag
from services.browser_gateway.page_playout import FLUSH_PATIENCE_S, WINDOW_SAMPLES, PagePlayout

FRAME = 640
SAMPLES = 320


class Line:
    """A playout, and the flushes that it sent to the page."""

    def __init__(self) -> None:
        self.flushes = []
        self.playout = PagePlayout(FRAME, self.flushes.append)
        self.playout.begin_epoch(1)
        self.seq = 0

    def says(self, frames: int, epoch: int = 1) -> None:
        for _ in range(frames):
            pcm = bytes(FRAME)
            self.playout.push(AudioFrame(Codec.PCM16_16000, 0, epoch, self.seq, self.seq * SAMPLES, pcm))
            self.seq += 1

    def flush(self, epoch: int = 1, again: bool = False) -> None:
        if not again:
            self.flush_seq = self.seq
            self.seq += 1
        frame = AudioFrame(Codec.PCM16_16000, Flag.FLUSH.value, epoch, self.flush_seq, self.seq * SAMPLES, b"")
        self.playout.push(frame)

    def hand_over(self, frames: int) -> int:
        position = -1
        for _ in range(frames):
            assert self.playout.pop() is not None
            position = self.playout.hand_over(SAMPLES)
        return position


def test_nothing_counts_as_played_before_the_page_says_so():
    line = Line()
    line.says(5)
    assert line.hand_over(4) == 3 * SAMPLES
    assert line.playout.played == 0
    line.playout.page_played(2 * SAMPLES + 100)
    assert line.playout.played == 2 * SAMPLES + 100
    line.playout.page_played(4 * SAMPLES)
    assert line.playout.played == 4 * SAMPLES


def test_a_flush_is_acknowledged_only_when_the_page_has_stopped_and_says_where():
    line = Line()
    line.says(10)
    line.hand_over(5)
    line.playout.page_played(SAMPLES)
    line.flush()
    assert line.flushes == [1]
    assert not line.playout.flushed
    line.playout.page_played(SAMPLES + 50)  # was on its way
    line.playout.page_flushed(1, 2 * SAMPLES + 7)
    assert line.playout.flushed
    assert line.playout.played == 2 * SAMPLES + 7
    line.playout.page_played(2 * SAMPLES + 7)
    assert line.playout.played == 2 * SAMPLES + 7


def test_a_flush_of_what_the_page_has_played_needs_no_answer():
    line = Line()
    line.says(2)
    line.hand_over(2)
    line.playout.page_played(2 * SAMPLES)
    line.flush()
    assert line.flushes == []
    assert line.playout.flushed
    assert line.playout.played == 2 * SAMPLES


def test_a_repeated_flush_reaches_the_page_once_and_spares_newer_audio():
    line = Line()
    line.says(3)
    line.hand_over(3)
    line.flush()
    line.flush(again=True)
    line.says(2)
    line.flush(again=True)
    assert line.flushes == [1]
    line.hand_over(1)
    line.playout.page_flushed(1, SAMPLES)
    assert line.playout.played == SAMPLES
    line.playout.page_played(4 * SAMPLES)  # the first frame behind the flush, position 3 * SAMPLES
    assert line.playout.played == 5 * SAMPLES  # seq 4 of the worker: three frames, the flush, and it


def test_a_page_that_does_not_answer_is_taken_at_its_last_word():
    line = Line()
    line.says(3)
    line.hand_over(3)
    line.playout.page_played(100)
    line.flush()
    line.playout.expire(10.0)
    line.playout.expire(10.0 + FLUSH_PATIENCE_S / 2)
    assert not line.playout.flushed
    line.playout.expire(10.0 + FLUSH_PATIENCE_S)
    assert line.playout.flushed
    assert line.playout.played == 100
    assert line.playout.counters["flush_unanswered"] == 1
    line.playout.page_flushed(1, 500)  # too late: the worker has its answer
    assert line.playout.played == 100


def test_what_a_fenced_owner_said_is_dropped_in_the_page_too():
    line = Line()
    line.says(3)
    line.hand_over(3)
    line.playout.page_played(SAMPLES)
    assert line.playout.begin_epoch(-1) == SAMPLES
    line.playout.begin_epoch(2)
    assert line.flushes == [1]
    assert line.playout.played == 0
    line.seq = 0
    line.says(1, epoch=2)
    line.hand_over(1)
    line.playout.page_flushed(1, SAMPLES + 9)
    assert line.playout.played == 0
    line.playout.page_played(4 * SAMPLES)
    assert line.playout.played == SAMPLES


def test_fillers_move_the_position_and_count_for_nobody():
    line = Line()
    assert line.playout.pop() is None
    assert line.playout.hand_over(SAMPLES) == 0
    line.says(1)
    assert line.hand_over(1) == SAMPLES
    line.playout.page_played(SAMPLES)
    assert line.playout.played == 0
    line.playout.page_played(2 * SAMPLES)
    assert line.playout.played == SAMPLES


def test_a_padded_last_frame_counts_for_the_samples_that_the_worker_sent():
    line = Line()
    end = Flag.END_OF_RESPONSE.value
    line.playout.push(AudioFrame(Codec.PCM16_16000, end, 1, 0, 0, bytes(200)))
    assert len(line.playout.pop()) == 200
    line.playout.hand_over(SAMPLES)
    line.playout.page_played(SAMPLES)
    assert line.playout.played == 100


def test_a_page_that_plays_nothing_gets_no_more_than_half_a_second():
    line = Line()
    handed = 0
    for _ in range(100):
        line.says(1)
        if line.playout.has_room and line.playout.pop() is not None:
            line.playout.hand_over(SAMPLES)
            handed += 1
    assert handed * SAMPLES == WINDOW_SAMPLES
    assert line.playout.depth <= 25
    line.playout.page_played(SAMPLES)
    assert line.playout.has_room


def test_an_answer_to_a_flush_that_was_never_sent_changes_nothing():
    line = Line()
    line.says(2)
    line.hand_over(2)
    line.playout.page_flushed(9, 2 * SAMPLES)
    assert line.playout.played == 0
    assert line.playout.counters["flush_answer_unasked"] == 1


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["says", "tick", "muted tick", "plays", "flush", "answer", "later"]), st.integers(0, 400)
    ),
    max_size=60,
)


@given(STEPS)
def test_played_never_goes_back_nor_ahead_of_what_the_worker_sent(steps):
    line = Line()
    position = played = generation = 0
    now = 0.0
    for step, number in steps:
        match step:
            case "says":
                line.says(1 + number % 12)
            case "tick" | "muted tick":
                if line.playout.has_room and line.playout.pop() is not None and step == "tick":
                    line.playout.hand_over(SAMPLES)
            case "plays":
                if generation == line.playout.generation:  # a page stands still between a flush and its answer
                    position = min(line.playout.sent, position + number)
                    line.playout.page_played(position)
            case "flush":
                line.flush()
            case "answer":
                if generation < line.playout.generation:
                    generation = line.playout.generation
                    line.playout.page_flushed(generation, position)
            case "later":
                now += FLUSH_PATIENCE_S
                line.playout.expire(now)
        assert played <= line.playout.played <= line.seq * SAMPLES
        played = line.playout.played
