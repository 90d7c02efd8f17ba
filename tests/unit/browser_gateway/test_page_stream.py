"""What a page sends: any length becomes frames of 20 ms, nonsense is counted, nothing raises."""

import json

import pytest
from hypothesis import given, strategies as st

from services.browser_gateway.messages import Hello, KeyPressed, MutePressed, PageFlushed
from services.browser_gateway.page_stream import (
    FRAME_BYTES,
    HEADER,
    KEPT_FRAMES,
    MAX_PCM_BYTES,
    TOLERATED,
    PageStream,
    downlink,
)


def up(pcm: bytes, position: int = 0) -> bytes:
    return HEADER.pack(position) + pcm


def test_20_ms_pass_as_they_are():
    stream, pcm = PageStream(), bytes(range(256)) * 2 + bytes(128)
    assert stream.audio(up(pcm, 77)) == [pcm]
    assert stream.position == 77


@given(st.lists(st.integers(0, KEPT_FRAMES * FRAME_BYTES // 2), max_size=20))
def test_any_length_is_cut_to_20_ms_without_losing_a_sample(lengths):
    stream = PageStream()
    pcm = b"".join(number.to_bytes(2, "little") for number in range(min(65536, sum(lengths))))
    pcm = (pcm * (2 * sum(lengths) // max(1, len(pcm)) + 1))[: 2 * sum(lengths)]
    frames, at = [], 0
    for length in lengths:
        got = stream.audio(up(pcm[at : at + 2 * length]))
        frames += got
        at += 2 * length
    if not stream.counters["dropped"]:
        assert b"".join(frames) == pcm[: len(pcm) - len(pcm) % FRAME_BYTES]
    assert {len(frame) for frame in frames} <= {FRAME_BYTES}


def test_of_a_stalled_pages_burst_only_the_newest_200_ms_count():
    stream = PageStream()
    pcm = b"".join(bytes([number]) * FRAME_BYTES for number in range(50))
    frames = stream.audio(up(pcm))
    assert frames == [bytes([number]) * FRAME_BYTES for number in range(40, 50)]
    assert stream.counters["dropped"] == 40


@pytest.mark.parametrize("data", [b"", b"1234567", up(b"x"), up(bytes(MAX_PCM_BYTES + 2))])
def test_binary_nonsense_is_counted(data):
    stream = PageStream()
    assert stream.audio(data) == []
    assert stream.counters["malformed"] == 1


@pytest.mark.parametrize(
    "data",
    ["", "{", "[]", "null", '{"type":"sing"}', '{"type":"dtmf","digit":"12"}', '{"type":"dtmf","digit":"x"}',
     '{"type":"mute","muted":[]}', '{"type":"hello","token":"' + "x" * 3000 + '"}', " " * 5000,
     '{"type":"flushed","generation":-1,"position":0}', '{"type":"hello"}', "{" * 4000],
)  # fmt: skip
def test_text_nonsense_is_counted(data):
    stream = PageStream()
    assert stream.text(data) is None
    assert stream.counters["malformed"] == 1


def test_who_sends_nothing_but_nonsense_is_hopeless():
    stream = PageStream()
    for _ in range(TOLERATED):
        stream.text("?")
    assert not stream.is_hopeless
    stream.audio(b"?")
    assert stream.is_hopeless


def test_messages_are_understood_with_fields_of_newer_pages():
    stream = PageStream()
    assert stream.text(json.dumps({"type": "hello", "token": "t", "new": 1})) == Hello(type="hello", token="t")
    assert stream.text('{"type":"dtmf","digit":"#"}') == KeyPressed(type="dtmf", digit="#")
    assert stream.text('{"type":"mute","muted":true}') == MutePressed(type="mute", muted=True)
    assert stream.text('{"type":"flushed","generation":3,"position":9}') == PageFlushed(
        type="flushed", generation=3, position=9
    )


def test_a_muted_page_is_silent_whatever_it_sends_and_its_position_still_counts():
    stream = PageStream()
    stream.muted = True
    assert stream.audio(up(b"\x01" * FRAME_BYTES, 320)) == [bytes(FRAME_BYTES)]
    assert stream.audio(up(b"\x01" * 2 * FRAME_BYTES, 640)) == [bytes(FRAME_BYTES)] * 2
    assert stream.position == 640


def test_a_position_beyond_what_can_be_counted_is_none():
    stream = PageStream()
    stream.audio(up(b"", 500))
    stream.audio(up(b"", 1 << 60))
    assert stream.position == 500


def test_downlink_bears_its_position():
    assert downlink(1 << 40, b"ab") == (1 << 40).to_bytes(8, "little") + b"ab"
