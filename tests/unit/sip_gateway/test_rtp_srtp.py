"""Encrypted media (RFC 3711): nobody without the key is heard, and roll-over and new keys go unnoticed."""

from dataclasses import replace

import pytest

from libs.audio.compare import best_correlation
from libs.audio.g711 import Law
from libs.audio.rtcp import RtcpReporter, parse
from libs.audio.rtp import RtpPacket
from libs.audio.srtp import SrtpReceiver, SrtpSender, Unauthentic
from libs.audio.tone import tone
from libs.sip.sdes import SUITES, CryptoKey, SrtpKeys
from services.sip_gateway.rtp_session import RtpStart
from tests.unit.sip_gateway.media import PCMU, SPEECH, Line, everything, packet

OURS, THEIRS, NEW = bytes(range(30)), bytes(range(50, 80)), bytes(range(100, 130))
FRAME = tone(440, 20, 8000)


class SecureLine(Line):
    """`sender` and `receiver` are the caller's."""

    def __init__(self, suite: str = SUITES[0], **named) -> None:
        self.suite = suite
        super().__init__(replace(PCMU, srtp=self.keys()), **named)
        self.sender, self.receiver = SrtpSender(suite, THEIRS), SrtpReceiver(suite, OURS)

    def keys(self, ours: bytes = OURS, theirs: bytes = THEIRS) -> SrtpKeys:
        return SrtpKeys(CryptoKey(self.suite, ours), CryptoKey(self.suite, theirs))

    def send(self, *packets: RtpPacket, sock=None) -> None:
        super().send(*(self.sender.protect(one.serialize()) for one in packets), sock=sock)

    def heard(self) -> list[RtpPacket]:
        return [RtpPacket.parse(self.receiver.unprotect(data)) for data in everything(self.caller)]

    def rekey(self, ours: bytes = OURS, theirs: bytes = THEIRS) -> None:
        media = replace(PCMU, srtp=self.keys(ours, theirs))
        self.rtp.redirect(self.caller.getsockname(), may_send=True, media=media)


@pytest.fixture
def line():
    line = SecureLine()
    yield line
    line.close()


@pytest.mark.parametrize("suite", SUITES)
def test_both_sides_are_heard_through_the_encryption(suite):
    line = SecureLine(suite)
    line.rtp.answered(line.now)
    for number in range(10):
        line.send(packet(number))
        line.say(FRAME, begins=number == 0)
        line.pass_time(20)
    assert best_correlation(SPEECH_PCM, line.pcm)[0] > 0.99
    said = b"".join(Law.PCMU.decode(p.payload) for p in line.heard())
    assert best_correlation(FRAME, said)[0] > 0.99
    assert line.rtp.statistics().rtp_unauthentic == 0
    line.close()


SPEECH_PCM = Law.PCMU.decode(SPEECH)


def test_what_is_not_encrypted_changed_or_repeated_is_counted_and_not_heard(line):
    protected = line.sender.protect(packet(1).serialize())
    Line.send(line, packet(1), protected[:-1] + b"\0", protected, protected, b"", bytes(1600))
    got = line.rtp.statistics()
    assert (got.rtp_unauthentic, got.rtp_received, len(line.frames)) == (5, 1, 1)


def test_who_has_no_key_cannot_latch(line):
    stranger = line.stranger()
    wrong = SrtpSender(line.suite, NEW)
    Line.send(line, wrong.protect(packet(5).serialize()), packet(6), sock=stranger)
    line.rtp.answered(line.now)
    line.send(packet(1))
    line.pass_time(40)
    assert everything(stranger) == []
    assert line.heard()
    assert len(line.frames) == 1


def test_sequence_numbers_roll_over_both_ways():
    line = SecureLine(start=RtpStart(0xCA11, 0xFFF0, 2**32 - 10 * 160))
    line.rtp.answered(line.now)
    sent = []
    for number in range(0xFFF0, 0xFFF0 + 40):
        line.send(packet(number, ts=number * 160))
        line.pass_time(20)
        sent += line.heard()
    got = line.rtp.statistics()
    assert (len(sent), got.rtp_received) == (40, 40)
    assert [p.sequence_number for p in sent] == [n & 0xFFFF for n in range(0xFFF0, 0xFFF0 + 40)]
    assert (got.rtp_unauthentic, got.rtp_lost, got.rtp_late) == (0, 0, 0)
    line.close()


def test_a_reinvite_with_the_same_keys_after_a_roll_over_keeps_the_counter():
    line = SecureLine(start=RtpStart(0xCA11, 0xFFFE, 0))
    line.rtp.answered(line.now)
    for number in range(0xFFFE, 0xFFFE + 4):
        line.send(packet(number))
        line.pass_time(20)
    line.heard()
    line.rekey()
    line.send(packet(0xFFFE + 4))
    line.pass_time(20)
    assert line.heard()[0].sequence_number == 2
    assert line.rtp.statistics().rtp_unauthentic == 0
    line.close()


@pytest.mark.parametrize("which", ["theirs", "ours", "both"])
def test_a_reinvite_with_a_new_key(line, which):
    line.rtp.answered(line.now)
    line.send(packet(1))
    line.pass_time(20)
    line.heard()
    changed = {name: NEW for name in ("ours", "theirs") if which in (name, "both")}
    line.rekey(**changed)
    if "theirs" in changed:
        line.send(packet(2))  # still under the old key
        assert line.rtp.statistics().rtp_unauthentic == 1
        line.sender = SrtpSender(line.suite, NEW)
    if "ours" in changed:
        line.receiver = SrtpReceiver(line.suite, NEW)
    line.send(packet(2))
    line.pass_time(20)
    assert [len(frame.payload) for frame in line.frames] == [320] * 2
    assert line.heard()


def test_a_reinvite_that_ends_the_encryption_is_followed(line):
    line.rtp.redirect(line.caller.getsockname(), may_send=True, media=PCMU)
    Line.send(line, packet(1))
    line.rtp.answered(line.now)
    line.pass_time(20)
    assert len(line.frames) == 1
    assert Line.heard(line)


def test_rtcp_is_encrypted_too_and_only_the_peers_counts():
    line = SecureLine(pair=True)
    line.rtp.answered(line.now)
    address = line.rtp._rtcp_sock.getsockname()
    report = RtcpReporter(7, "caller").report(line.now)
    for data in (report, SrtpSender(line.suite, NEW).protect_rtcp(report), line.sender.protect_rtcp(report)):
        line.caller.rtcp.sendto(data, address)
    line.rtp.read_rtcp(line.now)
    got = line.rtp.statistics()
    assert (got.rtcp_received, got.rtp_unauthentic, got.rtcp_malformed) == (1, 2, 0)
    line.pass_time(8000)
    (ours, *_) = everything(line.caller.rtcp)
    assert parse(line.receiver.unprotect_rtcp(ours))[0].ssrc == 0xCA11
    with pytest.raises(Unauthentic):
        SrtpReceiver(line.suite, NEW).unprotect_rtcp(ours)
    line.close()


def test_nothing_that_may_be_logged_tells_the_key(line):
    told = repr((line.rtp._media, line.keys()))
    assert "\\x00\\x01" not in told
    assert "master" not in told
