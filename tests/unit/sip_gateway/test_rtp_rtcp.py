"""RTCP of a call: reports both ways, on the port after RTP's or on the same one, from nobody but the peer."""

from dataclasses import replace

import pytest

from libs.audio.rtcp import Goodbye, ReceiverReport, RtcpReporter, SenderReport, SourceDescription, is_rtcp, parse
from libs.audio.rtp import RtpPacket
from libs.contracts.media import MediaStatistics
from services.sip_gateway.quality import ROUND_TRIP
from tests.unit.sip_gateway.media import PCMU, Line, everything, packet


class Peer:
    """The caller's end of RTCP."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.end = RtcpReporter(7, "caller")
        self.reports: list = []

    def take(self) -> None:
        """What the gateway reported meanwhile."""
        for data in everything(self.line.caller.rtcp):
            self.reports.append(parse(data))
            self.end.receive(data, self.line.now)

    def hear(self) -> None:
        for sent in self.line.heard():
            self.end.reception.received(sent.ssrc, sent.sequence_number, sent.timestamp, self.line.now)

    def report(self) -> None:
        self.line.caller.rtcp.sendto(self.end.report(self.line.now), self.line.rtp._rtcp_sock.getsockname())
        self.line.rtp.read_rtcp(self.line.now)


@pytest.fixture
def line():
    line = Line(pair=True)
    yield line
    line.close()


@pytest.fixture
def peer(line):
    return Peer(line)


def converse(line, peer, ms: int, *, lose: int = 0) -> None:
    """Both sides speak; every `lose`th of the caller's packets is lost."""
    for number in range(ms // 20):
        if not lose or number % lose:
            line.send(packet(number + 1, ts=number * 160))
        line.pass_time(20)
        peer.hear()
        peer.take()


def test_a_call_reports_what_it_sent_and_heard_every_five_seconds_or_so(line, peer):
    line.rtp.answered(line.now)
    converse(line, peer, 30_000, lose=10)
    assert 4 <= len(peer.reports) <= 12
    sender, description = peer.reports[-1]
    assert isinstance(sender, SenderReport)
    assert sender.ssrc == description.ssrc == 0xCA11
    assert isinstance(description, SourceDescription)
    assert description.cname
    assert sender.packets == pytest.approx(line.rtp.sent, abs=400)
    assert sender.octets == 160 * sender.packets
    (block,) = sender.blocks
    assert block.ssrc == 7
    assert block.fraction_lost == pytest.approx(25.6, abs=3)


def test_both_learn_the_round_trip_and_each_others_losses(line, peer):
    line.rtp.answered(line.now)
    converse(line, peer, 8000)
    line.pass_time(100)
    peer.report()
    got = line.rtp.statistics()
    assert 0 <= got.round_trip_ms < 20  # the report lay in the socket until the peer looked
    assert (got.remote_lost, got.remote_fraction_lost) == (0, 0)
    assert got.remote_jitter_ms < 6
    assert got.rtp_jitter_ms < 6
    assert got.rtcp_received == 1
    assert got.rtcp_sent == len(peer.reports)


def test_what_is_not_known_is_none_and_adds_up_nowhere(line):
    before = line.rtp.statistics()
    assert (before.rtp_jitter_ms, before.remote_lost, before.round_trip_ms) == (None, None, None)
    line.rtp.answered(line.now)
    line.pass_time(100)
    counters = line.rtp.statistics().counters()
    assert counters["rtp_sent"] == 5
    assert all(type(value) is int for value in counters.values())
    assert not {"schema_version", "round_trip_ms", "remote_lost"} & set(counters)
    assert set(MediaStatistics().counters()) == set(counters)


def test_no_report_before_the_answer(line, peer):
    line.send(packet(1))
    line.pass_time(20_000, slot_ms=20)
    peer.take()
    assert peer.reports == []


def test_the_end_of_the_call_is_said_once(line, peer):
    line.rtp.answered(line.now)
    line.pass_time(40)
    line.rtp.finish(line.now)
    line.rtp.finish(line.now)
    peer.take()
    assert [type(p) for p in peer.reports[-1]] == [SenderReport, SourceDescription, Goodbye]
    assert len(peer.reports) == 1
    assert peer.end.has_left


def test_on_hold_reports_go_on_as_receiver_reports(line, peer):
    line.rtp.may_send = False
    line.rtp.answered(line.now)
    converse(line, peer, 10_000)
    assert peer.reports
    assert all(isinstance(report[0], ReceiverReport) for report in peer.reports)


def test_reports_from_strangers_and_broken_ones_are_counted_and_change_nothing(line, peer):
    line.rtp.answered(line.now)
    peer.report()
    stranger = line.stranger()
    address = line.rtp._rtcp_sock.getsockname()
    stranger.sendto(RtcpReporter(9, "x").report(line.now), address)
    line.caller.rtcp.sendto(b"\x80\xc9", address)
    line.caller.rtcp.sendto(b"", address)
    line.rtp.read_rtcp(line.now)
    got = line.rtp.statistics()
    assert (got.rtcp_received, got.rtcp_malformed, got.rtp_foreign) == (1, 2, 1)


def test_reports_behind_nat_are_answered_to_where_they_come_from(line):
    behind_nat = line.stranger()
    behind_nat.sendto(RtcpReporter(7, "x").report(line.now), line.rtp._rtcp_sock.getsockname())
    line.rtp.read_rtcp(line.now)
    line.rtp.answered(line.now)
    line.pass_time(8000)
    assert parse(everything(behind_nat)[0])
    assert everything(line.caller.rtcp) == []


def test_reports_go_to_the_address_that_sdp_named(line):
    named = line.stranger()
    line.rtp.redirect(line.caller.getsockname(), may_send=True, media=replace(PCMU, remote_rtcp=named.getsockname()))
    line.rtp.answered(line.now)
    line.pass_time(8000)
    assert parse(everything(named)[0])


def test_one_port_serves_both_where_that_was_agreed_on():
    line = Line(replace(PCMU, rtcp_mux=True))
    line.rtp.answered(line.now)
    line.send(packet(1))
    line.send(RtcpReporter(7, "caller").report(line.now))
    data = []
    for _ in range(80):
        line.pass_time(100)
        data += everything(line.caller)
    got = line.rtp.statistics()
    assert (got.rtcp_received, got.rtp_malformed, got.rtp_received) == (1, 0, 1)
    reports = [parse(d) for d in data if is_rtcp(d)]
    assert len(reports) == got.rtcp_sent >= 1
    assert len([RtpPacket.parse(d) for d in data if not is_rtcp(d)]) == got.rtp_sent
    line.close()


def test_without_a_way_for_it_there_is_no_rtcp():
    line = Line()
    line.rtp.answered(line.now)
    line.pass_time(8000)
    line.rtp.read_rtcp(line.now)
    line.rtp.finish(line.now)
    assert line.rtp.statistics().rtcp_sent == 0
    line.close()


def test_digits_do_not_count_as_jitter(line):
    for number in range(50):
        line.send(packet(number, ts=number * 160))
        line.now += 0.02
    before = line.rtp.statistics().rtp_jitter_ms
    for number in range(50, 57):
        line.send(packet(number, b"\x05\x0a\x00\xa0", pt=101, ts=50 * 160))
        line.now += 0.02
    assert line.rtp.statistics().rtp_jitter_ms == before


def test_a_hold_by_the_address_0_0_0_0_sends_no_reports_to_ourselves(line, peer):
    line.rtp.answered(line.now)
    line.rtp.redirect(("0.0.0.0", 4000), may_send=False)
    line.pass_time(20_000, slot_ms=20)
    assert line.rtp.statistics().rtcp_sent == 0
    line.rtp.redirect(line.caller.getsockname(), may_send=True)
    line.pass_time(8000, slot_ms=20)
    peer.take()
    assert peer.reports


def test_every_report_of_the_peer_is_on_the_metrics_page_while_the_call_lasts(line, peer):
    def counted() -> int:
        return sum(sum(series.counts) for series in ROUND_TRIP._series.values())

    line.rtp.answered(line.now)
    converse(line, peer, 8_000)
    before = counted()
    peer.report()
    assert counted() == before + 1
