"""The gateway's RTP: latching and order on the way up, one unbroken timeline on the way down."""

import audioop
import itertools

import pytest

from libs.audio.compare import best_correlation
from libs.audio.dtmf import dtmf_packets
from libs.audio.g711 import Law
from libs.audio.tone import tone
from libs.contracts.frame import Flag
from services.sip_gateway.rtp_session import MediaFormat, RtpStart
from tests.unit.sip_gateway.media import PCMU, SPEECH, Line, packet

FRAME = tone(440, 20, 8000)


@pytest.fixture
def line():
    line = Line()
    yield line
    line.close()


def fresh(**named):
    return Line(**named)


# -- up: who is heard -------------------------------------------------------------------------------------


def test_the_first_valid_source_is_latched_even_when_sdp_named_another(line):
    behind_nat = line.stranger()
    line.send(packet(1), sock=behind_nat)
    line.rtp.answered(line.now)
    line.pass_time(40)
    assert len(line.frames) == 1
    assert line.heard() == []
    assert len(behind_nat.recv(2048)) == 172


def test_garbage_and_a_codec_that_was_not_agreed_latch_nothing(line):
    stranger = line.stranger()
    line.send(b"", b"\x80", b"GET / HTTP/1.1\r\n\r\n", packet(1, pt=18), packet(2, pt=13), sock=stranger)
    line.send(packet(3))
    assert (line.rtp.malformed, line.rtp.other_payload, line.rtp.foreign) == (3, 2, 0)
    line.rtp.answered(line.now)
    line.pass_time(20)
    assert line.heard()
    assert len(line.frames) == 1


def test_another_source_is_counted_and_never_heard(line):
    line.send(packet(1, ts=160))
    stranger = line.stranger()
    line.send(packet(2, Law.PCMU.encode(tone(2000, 20, 8000)), ts=320), sock=stranger)
    line.send(packet(2, ts=320))
    assert line.rtp.statistics().rtp_foreign == 1
    assert [best_correlation(frame.payload, FRAME)[0] > 0.99 for frame in line.frames] == [True, True]


def test_a_source_that_gets_no_answer_takes_no_call_over(line):
    line.rtp.may_latch = lambda host: host == "127.0.0.7"
    stranger = line.stranger()
    line.send(packet(1), sock=stranger)
    line.rtp.answered(line.now)
    line.pass_time(40)
    assert (line.rtp.foreign, line.frames) == (1, [])
    assert line.heard(), "the named address gets the agent's audio"


def test_the_named_address_gets_its_call_back_once(line):
    early = line.stranger()
    line.send(packet(1), sock=early)
    line.send(packet(2))
    line.send(packet(3), sock=early)
    assert (len(line.frames), line.rtp.foreign) == (2, 1)


def test_comfort_noise_is_a_sign_of_life(line):
    line.send(packet(1))
    heard_at = line.rtp.received_at
    line.pass_time(1000)
    line.send(packet(2, pt=13))
    assert line.rtp.received_at > heard_at


def test_what_is_not_sent_on_hold_does_not_count_as_played(line):
    line.rtp.answered(line.now)
    line.rtp.may_send = False
    for _ in range(5):
        line.say(FRAME, begins=True)
    line.pass_time(200)
    on_hold = line.rtp.statistics()
    assert (on_hold.dn_waiting, on_hold.dn_played, on_hold.rtp_sent) == (5, 0, 0)
    line.rtp.may_send = True
    line.pass_time(120)
    assert line.rtp.statistics().dn_played == 5


def test_a_new_address_by_reinvite_is_latched_anew(line):
    line.send(packet(1))
    moved = line.stranger()
    line.rtp.redirect(moved.getsockname(), may_send=True)
    line.send(packet(2), sock=moved)
    assert (len(line.frames), line.rtp.foreign) == (2, 0)


def test_the_same_address_by_reinvite_stays_latched(line):
    line.send(packet(1))
    line.rtp.redirect(line.caller.getsockname(), may_send=True)
    line.send(packet(9), sock=line.stranger())
    assert line.rtp.foreign == 1


def test_a_codec_changed_by_reinvite_is_decoded_and_sent_as_agreed(line):
    line.send(packet(1, ts=160))
    line.rtp.redirect(line.caller.getsockname(), may_send=True, media=MediaFormat(Law.PCMA, 8, None))
    line.send(packet(2, Law.PCMA.encode(FRAME), pt=8, ts=320))
    assert best_correlation(line.frames[-1].payload, FRAME)[0] > 0.99
    line.rtp.answered(line.now)
    line.say(FRAME, begins=True)
    (sent,) = line.heard()
    assert sent.payload_type == 8
    assert audioop.rms(Law.PCMA.decode(sent.payload), 2) == pytest.approx(audioop.rms(FRAME, 2), rel=0.05)


# -- up: order and shape ----------------------------------------------------------------------------------


def levels(line) -> list[int]:
    return [round(audioop.rms(frame.payload, 2), -2) for frame in line.frames]


def test_packets_are_released_in_order(line):
    loud = [Law.PCMU.encode(tone(440, 20, 8000, dbfs)) for dbfs in (-10, -16, -22, -28)]
    packets = [packet(n, payload) for n, payload in enumerate(loud)]
    line.send(packets[0], packets[2], packets[1], packets[3])
    assert levels(line) == sorted(levels(line), reverse=True)
    assert len(line.frames) == 4
    assert [frame.seq for frame in line.frames] == [0, 1, 2, 3]
    assert [frame.timestamp for frame in line.frames] == [0, 160, 320, 480]


def test_a_lost_packet_is_concealed_once_the_wait_for_it_is_over(line):
    line.send(packet(1), packet(3))
    assert len(line.frames) == 1
    line.pass_time(65)
    assert [bool(frame.flags & Flag.CONCEALED) for frame in line.frames[:3]] == [False, True, False]
    assert line.rtp.statistics().rtp_lost == 1


@pytest.mark.parametrize("ptime_ms", [10, 20, 30, 40, 60])
def test_any_packet_length_becomes_frames_of_20_ms(line, ptime_ms):
    whole = tone(440, 240, 8000)
    size = ptime_ms * 16
    for number in range(240 // ptime_ms):
        line.send(packet(number, Law.PCMU.encode(whole[number * size : (number + 1) * size])))
        line.now += ptime_ms / 1000
    assert [len(frame.payload) for frame in line.frames] == [320] * 12
    assert best_correlation(whole, b"".join(frame.payload for frame in line.frames))[0] > 0.999


def test_sequence_number_and_timestamp_roll_over_unnoticed(line):
    for number in range(0xFFFF - 5, 0xFFFF + 6):
        line.send(packet(number, ts=(0xFFFFFFFF - 5 * 160 + (number - 0xFFFF + 5) * 160)))
        line.now += 0.02
    assert len(line.frames) == 11
    assert line.rtp.statistics().rtp_lost == line.rtp.statistics().rtp_late == 0
    assert not any(frame.flags & Flag.CONCEALED for frame in line.frames)


def test_a_digit_is_reported_once_and_is_no_audio(line):
    for number, one in enumerate(dtmf_packets("5", duration_ms=100)):
        line.send(packet(number, one.payload, pt=101, ts=160, marker=one.marker))
    assert line.digits == ["5"]
    assert line.frames == []


def test_malformed_packets_are_counted_and_hurt_nobody(line):
    line.send(packet(1))
    rtcp = bytes([0x80, 200]) + bytes(26)
    bad_padding = bytes([0xA0, 0]) + bytes(10) + SPEECH[:-1] + b"\xff"
    truncated_csrc = bytes([0x8F, 0]) + bytes(10) + b"xx"
    line.send(b"\x00" * 12, rtcp, bad_padding, truncated_csrc, b"\xff")
    line.send(packet(2))
    assert line.rtp.statistics().rtp_malformed == 5
    assert len(line.frames) == 2


def test_an_empty_payload_and_an_oversized_packet_end_nothing(line):
    line.send(packet(1, b"", ts=0), packet(2, ts=0), packet(3, bytes(1900), ts=160))
    line.send(packet(4, ts=2060))
    assert line.frames


def test_the_uplink_runs_on_when_the_caller_sends_nothing(line):
    line.send(packet(1))
    line.pass_time(1000)
    assert 45 <= len(line.frames) <= 50
    assert all(frame.flags & Flag.CONCEALED for frame in line.frames[1:])


def test_a_burst_beyond_real_time_is_dropped_and_counted(line):
    line.send(*(packet(number) for number in range(30)))
    assert len(line.frames) <= 7
    assert line.rtp.statistics().up_dropped == 30 - len(line.frames)


# -- down: the timeline -----------------------------------------------------------------------------------


def test_nothing_is_sent_before_the_answer(line):
    line.pass_time(100)
    assert line.heard() == []


def test_the_timeline_is_unbroken_from_the_answer_on_silence_included(line):
    line.rtp.answered(line.now)
    line.pass_time(100)
    for _ in range(5):
        line.say(FRAME, begins=_ == 0)
    line.pass_time(300)
    sent = line.heard()
    assert len(sent) == pytest.approx(20, abs=1)
    assert [b.timestamp - a.timestamp for a, b in itertools.pairwise(sent)] == [160] * (len(sent) - 1)
    assert [b.sequence_number - a.sequence_number for a, b in itertools.pairwise(sent)] == [1] * (len(sent) - 1)
    assert (sent[0].sequence_number, sent[0].timestamp, sent[0].ssrc) == (1000, 50_000, 0xCA11)


def test_only_the_first_packet_of_a_talkspurt_is_marked(line):
    line.rtp.answered(line.now)
    for _ in range(2):
        line.pass_time(60)
        for number in range(3):
            line.say(FRAME, begins=number == 0)
        line.pass_time(100)
    marked = [number for number, sent in enumerate(line.heard()) if sent.marker]
    assert len(marked) == 2


def arrivals(line, ms: int) -> list[tuple[float, bytes]]:
    got = []
    for _ in range(ms):
        line.pass_time(1, slot_ms=1)
        got += [(line.now, sent.payload) for sent in line.heard()]
    return got


def test_a_talkspurts_first_frame_leaves_at_once_and_its_lead_is_given_back_in_the_pause(line):
    line.rtp.answered(line.now)
    before = arrivals(line, 107)[-1][0]
    line.say(FRAME, begins=True)
    assert len(line.heard()) == 1
    early_at = line.now
    assert early_at - before < 0.019
    for _ in range(4):
        line.say(FRAME)
    times = [at for at, _ in arrivals(line, 250)]
    gaps = [round((b - a) * 1000) for a, b in zip([early_at, *times], times, strict=False)]
    lead_ms = 20 - round((early_at - before) * 1000)
    assert gaps[:5] == [20] * 5
    assert 20 + lead_ms in gaps  # once, in the pause: the timeline is back on its grid
    assert set(gaps) <= {20, 20 + lead_ms}
    assert gaps.count(20 + lead_ms) == 1


def test_many_talkspurts_never_add_up_to_a_lead(line):
    line.rtp.answered(line.now)
    began = line.now
    count = 0
    for number in range(40):
        count += len(arrivals(line, 47 + number % 20))
        line.say(FRAME, begins=True)
        count += len(line.heard())
    line.pass_time(200)
    count += len(line.heard())
    assert count == pytest.approx((line.now - began) / 0.02, abs=2)


def test_after_a_stall_the_timeline_went_on_in_real_time_and_nothing_bursts(line):
    line.rtp.answered(line.now)
    line.pass_time(100)
    before = line.heard()[-1]
    line.now += 0.5
    line.rtp.tick(line.now)
    after = line.heard()
    assert len(after) == 1
    assert after[0].sequence_number == before.sequence_number + 1  # nothing was lost on the way
    assert (after[0].timestamp - before.timestamp) / 8000 == pytest.approx(0.5, abs=0.021)
    assert line.rtp.statistics().rtp_skipped == (after[0].timestamp - before.timestamp) // 160 - 1
    line.pass_time(100)
    assert 4 <= len(line.heard()) <= 6


def test_what_we_send_rolls_over_on_the_wire():
    line = fresh(start=RtpStart(1, 0xFFFE, 0xFFFFFFFF - 200))
    try:
        line.rtp.answered(line.now)
        line.pass_time(100)
        sent = line.heard()
        assert [p.sequence_number for p in sent[:4]] == [0xFFFE, 0xFFFF, 0, 1]
        assert [(b.timestamp - a.timestamp) % 2**32 for a, b in itertools.pairwise(sent)] == [160] * (len(sent) - 1)
    finally:
        line.close()


def test_on_hold_nothing_is_sent_and_the_timeline_runs_on(line):
    line.rtp.answered(line.now)
    line.pass_time(100)
    before = line.heard()[-1]
    line.rtp.redirect(line.caller.getsockname(), may_send=False)
    line.pass_time(200)
    assert line.heard() == []
    line.rtp.redirect(line.caller.getsockname(), may_send=True)
    line.pass_time(20)
    after = line.heard()[0]
    assert after.sequence_number == before.sequence_number + 1
    assert (after.timestamp - before.timestamp) / 8000 == pytest.approx(0.22, abs=0.021)


@pytest.mark.parametrize("law", list(Law))
def test_both_laws_carry_the_agents_voice_to_the_codec_bound(law):
    line = fresh(media=MediaFormat(law, law.payload_type, 101))
    try:
        line.rtp.answered(line.now)
        voice = tone(440, 100, 8000)
        for number in range(5):
            line.say(voice[number * 320 : (number + 1) * 320], begins=number == 0)
        line.pass_time(120)
        heard = b"".join(law.decode(sent.payload) for sent in line.heard() if sent.payload != law.silence * 160)
        assert best_correlation(voice, heard)[0] > 0.999
    finally:
        line.close()


def test_a_peer_that_refuses_our_packets_ends_nothing(line):
    line.send(packet(1))
    line.rtp.answered(line.now)
    line.caller.close()
    line.pass_time(200)
    line.rtp.read(line.now)
    assert line.rtp.sent + line.rtp.unsent >= 9


def test_silence_of_the_format_is_a_full_packet():
    assert PCMU.codec.encoder().silence_frame() == b"\xff" * 160
