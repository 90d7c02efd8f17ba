"""Audio frames: what is packed is read back; whatever else comes raises `FrameError` with a counter's label."""

from contextlib import suppress

import msgpack
import pytest
from hypothesis import given, strategies as st

from libs.contracts.frame import LIMIT, AudioFrame, Codec, Flag, FrameError, pack, unpack

counts = st.integers(0, LIMIT - 1)
payloads = st.binary(max_size=480).map(lambda half: half + half)


@st.composite
def frames(draw):
    flags = draw(st.integers(0, 63))
    traced = draw(counts) if flags & Flag.TRACE else 0
    codec = draw(st.sampled_from(Codec))
    return AudioFrame(codec, flags, draw(counts), draw(counts), draw(counts), draw(payloads), draw(counts), traced)


def reason(fields):
    with pytest.raises(FrameError) as caught:
        unpack(msgpack.packb(fields))
    assert str(caught.value)
    return caught.value.reason


@given(frames())
def test_every_frame_round_trips(frame):
    assert unpack(pack(frame)) == frame


@given(frames(), st.lists(st.integers() | st.text() | st.none(), max_size=3))
def test_fields_appended_by_a_newer_sender_are_ignored(frame, more):
    traced = [frame.traced_at_ns] if frame.flags & Flag.TRACE else [0]
    more = [each for each in more if not isinstance(each, int) or abs(each) < 1 << 63]
    assert unpack(msgpack.packb([*frame[:7], *traced, *more])) == frame


@given(frames())
def test_the_trace_stamp_is_written_only_with_its_flag(frame):
    assert len(msgpack.unpackb(pack(frame))) == (8 if frame.flags & Flag.TRACE else 7)


@given(st.integers(-(1 << 63), (1 << 64) - 1).filter(lambda n: n not in (0, 3)) | st.text(max_size=3) | st.none())
def test_an_unknown_codec_has_its_own_label(codec):
    assert reason([codec, 0, 1, 2, 3, b"", 0]) == "unknown_codec"


@pytest.mark.parametrize(
    ("codec", "payload"),
    [(0, b"x"), (0, bytes(961)), (0, bytes(962)), (3, bytes(1922)), (0, "text"), (0, [1, 2]), (3, bytes(1919))],
)
def test_half_a_sample_and_more_than_60_ms_are_bad_payloads(codec, payload):
    assert reason([codec, 0, 1, 2, 3, payload, 0]) == "bad_payload"


@pytest.mark.parametrize(("codec", "size"), [(0, 960), (3, 1920), (0, 0), (0, 2)])
def test_up_to_60_ms_pass(codec, size):
    assert unpack(msgpack.packb([codec, 0, 1, 2, 3, bytes(size), 0])).samples == size // 2


@pytest.mark.parametrize("place", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("value", [None, "7", 1.5, True, -1, -(1 << 63), b"", [1]])
def test_counts_that_are_no_counts_are_malformed(place, value):
    fields = [0, 0, 1, 2, 3, b"", 0]
    fields[place] = value
    assert reason(fields) == "malformed"


@pytest.mark.parametrize(
    "value", [{}, {1: 2}, {"a": 1}, [], [0, 0, 1], None, 7, "text", "7 bytes", b"7 bytes", [[]] * 7]
)
def test_what_is_no_array_of_seven_is_refused(value):
    with pytest.raises(FrameError):
        unpack(msgpack.packb(value))


@given(st.binary(max_size=80))
def test_arbitrary_bytes_give_a_frame_or_a_frame_error(data):
    with suppress(FrameError):
        assert isinstance(unpack(data), AudioFrame)


@given(frames(), st.integers(0, 400))
def test_a_cut_frame_is_malformed(frame, length):
    data = pack(frame)
    if length < len(data):
        with pytest.raises(FrameError, match="not an audio frame"):
            unpack(data[:length])


def test_a_codec_has_a_rate_and_20_ms_of_samples():
    assert [(c.rate_hz, c.frame_samples, Codec.of_rate(c.rate_hz)) for c in Codec] == [
        (8000, 160, Codec.PCM16_8000),
        (16000, 320, Codec.PCM16_16000),
    ]
    with pytest.raises(ValueError, match="44100"):
        Codec.of_rate(44100)


@pytest.mark.parametrize("place", [2, 3, 4, 6])
def test_positions_stay_where_adding_to_them_cannot_overflow(place):
    fields = [0, 0, 1, 2, 3, b"", 0]
    fields[place] = LIMIT
    assert reason(fields) == "malformed"


def test_flags_of_a_newer_sender_pass():
    assert unpack(msgpack.packb([0, 1 << 20, 1, 2, 3, b"", 0])).flags == 1 << 20
