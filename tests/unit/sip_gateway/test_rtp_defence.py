"""What the network and strangers do to a call: loss and reordering, injected audio, roll-over, early media."""

import itertools
import random

import pytest

from libs.audio.compare import best_correlation
from libs.audio.g711 import Law
from libs.audio.rtp import RtpPacket
from libs.audio.tone import tone
from libs.contracts.frame import Flag
from services.sip_gateway.rtp_session import RtpStart
from tests.unit.sip_gateway.media import SPEECH, Line, everything, packet

OTHER = Law.PCMU.encode(tone(2000, 20, 8000))


@pytest.fixture
def line():
    line = Line()
    yield line
    line.close()


def play(line: Line, arrivals: list[tuple[float, RtpPacket]], until_s: float) -> None:
    """Deliver packets at their times, slot by slot."""
    waiting = sorted(arrivals, key=lambda arrival: arrival[0])
    end = line.now + until_s
    while line.now < end:
        due = [one for at, one in waiting if at <= line.now]
        waiting = waiting[len(due) :]
        if due:
            line.send(*due)
        line.pass_time(5)


# -- loss and reordering ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_with_5_percent_loss_and_60_ms_reordering_every_slot_is_filled_once(line, seed):
    chance, count = random.Random(seed), 1500
    kept = [n for n in range(count) if n == 0 or chance.random() > 0.05]
    arrivals = []
    for number in kept:
        late_s = chance.uniform(0, 0.06) if number < count - 3 and chance.random() < 0.2 else 0.0
        arrivals.append((line.now + number * 0.02 + late_s, packet(number)))
    play(line, arrivals, count * 0.02)
    got = line.rtp.statistics()
    # at the end two or three may still wait for the clock
    assert got.up_published == len(line.frames) == pytest.approx(count, abs=4)
    assert [f.seq for f in line.frames] == list(range(len(line.frames)))
    assert [b.timestamp - a.timestamp for a, b in itertools.pairwise(line.frames)] == [160] * (len(line.frames) - 1)
    assert got.rtp_lost == pytest.approx(count - len(kept), abs=3)  # those with no packet behind them are not known
    assert got.up_concealed == got.rtp_lost
    held = got.rtp_received - line.rtp._in.in_order.released - got.rtp_late - got.rtp_duplicate
    assert got.rtp_received == len(kept)
    assert (
        got.rtp_received - held - got.rtp_late - got.rtp_duplicate + got.up_concealed + got.up_filled
        == got.up_published + got.up_dropped
    )
    assert got.rtp_jitter_ms > 1
    concealed = sum(bool(frame.flags & Flag.CONCEALED) for frame in line.frames)
    assert concealed <= got.up_concealed + got.up_filled


def test_what_comes_after_its_slot_was_given_up_is_late_and_not_heard(line):
    play(line, [(line.now + n * 0.02, packet(n)) for n in range(20) if n != 5], 0.4)
    frames = len(line.frames)
    line.send(packet(5))
    got = line.rtp.statistics()
    assert (got.rtp_late, got.rtp_lost, len(line.frames)) == (1, 1, frames)


def test_what_comes_twice_is_heard_once(line):
    play(line, [(line.now + n * 0.02, packet(n)) for n in range(20) for _ in range(2)], 0.4)
    got = line.rtp.statistics()
    assert (got.rtp_received, got.rtp_duplicate, got.up_concealed) == (40, 20, 0)
    assert got.up_published + got.up_dropped - got.up_filled == 20


@pytest.mark.parametrize("ptime_ms", [10, 30, 40])
def test_loss_at_another_packet_length_is_made_up_at_that_length(line, ptime_ms):
    samples, count = ptime_ms * 8, 4000 // ptime_ms
    lost = set(range(10, count - 5, 20))
    arrivals = [
        (line.now + n * ptime_ms / 1000, packet(n, Law.PCMU.encode(tone(440, ptime_ms, 8000)), ts=n * samples))
        for n in range(count)
        if n not in lost
    ]
    play(line, arrivals, 4.0)
    assert len(line.frames) == pytest.approx(200, abs=5)
    assert {len(frame.payload) for frame in line.frames} == {320}
    assert line.rtp.statistics().rtp_lost == len(lost)


def test_comfort_noise_between_talkspurts_is_no_loss(line):
    arrivals = []
    for n in range(100):
        speaks = n // 25 % 2 == 0
        if speaks or n % 5 == 0:
            arrivals.append((line.now + n * 0.02, n, SPEECH if speaks else b"\x40", 0 if speaks else 13))
    play(
        line,
        [(at, packet(number, body, pt=pt, ts=n * 160)) for number, (at, n, body, pt) in enumerate(arrivals)],
        2.0,
    )
    got = line.rtp.statistics()
    assert (got.rtp_lost, got.rtp_late, line.rtp.other_payload) == (0, 0, 10)
    assert len(line.frames) == pytest.approx(100, abs=4)
    assert got.rtp_received == 60


# -- who speaks ---------------------------------------------------------------------------------------------------


def test_nobody_injects_audio_or_moves_the_latch(line):
    line.rtp.answered(line.now)
    strangers = [line.stranger() for _ in range(5)]
    for number in range(50):
        line.send(packet(number))
        for stranger in strangers:  # with the right numbers, ahead of the caller
            line.send(packet(number + 1, OTHER), sock=stranger)
        line.pass_time(20)
    got = line.rtp.statistics()
    assert (got.rtp_received, got.rtp_foreign, got.rtp_duplicate) == (50, 250, 0)
    assert best_correlation(tone(2000, 20, 8000), line.pcm)[0] < 0.3
    assert len(line.heard()) == pytest.approx(50, abs=1)
    assert [everything(stranger) for stranger in strangers] == [[]] * 5


def test_a_latch_behind_nat_is_moved_by_the_named_address_only_and_only_once(line):
    early, stranger = line.stranger(), line.stranger()
    line.send(packet(1), sock=early)
    line.send(packet(2), sock=stranger)
    line.send(packet(2))
    line.send(packet(3), sock=early)
    line.send(packet(3), sock=stranger)
    line.send(packet(3))
    assert line.rtp.statistics().rtp_foreign == 3
    assert line.rtp._latch.remote == line.caller.getsockname()


def test_both_directions_roll_over_at_once():
    line = Line(start=RtpStart(1, 0xFFFF - 10, 2**32 - 10 * 160))
    line.rtp.answered(line.now)
    sent = []
    for number in range(40):
        line.send(packet(0xFFFF - 20 + number, ts=2**32 - 20 * 160 + number * 160))
        line.say(tone(440, 20, 8000), begins=number == 0)
        line.pass_time(20)
        sent += line.heard()
    got = line.rtp.statistics()
    assert (got.rtp_lost, got.rtp_late, got.up_concealed, got.rtp_received) == (0, 0, 0, 40)
    assert {(b.sequence_number - a.sequence_number) % 2**16 for a, b in itertools.pairwise(sent)} == {1}
    assert {(b.timestamp - a.timestamp) % 2**32 for a, b in itertools.pairwise(sent)} == {160}
    assert got.rtp_jitter_ms < 1
    line.close()


# -- early media ----------------------------------------------------------------------------------------------------


def test_early_media_latches_and_is_counted_and_reaches_nobody(line):
    behind_nat = line.stranger()
    line.rtp.early()
    for number in range(50):
        line.send(packet(number), sock=behind_nat)
        line.now += 0.02
    got = line.rtp.statistics()
    assert (got.rtp_early, got.rtp_received, got.up_published, got.rtp_sent) == (50, 0, 0, 0)
    assert line.rtp.received_at is not None
    line.rtp.answered(line.now)
    line.send(packet(50), sock=behind_nat)
    line.send(packet(51), sock=line.stranger())
    line.pass_time(20)
    got = line.rtp.statistics()
    assert (got.rtp_early, got.rtp_received, got.rtp_foreign, got.rtp_lost) == (50, 1, 1, 0)
    assert everything(behind_nat)


def test_an_answer_at_another_address_than_the_early_medias_is_latched_anew(line):
    line.rtp.early()
    line.send(packet(1))
    moved = line.stranger()
    line.rtp.redirect(moved.getsockname(), may_send=True)
    line.rtp.answered(line.now)
    line.send(RtpPacket(0, 7, 0, 99, SPEECH), sock=moved)
    line.send(packet(2))
    assert (len(line.frames), line.rtp.foreign) == (1, 1)


def test_a_183_after_the_answer_mutes_nobody(line):
    line.rtp.answered(line.now)
    line.rtp.early()
    line.send(packet(1))
    assert len(line.frames) == 1
