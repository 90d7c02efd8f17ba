from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, strategies as st

from libs.audio.dtmf import DtmfError, DtmfReceiver, TelephoneEvent, dtmf_packets, tones


def receive(packets, receiver=None):
    receiver = receiver or DtmfReceiver()
    digits = (receiver.push(p.payload, 1000 + p.timestamp_offset, p.marker) for p in packets)
    return "".join(digit for digit in digits if digit)


def test_payload_is_laid_out_as_in_rfc_4733():
    event = TelephoneEvent(event=11, end=True, volume=10, duration=800)
    assert event.serialize() == bytes.fromhex("0b 8a 0320")
    assert TelephoneEvent.parse(bytes.fromhex("0b 8a 0320")) == event
    assert event.digit == "#"
    assert TelephoneEvent(16, False, 0, 0).digit is None  # flash


def test_short_payload_is_an_error_and_the_receiver_counts_it():
    with pytest.raises(DtmfError, match="has 3 bytes, needs 4"):
        TelephoneEvent.parse(b"abc")
    receiver = DtmfReceiver()
    assert receiver.push(b"abc", 0, True) is None
    assert receiver.malformed == 1


@given(st.text("0123456789*#ABCD", max_size=20))
def test_all_that_is_sent_is_received_once(digits):
    assert receive(dtmf_packets(digits)) == digits


@given(st.text("0123456789*#ABCD", min_size=1, max_size=8), st.data())
def test_one_packet_of_each_event_is_enough(digits, data):
    events = [list(group) for _, group in groupby(dtmf_packets(digits), key=lambda p: p.timestamp_offset)]
    kept = [p for event in events for p in data.draw(st.lists(st.sampled_from(event), min_size=1, max_size=9))]
    assert receive(kept) == digits


def test_same_digit_twice_is_two_digits_although_all_end_packets_are_lost():
    without_ends = [p for p in dtmf_packets("55") if not TelephoneEvent.parse(p.payload).end]
    assert receive(without_ends) == "55"


def test_packets_of_the_event_before_that_come_late_are_not_a_new_digit():
    one, two = (list(g) for _, g in groupby(dtmf_packets("12"), key=lambda p: p.timestamp_offset))
    assert receive([*one[:-1], two[0], one[-1], *two[1:]]) == "12"


def test_an_event_longer_than_its_duration_field_goes_on_in_a_new_segment():
    receiver = DtmfReceiver()
    first = TelephoneEvent(1, False, 10, 0xFFFF).serialize()
    second = TelephoneEvent(1, False, 10, 160).serialize()
    start = 2**32 - 100  # the second segment begins after the roll-over
    assert receiver.push(first, start, True) == "1"
    assert receiver.push(second, (start + 0xFFFF) % 2**32, False) is None
    assert receiver.push(second, 500_000, True) == "1"


def test_an_event_that_ended_does_not_go_on():
    receiver = DtmfReceiver()
    assert receiver.push(TelephoneEvent(1, True, 10, 0xFFFF).serialize(), 0, True) == "1"
    assert receiver.push(TelephoneEvent(1, False, 10, 160).serialize(), 0xFFFF, False) == "1"


def test_sending_times_marker_and_ends_are_those_of_the_rfc():
    packets = list(dtmf_packets("12", duration_ms=60, gap_ms=100))
    events = [TelephoneEvent.parse(p.payload) for p in packets]
    assert [p.at_ms for p in packets] == [0, 20, 40, 60, 80, 160, 180, 200, 220, 240]
    assert [p.timestamp_offset for p in packets] == [0] * 5 + [1280] * 5
    assert [p.marker for p in packets] == [True, False, False, False, False] * 2
    assert [e.end for e in events] == [False, False, True, True, True] * 2
    assert [e.duration for e in events] == [160, 320, 480, 480, 480] * 2


def test_too_short_a_pause_is_lengthened_to_hold_the_end_packets():
    assert [p.at_ms for p in dtmf_packets("12", duration_ms=20, gap_ms=0)] == [0, 20, 40, 80, 100, 120]


def test_only_dtmf_digits_can_be_sent():
    with pytest.raises(DtmfError, match="'x' is not a DTMF digit"):
        next(dtmf_packets("1x"))


# -- tones ------------------------------------------------------------------------------------------------

KEYPAD = {(low, high): key for low, row in zip((697, 770, 852, 941), ("123A", "456B", "789C", "*0#D"), strict=True)
          for high, key in zip((1209, 1336, 1477, 1633), row, strict=True)}  # fmt: skip


def goertzel_dbfs(pcm: bytes, hz: float, rate_hz: int) -> float:
    """Level of one frequency."""
    samples = np.frombuffer(pcm, "<i2") / 32768
    product = np.exp(-2j * np.pi * hz / rate_hz * np.arange(len(samples))) @ samples
    return 20 * np.log10(np.sqrt(2) * abs(product) / len(samples) + 1e-9)


def keys(pcm: bytes, rate_hz: int, period_ms: int = 160, tone_ms: int = 100) -> str:
    found = ""
    for start in range(0, len(pcm), 2 * period_ms * rate_hz // 1000):
        piece = pcm[start : start + 2 * tone_ms * rate_hz // 1000]
        levels = {hz: goertzel_dbfs(piece, hz, rate_hz) for pair in KEYPAD for hz in pair}
        low, high = max((h for h, _ in KEYPAD), key=levels.get), max((h for _, h in KEYPAD), key=levels.get)
        others = [level for hz, level in levels.items() if hz not in (low, high)]
        assert max(others) < min(levels[low], levels[high]) - 15
        found += KEYPAD[low, high]
    return found


@pytest.mark.parametrize("rate_hz", [8000, 16_000])
def test_every_digit_is_told_by_its_two_tones(rate_hz):
    pcm = tones("0123456789*#ABCD", rate_hz)
    assert len(pcm) == 16 * 2 * 160 * rate_hz // 1000
    assert keys(pcm, rate_hz) == "0123456789*#ABCD"


def test_tones_are_as_loud_as_a_telephones_and_do_not_click():
    pcm = tones("5", 8000)
    assert goertzel_dbfs(pcm[:1600], 770, 8000) == pytest.approx(-15, abs=0.5)  # -9 dBm0
    assert goertzel_dbfs(pcm[:1600], 1336, 8000) == pytest.approx(-13, abs=0.5)  # -7 dBm0
    samples = np.frombuffer(pcm, "<i2")
    assert abs(samples[0]) < 10
    assert abs(samples[799]) < 500
    assert not samples[800:].any()


def test_letters_may_be_small_and_others_are_refused():
    assert tones("a", 8000) == tones("A", 8000)
    assert tones("", 8000) == b""
    with pytest.raises(DtmfError, match="'x'"):
        tones("1x", 8000)
