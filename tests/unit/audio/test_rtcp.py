import contextlib
import itertools

import pytest
from hypothesis import given, strategies as st

from libs.audio.rtcp import (
    Goodbye,
    ReceiverReport,
    ReceptionStatistics,
    ReportBlock,
    RtcpError,
    RtcpReporter,
    SenderReport,
    SourceDescription,
    interval_s,
    is_rtcp,
    parse,
)

WORD, HALF = st.integers(0, 2**32 - 1), st.integers(0, 0xFFFF)
BLOCKS = st.builds(ReportBlock, WORD, st.integers(0, 255), st.integers(-0x800000, 0x7FFFFF), WORD, WORD, WORD, WORD)
REPORTS = st.one_of(
    st.builds(SenderReport, WORD, st.integers(0, 2**64 - 1), WORD, WORD, WORD, st.lists(BLOCKS, max_size=3).map(tuple)),
    st.builds(ReceiverReport, WORD, st.lists(BLOCKS, max_size=31).map(tuple)),
)
OTHERS = st.one_of(
    st.builds(SourceDescription, WORD, st.text("abc@.0123-", max_size=255)),
    st.builds(Goodbye, st.lists(WORD, max_size=31).map(tuple), st.text("abc ", max_size=255)),
)


@given(REPORTS, st.lists(OTHERS, max_size=4))
def test_a_compound_packet_is_read_as_it_was_written(report, others):
    written = b"".join(packet.serialize() for packet in (report, *others))
    assert len(written) % 4 == 0
    assert is_rtcp(written)
    assert parse(written) == [report, *others]


def test_the_layout_is_that_of_rfc_3550():
    block = ReportBlock(2, 64, -1, 0x0001_0005, 9, 10, 11)
    report = SenderReport(1, 0x0102030405060708, 160, 3, 480, (block,))
    assert report.serialize().hex(" ", 4) == (
        "81c8000c 00000001 01020304 05060708 000000a0 00000003 000001e0"
        " 00000002 40ffffff 00010005 00000009 0000000a 0000000b"
    )
    assert SourceDescription(1, "ab").serialize().hex() == "81ca0003000000010102616200000000"
    assert Goodbye((1,), "x").serialize().hex() == "81cb0002000000010178" + "0000"


def test_a_packet_that_stands_alone_is_read():
    assert parse(Goodbye((1,)).serialize()) == [Goodbye((1,))]
    assert parse(bytes.fromhex("80cc0002") + b"\0\0\0\1PING") == []


def test_kinds_that_nobody_here_knows_are_skipped():
    app = bytes.fromhex("80cc0002") + bytes(8)
    assert parse(ReceiverReport(1).serialize() + app + Goodbye((1,)).serialize()) == [ReceiverReport(1), Goodbye((1,))]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "empty"),
        (b"\x80\xc9\x00", "3 bytes are left"),
        (bytes.fromhex("40c9000100000001"), "version is 1"),
        (bytes.fromhex("80c9000200000001"), "cut off after 8"),
        (bytes.fromhex("81c9000100000001"), "does not hold 1 blocks"),
        (bytes.fromhex("80c8000100000001"), "sender report of 4 bytes"),
        (bytes.fromhex("80000000"), "type 0 is no RTCP"),
        (bytes.fromhex("a0c9000100000009"), "padding of 9"),
        (bytes.fromhex("80c9000100000001 82cb000100000001"), "does not hold 2 sources"),
        (bytes.fromhex("80c9000100000001 81ca000200000001 01ff6162"), "item of 255 bytes"),
    ],
)
def test_what_is_no_compound_packet_is_refused_in_one_sentence(data, sentence):
    with pytest.raises(RtcpError, match=sentence):
        parse(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_packets_or_an_rtcp_error(data):
    with contextlib.suppress(RtcpError):
        assert isinstance(parse(data), list)


@given(st.floats(0, 1))
def test_reports_are_2_5_to_7_5_s_apart_and_the_first_comes_in_half_the_time(chance):
    assert 2.5 <= interval_s(chance) <= 7.5
    assert interval_s(chance, is_first=True) == interval_s(chance) / 2


def test_calls_that_begin_together_do_not_report_together():
    reporters = [RtcpReporter(ssrc * 0x01234567, "x") for ssrc in range(1, 9)]
    for reporter in reporters:
        reporter.start(0.0)
    assert len({round(reporter.due_at, 2) for reporter in reporters}) == 8


# -- reception ----------------------------------------------------------------------------------------------


def test_losses_are_counted_in_all_and_since_the_last_report():
    heard = ReceptionStatistics()
    for number in (n for n in range(65_500, 65_700) if n % 10):
        heard.received(1, number & 0xFFFF, number * 160, number * 0.02)
    block = heard.block(0, 0)
    assert (block.cumulative_lost, block.fraction_lost) == (19, (19 << 8) // 199)  # the first one was not expected
    assert block.highest_sequence == 65_699
    heard.received(1, 65_700 & 0xFFFF, 0, 0)
    assert heard.block(0, 0).fraction_lost == 0
    assert heard.cumulative_lost == 19


def test_duplicates_make_the_loss_negative_and_the_fraction_zero():
    heard = ReceptionStatistics()
    for number in (1, 1, 1, 2):
        heard.received(1, number, number * 160, number * 0.02)
    block = heard.block(0, 0)
    assert (block.cumulative_lost, block.fraction_lost) == (-2, 0)


def test_jitter_follows_the_formula_of_appendix_a8():
    heard = ReceptionStatistics()
    jitter, transits = 0.0, []
    for number, late_ms in enumerate([0, 5, 0, 12, 3, 0, 0, 20] * 5):
        heard.received(1, number, number * 160, 10 + number * 0.02 + late_ms / 1000)
        transits.append(late_ms * 8)
    for before, after in itertools.pairwise(transits):
        jitter += (abs(after - before) - jitter) / 16
    assert heard.jitter_ms == pytest.approx(jitter / 8, abs=0.1)


def test_an_even_stream_has_no_jitter_across_the_wrap_of_its_timestamp():
    heard = ReceptionStatistics()
    for number in range(100):
        heard.received(1, number, (2**32 - 8000 + number * 160) % 2**32, 5 + number * 0.02)
    assert heard.jitter_ms < 0.2


def test_a_new_source_is_counted_anew():
    heard = ReceptionStatistics()
    heard.received(1, 100, 0, 0)
    heard.received(1, 200, 0, 0)
    heard.received(2, 5, 0, 0)
    assert (heard.cumulative_lost, heard.ssrc) == (0, 2)


@pytest.mark.parametrize("number", [20_000, 50_000, 200 - 4000])
def test_a_peer_that_begins_anew_under_the_same_source_lost_nothing(number):
    heard = ReceptionStatistics()
    heard.received(1, 200, 0, 0)
    heard.received(1, number & 0xFFFF, 0, 0)
    heard.received(1, number + 2 & 0xFFFF, 0, 0)
    assert heard.cumulative_lost == 1


def test_nothing_received_is_nothing_to_report():
    assert ReceptionStatistics().block(0, 0) is None
    assert ReceptionStatistics().jitter_ms is None


# -- two ends -----------------------------------------------------------------------------------------------


def test_two_ends_learn_their_losses_jitter_and_the_round_trip():
    us, them = RtcpReporter(0xA, "us"), RtcpReporter(0xB, "them")
    for number in range(100):
        us.rtp_sent(160, number * 160, number * 0.02)
        if number not in (50, 51):
            them.reception.received(0xA, number, number * 160, number * 0.02 + 0.03)
    them.receive(us.report(2.0), 2.03)  # 30 ms there
    us.receive(them.report(4.53), 4.60)  # 70 ms back
    assert us.remote.lost == 2
    assert us.remote.fraction_lost == pytest.approx(2 / 100, abs=1 / 256)
    assert us.remote.jitter_ms < 0.2
    assert us.remote.round_trip_ms == pytest.approx(100, abs=0.1)
    assert (us.remote_cname, them.remote_cname) == ("them", "us")
    assert them.remote.round_trip_ms is None  # they heard nothing of a report of theirs


def test_who_sends_reports_as_a_sender_and_who_stopped_two_reports_ago_as_a_receiver():
    us = RtcpReporter(1, "us")
    assert isinstance(parse(us.report(0.0))[0], ReceiverReport)
    us.rtp_sent(160, 8000, 1.0)
    report = parse(us.report(1.5))[0]
    assert (report.packets, report.octets, report.rtp_timestamp) == (1, 160, 12_000)
    assert report.ntp == int(1.5 * 2**32)
    assert isinstance(parse(us.report(6.0))[0], SenderReport)
    assert isinstance(parse(us.report(11.0))[0], ReceiverReport)


def test_a_report_about_someone_else_and_an_absurd_round_trip_are_ignored():
    us = RtcpReporter(1, "us")
    us.receive(ReceiverReport(2, (ReportBlock(99, 5, 5, 5, 5, 5, 5),)).serialize(), 1.0)
    assert us.remote.lost is None
    us.receive(ReceiverReport(2, (ReportBlock(1, 0, 0, 5, 5, 0x8000_0000, 5),)).serialize(), 1.0)
    assert (us.remote.lost, us.remote.round_trip_ms) == (0, None)


def test_a_goodbye_is_heard_and_no_report_follows_ours():
    us, them = RtcpReporter(1, "us"), RtcpReporter(2, "them")
    us.start(0.0)
    them.receive(us.goodbye(1.0, "hung up"), 1.0)
    assert them.has_left
    assert us.due_at is None


def test_malformed_reports_change_nothing():
    us = RtcpReporter(1, "us")
    with pytest.raises(RtcpError):
        us.receive(ReceiverReport(2, (ReportBlock(1, 9, 9, 9, 9),)).serialize() + b"\x80", 1.0)
    assert us.remote.lost is None
