"""The caller's audio in pieces of any size becomes frames of 20 ms at the pace of time."""

import pytest

from services.twilio_gateway.slices import BACKLOG_FRAMES, FRAME_BYTES, Slices


def feed(slices: Slices, pieces, every_s: float, seconds: float) -> list[tuple[float, bytes]]:
    """Push a piece per `every_s`, tick each 20 ms; (time, frame) of what left."""
    out, pieces = [], iter(pieces)
    ticks = round(seconds / 0.02)
    per_piece = every_s / 0.02
    due = 0.0
    for tick in range(ticks):
        now = tick * 0.02
        while due <= tick + 1e-9 and (piece := next(pieces, None)) is not None:
            slices.push(piece)
            out += [(now, frame) for frame in slices.take(now)]
            due += per_piece
        out += [(now, frame) for frame in slices.take(now)]
    return out


@pytest.mark.parametrize(("size", "every_s"), [(1, 1 / 8000), (80, 0.01), (160, 0.02), (240, 0.03), (8000, 1.0)])
def test_payloads_of_any_size_come_out_whole_and_in_order(size, every_s):
    audio = bytes(index * 31 % 256 for index in range(24_000))
    slices = Slices()
    pieces = [audio[start : start + size] for start in range(0, len(audio), size)]
    frames = [frame for _, frame in feed(slices, pieces, every_s, 4.2)]
    assert all(len(frame) == FRAME_BYTES for frame in frames)
    assert b"".join(frames) == audio
    assert slices.dropped == 0


def test_20_ms_pass_without_waiting():
    slices = Slices()
    out = feed(slices, [b"\x01" * 160] * 50, 0.02, 1.0)
    assert [round(at / 0.02) for at, _ in out] == list(range(50))


def test_a_second_in_one_message_leaves_at_the_pace_of_time():
    out = feed(Slices(), [b"\x01" * 8000] * 3, 1.0, 3.2)
    for second in range(3):
        within = [at for at, _ in out if second <= at < second + 0.5]
        assert 24 <= len(within) <= 30


def test_what_a_stall_left_behind_is_dropped_so_that_latency_does_not_grow():
    slices = Slices()
    slices.take(0.0)
    for _ in range(30):  # 600 ms at once
        slices.push(b"\x01" * 160)
    assert slices.dropped == 30 - BACKLOG_FRAMES - 1
    assert len(slices.take(0.0)) <= BACKLOG_FRAMES
