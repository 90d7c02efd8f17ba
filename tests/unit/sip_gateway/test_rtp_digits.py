"""Digits that the agent sends: as telephone events where they were agreed on, else as tones."""

import itertools

import pytest

from libs.audio.dtmf import DtmfError, DtmfReceiver, TelephoneEvent
from libs.audio.g711 import Law
from libs.audio.g722 import G722
from libs.audio.tone import tone
from services.sip_gateway.rtp_session import MediaFormat
from tests.unit.audio.test_dtmf import keys
from tests.unit.sip_gateway.media import Line

FRAME = tone(440, 20, 8000)
SILENCE = b"\xff" * 160


@pytest.fixture
def line():
    line = Line()
    line.rtp.answered(line.now)
    yield line
    line.close()


def received(packets) -> str:
    receiver = DtmfReceiver()
    digits = (receiver.push(p.payload, p.timestamp, p.marker) for p in packets if p.payload_type == 101)
    return "".join(digit for digit in digits if digit)


def test_digits_arrive_as_they_were_sent(line):
    line.rtp.send_digits("0123456789*#abcd", line.now)
    line.pass_time(16 * 160 + 40)
    assert received(line.heard()) == "0123456789*#ABCD"
    assert not line.rtp.is_sending_digits


def test_an_event_has_the_form_of_rfc_4733(line):
    line.pass_time(100)
    before = line.heard()[-1]
    line.rtp.send_digits("5", line.now)
    line.pass_time(180)
    sent = line.heard()
    events = [p for p in sent if p.payload_type == 101]
    parsed = [TelephoneEvent.parse(p.payload) for p in events]
    assert [p.marker for p in events] == [True] + [False] * 6
    assert {p.timestamp for p in events} == {before.timestamp + 160}
    assert [e.duration for e in parsed] == [160, 320, 480, 640, 800, 800, 800]
    assert [e.end for e in parsed] == [False] * 4 + [True] * 3
    numbers = [p.sequence_number for p in (before, *sent)]
    assert all(b - a == 1 for a, b in itertools.pairwise(numbers))
    audio_after = next(p for p in sent[3:] if p.payload_type == 0)
    assert audio_after.timestamp == before.timestamp + 8 * 160  # the audio's clock ran on
    assert audio_after.payload == SILENCE


def test_the_agents_audio_waits_and_counts_as_heard_only_when_it_is(line):
    line.pass_time(100)
    line.heard()
    for number in range(5):
        line.say(FRAME, begins=number == 0)
    line.rtp.send_digits("12", line.now)
    line.pass_time(300)
    during = line.rtp.statistics()
    assert (during.dn_played, during.dn_waiting) == (1, 4)  # the talkspurt's first frame was gone already
    assert line.audio.playout.played == 160
    line.pass_time(200)
    assert line.rtp.statistics().dn_played == 5
    sent = line.heard()
    last_event = max(number for number, p in enumerate(sent) if p.payload_type == 101)
    speech = [number for number, p in enumerate(sent) if p.payload_type == 0 and p.payload != SILENCE]
    assert [number > last_event for number in speech] == [False] + [True] * 4
    assert sent[speech[1]].marker


def test_a_talkspurt_that_begins_during_a_digit_does_not_break_in(line):
    line.pass_time(100)
    line.rtp.send_digits("1", line.now)
    line.pass_time(30)
    line.heard()
    line.say(FRAME, begins=True)
    assert line.heard() == []
    line.pass_time(200)
    assert line.rtp.statistics().dn_played == 1


def test_more_digits_queue_behind_those_under_way(line):
    line.rtp.send_digits("12", line.now)
    line.pass_time(60)
    line.rtp.send_digits("3", line.now)
    line.pass_time(600)
    assert received(line.heard()) == "123"


def test_fifty_packets_a_second_leave_whatever_is_sent(line):
    began = line.rtp.sent
    line.rtp.send_digits("123", line.now)
    line.pass_time(1000)
    assert line.rtp.sent - began == pytest.approx(50, abs=1)


def test_digits_wait_for_the_answer_and_for_the_end_of_a_hold():
    line = Line()
    line.rtp.send_digits("7", line.now)
    line.pass_time(200)
    line.rtp.may_send = False
    line.rtp.answered(line.now)
    line.pass_time(200)
    assert line.heard() == []
    line.rtp.may_send = True
    line.pass_time(200)
    assert received(line.heard()) == "7"
    line.close()


def test_what_is_no_digit_sends_nothing(line):
    by_tones = without_events()
    for one in (line, by_tones):
        with pytest.raises(DtmfError, match="'x'"):
            one.rtp.send_digits("1x", one.now)
        assert not one.rtp.is_sending_digits
    by_tones.close()


def without_events(codec=Law.PCMA, rate_hz=8000) -> Line:
    line = Line(MediaFormat(codec, codec.payload_type, None), rate_hz=rate_hz)
    line.rtp.answered(line.now)
    return line


@pytest.mark.parametrize("codec", [*Law, G722])
def test_without_events_the_tones_are_in_the_audio(codec):
    line = without_events(codec, codec.rate_hz)
    line.pass_time(100)
    line.heard()
    line.say(tone(440, 20, codec.rate_hz), begins=True)
    line.heard()
    line.rtp.send_digits("19*D", line.now)
    line.pass_time(4 * 160)
    decoder = codec.decoder()
    sent = line.heard()
    assert {p.payload_type for p in sent} == {codec.payload_type}
    pcm = b"".join(decoder.decode(p.payload) for p in sent[-32:])
    assert keys(pcm, codec.rate_hz) == "19*D"
    line.close()


def test_a_reinvite_that_takes_events_away_gives_up_what_waits(line):
    line.rtp.send_digits("123", line.now)
    line.pass_time(40)
    line.rtp.redirect(line.caller.getsockname(), may_send=True, media=MediaFormat(Law.PCMA, 8, None))
    assert not line.rtp.is_sending_digits
    line.pass_time(40)
    assert line.heard()[-1].payload_type == 8
