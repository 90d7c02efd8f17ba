"""Tables of "push this, expect these"; a number is a released frame, "-3" style strings are concealed frames."""

import random

import pytest
from hypothesis import given, settings, strategies as st

from libs.audio.jitter import InOrderRelease, Released
from libs.audio.rtp import RtpPacket

FRAME = 160


def packet(number, *, first=100, ssrc=1, timestamp=None, payload_type=0, first_timestamp=0):
    """The `number`th packet of a stream; its payload tells the number."""
    if timestamp is None:
        timestamp = first_timestamp + number * FRAME
    payload = number.to_bytes(4, "big") * (FRAME // 4)
    return RtpPacket(payload_type, (first + number) & 0xFFFF, timestamp & 0xFFFFFFFF, ssrc, payload)


def names(released):
    return ["?" if r.payload is None else int.from_bytes(r.payload[:4], "big") for r in released]


def counters(stream):
    words = ("received", "released", "late", "duplicate", "lost", "reordered", "jumped", "resets")
    return {word: getattr(stream, word) for word in words if getattr(stream, word)}


def run(script, **options):
    """Push (at_ms, number) pairs, calling `expire` when due, as the shell does."""
    stream, out = InOrderRelease(**options), []
    for at_ms, number in script:
        now = at_ms / 1000
        while (due := stream.deadline()) is not None and due <= now:
            out.append(names(stream.expire(due)))
        out.append(names(stream.push(packet(number), now)))
    if (due := stream.deadline()) is not None:
        out.append(names(stream.expire(due)))
    return out, counters(stream)


@pytest.mark.parametrize(
    ("script", "expected", "counted"),
    [
        pytest.param(
            [(0, 0), (20, 1), (40, 2)],
            [[0], [1], [2]],
            {"received": 3, "released": 3},
            id="packets in order go out in the same call",
        ),
        pytest.param(
            [(0, 0), (40, 2), (45, 1), (60, 3)],
            [[0], [], [1, 2], [3]],
            {"received": 4, "released": 4, "reordered": 1},
            id="a swapped pair is put in order",
        ),
        pytest.param(
            [(0, 0), (40, 2), (60, 3), (80, 4), (101, 5)],
            [[0], [], [], [], ["?", 2, 3, 4], [5]],
            {"received": 5, "released": 5, "lost": 1},
            id="a gap is given up 60 ms after it was noticed",
        ),
        pytest.param(
            [(0, 0), (40, 2), (101, 3), (110, 1)],
            [[0], [], ["?", 2], [3], []],
            {"received": 4, "released": 3, "lost": 1, "late": 1},
            id="a packet that comes after its concealment is late",
        ),
        pytest.param(
            [(0, 0), (1, 0), (40, 2), (41, 2), (42, 1), (43, 2)],
            [[0], [], [], [], [1, 2], []],
            {"received": 6, "released": 3, "duplicate": 3, "reordered": 1},
            id="duplicates are dropped whether released or held",
        ),
        pytest.param(
            [(0, 0), (10, 9)],
            [[0], [], ["?"] * 5 + [9]],
            {"received": 2, "released": 2, "lost": 5, "jumped": 3},
            id="a long gap is concealed in part and passed over for the rest",
        ),
        pytest.param(
            [(0, 5), (10, 4), (20, 6)],
            [[5], [], [6]],
            {"received": 3, "released": 2, "late": 1},
            id="what precedes the first packet is late",
        ),
        pytest.param(
            [(0, 0), (10, 2), (50, 4), (71, 5)],
            [[0], [], [], ["?", 2], [], ["?", 4, 5]],
            {"received": 4, "released": 4, "lost": 2},
            id="each gap has its own time",
        ),
    ],
)
def test_script(script, expected, counted):
    assert run(script) == (expected, counted)


def test_a_gap_is_given_up_when_ten_packets_wait_behind_it():
    stream = InOrderRelease(max_held=10)
    stream.push(packet(0), 0.0)
    assert [names(stream.push(packet(n), 0.0)) for n in range(2, 11)] == [[]] * 9
    assert names(stream.push(packet(11), 0.0)) == ["?", *range(2, 12)]
    assert stream.deadline() is None


def test_deadline_belongs_to_the_first_packet_behind_the_gap():
    stream = InOrderRelease(reorder_ms=60)
    stream.push(packet(0), 1.0)
    assert stream.deadline() is None
    stream.push(packet(3), 2.0)
    stream.push(packet(2), 2.01)
    assert stream.deadline() == pytest.approx(2.06)
    assert stream.expire(2.0599) == []
    assert names(stream.expire(2.0601)) == ["?", 2, 3]
    assert stream.deadline() is None


def test_sequence_and_timestamp_roll_over_without_loss():
    stream = InOrderRelease()
    order = [0, 1, 3, 2, 4, 5, 6]
    first_timestamp = 2**32 - 2 * FRAME - 7
    out = [r for n in order for r in stream.push(packet(n, first=65533, first_timestamp=first_timestamp), 0.0)]
    assert names(out) == sorted(order)
    assert [r.timestamp for r in out] == [first_timestamp + n * FRAME for n in sorted(order)]
    assert {r.timestamp_gap_samples for r in out} == {0}


def test_silence_suppression_is_not_loss():
    stream = InOrderRelease()
    stream.push(packet(0), 0.0)
    (released,) = stream.push(packet(1, timestamp=8000), 1.0)
    assert released == Released(packet(1).payload, 8000, False, 8000 - FRAME)
    assert counters(stream) == {"received": 2, "released": 2}


def test_concealed_frames_continue_the_timeline_and_what_was_passed_over_is_a_gap():
    stream = InOrderRelease(max_conceal=2)
    stream.push(packet(0), 0.0)
    stream.push(packet(5), 0.0)
    out = stream.expire(0.06)
    assert [(r.payload is None, r.timestamp, r.timestamp_gap_samples) for r in out] == [
        (True, 160, 0),
        (True, 320, 0),
        (False, 800, 2 * FRAME),
    ]


def test_telephone_events_keep_their_place_and_leave_the_timeline_of_the_audio_alone():
    stream = InOrderRelease(event_payload_type=101)
    out = stream.push(packet(0), 0.0)
    for number in (1, 2, 3):
        out += stream.push(packet(number, payload_type=101, timestamp=FRAME), 0.0)
    out += stream.push(packet(4), 0.0)
    assert [(r.payload_type, r.timestamp, r.timestamp_gap_samples) for r in out] == [
        (0, 0, 0),
        (101, 160, 0),
        (101, 160, 0),
        (101, 160, 0),
        (0, 640, 3 * FRAME),
    ]


@pytest.mark.parametrize(
    "restarted",
    [
        pytest.param({"ssrc": 2}, id="other SSRC"),
        pytest.param({"first": 100 + 3000}, id="far ahead"),
        pytest.param({"first": (100 - 3000) & 0xFFFF}, id="far behind"),
    ],
)
def test_a_restarted_peer_begins_a_new_stream_at_once(restarted):
    stream = InOrderRelease()
    stream.push(packet(0), 0.0)
    stream.push(packet(4), 0.0)
    stream.push(packet(2), 0.0)
    new = [packet(n, first_timestamp=5_000_000, **restarted) for n in (7, 8)]
    assert names(stream.push(new[0], 0.1)) == [2, 4, 7]  # what was held is not lost
    assert names(stream.push(new[1], 0.1)) == [8]
    assert counters(stream) == {"received": 5, "released": 5, "jumped": 2, "reordered": 1, "resets": 1}
    assert stream.deadline() is None


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), first=st.integers(0, 65535))
def test_with_loss_and_reordering_every_frame_is_released_or_counted_as_missing(seed, first):
    rng, count = random.Random(seed), 300
    arrivals = sorted((n * 0.02 + rng.uniform(0, 0.06), n) for n in range(count) if n == 0 or rng.random() >= 0.05)
    stream, out = InOrderRelease(), []
    for now, number in arrivals:
        if (due := stream.deadline()) is not None and due <= now:
            out += stream.expire(due)
        out += stream.push(packet(number, first=first), now)
    while (due := stream.deadline()) is not None:
        out += stream.expire(due)
    heard = [name for name in names(out) if name != "?"]
    begun, last = heard[0], heard[-1]
    assert heard == sorted(set(heard))
    assert stream.released + stream.lost + stream.jumped == last - begun + 1
    assert stream.received == len(arrivals) == stream.released + stream.late + stream.duplicate
    assert stream.duplicate == 0
    assert stream.late <= 3  # only what overtook the very first packet can be late
    assert len(out) == stream.released + stream.lost


def test_comfort_noise_fills_its_place_in_the_order_and_none_in_the_timeline():
    stream = InOrderRelease()
    out = stream.push(packet(0), 0) + stream.push(packet(1, payload_type=13), 0.02) + stream.push(packet(9), 0.18)
    assert stream.deadline() is not None  # number 2 to 8 are missing
    out += stream.push(packet(2), 0.2)
    assert [released.payload_type for released in out] == [0, 13, 0]
    assert out[2].timestamp_gap_samples == FRAME
    assert counters(stream)["received"] == 4


@pytest.mark.parametrize("samples", [80, 240, 320])
def test_what_is_lost_is_as_long_as_the_packets_around_it(samples):
    stream = InOrderRelease()
    for number in (0, 2):
        stream.push(RtpPacket(0, number, number * samples, 1, bytes(samples)), 0)
    lost, found = stream.expire(1)
    assert (lost.payload, lost.samples, lost.timestamp) == (None, samples, samples)
    assert found.timestamp_gap_samples == 0
