"""G.722: 16 kHz on the bus, 8000 Hz on RTP's clock; and calls whose codec changes while the bus rate stays."""

import itertools

import pytest

from libs.audio.compare import best_correlation, snr_db
from libs.audio.g711 import Law
from libs.audio.g722 import G722
from libs.audio.level import dbfs
from libs.audio.tone import tone
from libs.contracts.frame import Flag
from services.sip_gateway.rtp_session import MediaFormat
from tests.unit.sip_gateway.media import PCMU, Line, packet

WIDE = MediaFormat(G722, 9, 101)
VOICE = tone(440, 300, 16_000) + tone(3000, 300, 16_000)


def wideband(rate_hz: int = 16_000) -> Line:
    line = Line(WIDE, rate_hz=rate_hz)
    line.rtp.answered(line.now)
    return line


def pieces(pcm: bytes, size: int = 640) -> list[bytes]:
    return [pcm[start : start + size] for start in range(0, len(pcm), size)]


def caller_says(line: Line, pcm: bytes, *, lose: tuple[int, ...] = (), first: int = 0) -> None:
    encoder = G722.encoder()
    for number, piece in enumerate(pieces(pcm), first):
        payload = encoder.encode(piece)
        if number - first not in lose:
            line.send(packet(number, payload, pt=9))
        line.pass_time(20)


def agent_says(line: Line, pcm: bytes, rate_hz: int = 16_000) -> bytes:
    """The payloads that the caller got from the first word on."""
    got = []
    for number, piece in enumerate(pieces(pcm, rate_hz // 25)):
        line.say(piece, begins=number == 0)
        got += line.heard()[-1:] if number == 0 else line.heard()
        line.pass_time(20)
    line.pass_time(60)
    got += line.heard()
    assert [b.timestamp - a.timestamp for a, b in itertools.pairwise(got)] == [160] * (len(got) - 1)
    assert {len(p.payload) for p in got} == {160}
    return b"".join(p.payload for p in got)


def test_the_caller_is_heard_at_16_khz():
    line = wideband()
    caller_says(line, VOICE)
    assert {len(frame.payload) for frame in line.frames} == {640}
    assert [frame.timestamp for frame in line.frames[:3]] == [0, 320, 640]
    assert best_correlation(VOICE, line.pcm)[0] > 0.97
    line.close()


def test_the_agent_is_heard_at_16_khz_on_a_clock_of_8_khz():
    line = wideband()
    heard = G722.decoder().decode(agent_says(line, VOICE))
    assert best_correlation(VOICE, heard)[0] > 0.97
    assert line.rtp.statistics().dn_played == 30
    line.close()


def test_an_echo_is_as_good_as_the_codec():
    """Through the gateway and back: what the agent repeats differs from the original by two codings only."""
    line = wideband()
    caller_says(line, VOICE)
    echo = G722.decoder().decode(agent_says(line, line.pcm[: len(VOICE)]))
    coder, decoder, back, forth = G722.encoder(), G722.decoder(), G722.encoder(), G722.decoder()
    twice = b"".join(forth.decode(back.encode(decoder.decode(coder.encode(one)))) for one in pieces(VOICE))
    middle = slice(3200, 3200 + 12_800)
    assert snr_db(VOICE[middle], echo) == pytest.approx(snr_db(VOICE[middle], twice), abs=3)
    assert snr_db(VOICE[middle], echo) > 10
    line.close()


def test_silence_is_sent_as_silence():
    line = wideband()
    agent_says(line, VOICE[:6400])
    line.pass_time(200)
    decoder = G722.decoder()
    silent = b"".join(decoder.decode(p.payload) for p in line.heard())
    assert dbfs(silent) < -60
    line.close()


def test_a_lost_packet_is_concealed_at_16_khz():
    line = wideband()
    steady = tone(440, 400, 16_000)
    caller_says(line, steady, lose=(10,))
    concealed = [frame for frame in line.frames if frame.flags & Flag.CONCEALED]
    assert {len(frame.payload) for frame in line.frames} == {640}
    assert concealed
    assert line.rtp.statistics().rtp_lost == 1
    first = next(frame for frame in line.frames if frame.flags & Flag.CONCEALED)
    assert dbfs(first.payload) == pytest.approx(dbfs(steady), abs=4)
    line.close()


@pytest.mark.parametrize("ptime_ms", [10, 30, 40])
def test_other_packet_lengths_become_frames_of_20_ms(ptime_ms):
    line = wideband()
    encoder = G722.encoder()
    for number, piece in enumerate(pieces(VOICE[: 240 * 32], ptime_ms * 32)):
        line.send(packet(number, encoder.encode(piece), pt=9))
        line.now += ptime_ms / 1000
    assert [len(frame.payload) for frame in line.frames] == [640] * 12
    line.close()


def test_digits_come_through_beside_wideband():
    line = wideband()
    line.send(packet(1, b"\x05\x0a\x00\xa0", pt=101, ts=160, marker=True))
    assert line.digits == ["5"]
    line.close()


# -- a bus rate other than the codec's ----------------------------------------------------------------------------


def test_a_reinvite_to_narrowband_keeps_the_bus_at_16_khz():
    line = wideband()
    caller_says(line, VOICE[:6400])
    line.rtp.redirect(line.caller.getsockname(), may_send=True, media=PCMU)
    before = len(line.frames)
    narrow = tone(440, 400, 8000)
    for number, piece in enumerate(pieces(narrow, 320), 10):
        line.send(packet(number, Law.PCMU.encode(piece), ts=number * 160))
        line.pass_time(20)
    after = b"".join(frame.payload for frame in line.frames[before:])
    assert {len(frame.payload) for frame in line.frames} == {640}
    assert best_correlation(tone(440, 300, 16_000), after)[0] > 0.98
    heard = Law.PCMU.decode(agent_says(line, tone(440, 300, 16_000)))
    assert best_correlation(tone(440, 280, 8000), heard)[0] > 0.98
    line.close()


def test_a_reinvite_to_wideband_keeps_the_bus_at_8_khz():
    line = Line()
    line.rtp.answered(line.now)
    line.rtp.redirect(line.caller.getsockname(), may_send=True, media=WIDE)
    caller_says(line, tone(440, 400, 16_000))
    assert {len(frame.payload) for frame in line.frames} == {320}
    assert best_correlation(tone(440, 300, 8000), line.pcm)[0] > 0.98
    heard = G722.decoder().decode(agent_says(line, tone(440, 300, 8000), 8000))
    assert best_correlation(tone(440, 240, 16_000), heard)[0] > 0.97  # a decoder that joins late adapts first
    line.close()


def test_what_is_made_up_has_the_rate_of_the_bus():
    line = wideband(rate_hz=8000)
    caller_says(line, tone(440, 100, 16_000))
    line.pass_time(300)
    assert line.rtp.statistics().up_filled > 5
    assert {len(frame.payload) for frame in line.frames} == {320}
    line.close()


def test_the_resampled_end_of_a_talkspurt_is_not_heard_at_the_next_ones_beginning():
    line = Line(PCMU, rate_hz=16_000)
    line.rtp.answered(line.now)
    line.say(tone(440, 20, 16_000), begins=True)
    line.pass_time(200)
    line.heard()
    line.say(bytes(640), begins=True)
    (sent,) = line.heard()
    assert dbfs(Law.PCMU.decode(sent.payload)) < -60
    line.close()
