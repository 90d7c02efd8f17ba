import random

import pytest

from libs.audio.rtp import RtpPacket
from libs.audio.srtp import PROFILES, SrtpReceiver, SrtpSender, Unauthentic

KEY, OTHER_KEY = bytes(range(30)), bytes(range(1, 31))
SUITE = "AES_CM_128_HMAC_SHA1_80"


def packet(number: int, payload: bytes = b"\x55" * 160) -> bytes:
    return RtpPacket(0, number & 0xFFFF, number * 160 & 0xFFFFFFFF, 7, payload).serialize()


@pytest.fixture(params=PROFILES)
def ends(request):
    return SrtpSender(request.param, KEY), SrtpReceiver(request.param, KEY)


def test_what_was_protected_is_opened_and_hidden_on_the_way(ends):
    sender, receiver = ends
    protected = sender.protect(packet(1))
    assert protected[:12] == packet(1)[:12]
    assert b"\x55" * 8 not in protected
    assert receiver.unprotect(protected) == packet(1)


def test_the_tags_length_is_that_of_the_suite():
    grown = [len(SrtpSender(suite, KEY).protect(packet(1))) - len(packet(1)) for suite in PROFILES]
    assert grown == [10, 4]


def test_one_changed_bit_another_key_and_a_replay_are_told_apart_from_the_peer(ends):
    sender, receiver = ends
    protected = sender.protect(packet(1))
    with pytest.raises(Unauthentic, match="authentication"):
        receiver.unprotect(protected[:20] + bytes((protected[20] ^ 1,)) + protected[21:])
    assert receiver.unprotect(protected)
    with pytest.raises(Unauthentic, match="replay"):
        receiver.unprotect(protected)
    with pytest.raises(Unauthentic):
        SrtpReceiver(SUITE, OTHER_KEY).unprotect(protected)


@pytest.mark.parametrize("data", [b"", b"\x80", b"GET / HTTP/1.1\r\n\r\n", bytes(1301), bytes(2048)])
def test_any_bytes_are_refused_and_nothing_worse(ends, data):
    for open_it in (ends[1].unprotect, ends[1].unprotect_rtcp):
        with pytest.raises(Unauthentic):
            open_it(data)


def test_the_roll_over_counter_survives_loss_and_order_around_two_wraps(ends):
    sender, receiver = ends
    chance = random.Random(7)
    numbers = [n for n in range(65_400, 65_400 + 2 * 65_536, 13) if chance.random() > 0.05]
    protected = [sender.protect(packet(n)) for n in numbers]
    for at in range(0, len(protected) - 1, 2):  # neighbours change places
        protected[at], protected[at + 1] = protected[at + 1], protected[at]
        numbers[at], numbers[at + 1] = numbers[at + 1], numbers[at]
    opened = [RtpPacket.parse(receiver.unprotect(data)) for data in protected]
    assert [p.sequence_number for p in opened] == [n & 0xFFFF for n in numbers]
    assert {p.payload for p in opened} == {b"\x55" * 160}


def test_rtcp_is_protected_with_an_index_of_its_own(ends):
    sender, receiver = ends
    report = bytes.fromhex("80c90001") + bytes(4)
    first, second = sender.protect_rtcp(report), sender.protect_rtcp(report)
    assert first != second
    assert len(first) == len(report) + 4 + 10  # RFC 4568 §6.2.2: the tag is 80 bits in both suites
    assert receiver.unprotect_rtcp(first) == receiver.unprotect_rtcp(second) == report
    with pytest.raises(Unauthentic):
        receiver.unprotect_rtcp(second)


def test_an_unknown_suite_is_named():
    with pytest.raises(ValueError, match="'F8_128_HMAC_SHA1_80' is none of"):
        SrtpSender("F8_128_HMAC_SHA1_80", KEY)
