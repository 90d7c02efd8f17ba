import pytest
from hypothesis import given, strategies as st

from libs.audio.rtp import (
    RtpError,
    RtpPacket,
    Unwrapper,
    pack_header,
    uint16_add,
    uint16_gt,
    uint32_add,
    uint32_gt,
)

# Written out by hand from the diagram in RFC 3550 §5.1: V=2, M=1, PT=0, sequence 0x1234, timestamp, SSRC.
WIRE = bytes.fromhex("80 80 1234 00000140 deadbeef") + b"audio"
PACKET = RtpPacket(0, 0x1234, 320, 0xDEADBEEF, b"audio", marker=True)


def test_header_is_laid_out_as_in_rfc_3550():
    assert RtpPacket.parse(WIRE) == PACKET
    assert PACKET.serialize() == WIRE
    assert pack_header(0, 0x1234, 320, 0xDEADBEEF, True) == WIRE[:12]
    assert pack_header(8, 0, 0, 0)[:2] == b"\x80\x08"


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        (0x82, bytes(8) + b"audio"),  # two CSRCs
        (0x90, bytes.fromhex("bede 0001 10ff0000") + b"audio"),  # extension of one word
        (0x90, bytes.fromhex("bede 0000") + b"audio"),  # empty extension
        (0xA0, b"audio\0\0\3"),  # padding of three
        (0xB1, bytes(4) + bytes.fromhex("bede 0001 10ff0000") + b"audio\1"),  # all three
    ],
)
def test_csrc_extension_and_padding_are_skipped(first, rest):
    assert RtpPacket.parse(bytes([first]) + WIRE[1:12] + rest) == PACKET


def test_packet_without_payload_is_valid():
    assert RtpPacket.parse(WIRE[:12]).payload == b""
    assert RtpPacket.parse(b"\xa0" + WIRE[1:12] + b"\1").payload == b""


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "0 bytes are shorter than the RTP header of 12"),
        (WIRE[:11], "11 bytes are shorter than the RTP header of 12"),
        (b"\x40" + WIRE[1:], "RTP version is 1, not 2"),
        (b"\x80\xc8" + WIRE[2:], "payload type 72 is reserved, this is RTCP packet type 200"),
        (b"\x80\xcc" + WIRE[2:], "payload type 76 is reserved, this is RTCP packet type 204"),
        (b"\x8f" + WIRE[1:], "CSRC list ends at byte 72 of a packet of 17 bytes"),
        (b"\x90" + WIRE[1:14], "header extension is truncated before its length"),
        (b"\x90" + WIRE[1:12] + b"\0\0\0\2abcd", "header extension ends at byte 24 of a packet of 20 bytes"),
        (b"\xa0" + WIRE[1:12], "padding of 0 bytes does not fit the 0 bytes after the header"),
        (b"\xa0" + WIRE[1:12] + b"ab\0", "padding of 0 bytes does not fit the 3 bytes after the header"),
        (b"\xa0" + WIRE[1:12] + b"ab\4", "padding of 4 bytes does not fit the 3 bytes after the header"),
    ],
)
def test_what_is_no_rtp_packet_is_refused_in_one_precise_sentence(data, sentence):
    with pytest.raises(RtpError) as caught:
        RtpPacket.parse(data)
    assert str(caught.value) == sentence


@given(st.binary(max_size=80))
def test_any_bytes_are_a_packet_or_an_rtp_error(data):
    try:
        packet = RtpPacket.parse(data)
    except RtpError:
        return
    assert RtpPacket.parse(packet.serialize()) == packet


def test_counter_arithmetic_wraps():
    assert uint16_add(0xFFFF, 1) == 0
    assert uint32_add(0xFFFFFFF0, 0x20) == 0x10
    assert (uint16_gt(0, 0xFFFF), uint16_gt(0xFFFF, 0), uint16_gt(5, 5)) == (True, False, False)
    assert (uint32_gt(0, 0xFFFFFFFF), uint32_gt(0xFFFFFFFF, 0), uint32_gt(5, 5)) == (True, False, False)


def test_unwrapper_survives_roll_over_and_reordering_around_it():
    unwrapper = Unwrapper(16)
    assert [unwrapper.extend(value) for value in (65533, 65535, 1, 65534, 0, 2, 65535)] == [
        65533,
        65535,
        65537,
        65534,
        65536,
        65538,
        65535,
    ]
    assert Unwrapper(32).extend(0xFFFFFFFF) == 0xFFFFFFFF


@given(st.integers(0, 65535), st.lists(st.integers(-32_768, 32_767), max_size=200))
def test_unwrapper_takes_the_value_nearest_to_the_highest_so_far(start, steps_from_highest):
    unwrapper, highest = Unwrapper(16), start
    assert unwrapper.extend(start) == start
    for step in steps_from_highest:
        assert unwrapper.extend((highest + step) & 0xFFFF) == highest + step
        highest = max(highest, highest + step)
