"""Two calls of one gateway joined: each hears the other's caller, and the bus neither."""

import pytest

from libs.audio.compare import best_correlation
from libs.audio.dtmf import DtmfReceiver, dtmf_packets
from libs.audio.g711 import Law
from libs.audio.g722 import G722
from libs.audio.tone import tone, waiting_tone
from services.sip_gateway.rtp_bridge import MAX_FRAMES, BridgeQueue
from services.sip_gateway.rtp_session import MediaFormat
from tests.unit.sip_gateway.media import Line, packet

FORMATS = {codec.encoding_name: MediaFormat(codec, codec.payload_type, 101) for codec in (*Law, G722)}


class Caller:
    """One end with its own codec and its own beat."""

    def __init__(self, name: str, bus_hz: int | None = None) -> None:
        media = FORMATS[name]
        self.codec = media.codec
        self.line = Line(media, rate_hz=bus_hz or media.codec.rate_hz)
        self.line.rtp.answered(self.line.now)
        self._encoder, self._decoder = self.codec.encoder(), self.codec.decoder()
        self._number = 0
        self.heard = b""
        self.packets: list = []

    def say(self, pcm: bytes) -> None:
        self.line.send(packet(self._number, self._encoder.encode(pcm), pt=self.codec.payload_type))
        self._number += 1

    def listen(self) -> None:
        got = self.line.heard()
        self.packets += got
        self.heard += b"".join(self._decoder.decode(p.payload) for p in got if p.payload_type != 101)


def talk(one: Caller, other: Caller, ms: int, hz: tuple[int, int] = (440, 700)) -> None:
    """Both speak at once for so long, the second one 10 ms later in each frame."""
    says = [tone(f, ms, c.codec.rate_hz) for f, c in zip(hz, (one, other), strict=True)]
    for number in range(ms // 20):
        for caller, pcm in zip((one, other), says, strict=True):
            size = caller.codec.rate_hz // 25
            caller.say(pcm[number * size : (number + 1) * size])
            for line in (one.line, other.line):
                line.pass_time(10)
        for caller in (one, other):
            caller.listen()


@pytest.fixture
def pair():
    made = []

    def make(*names: str, **named) -> list[Caller]:
        made.extend(Caller(name, **named) for name in names)
        for caller in made:
            caller.line.pass_time(40)
            caller.listen()
        return made

    yield make
    for caller in made:
        caller.line.close()


@pytest.mark.parametrize("names", [("PCMU", "PCMU"), ("PCMU", "PCMA"), ("PCMA", "G722"), ("G722", "G722")])
def test_each_hears_the_other_whatever_they_speak(pair, names):
    one, other = pair(*names)
    one.line.rtp.bridge_to(other.line.rtp)
    assert one.line.rtp.is_bridged
    assert other.line.rtp.is_bridged
    talk(one, other, 1000)
    assert best_correlation(tone(700, 600, one.codec.rate_hz), one.heard)[0] > 0.98
    assert best_correlation(tone(440, 600, other.codec.rate_hz), other.heard)[0] > 0.98
    for caller in (one, other):
        assert caller.line.rtp.statistics().up_bridged == 50
        assert caller.line.rtp.statistics().bridge_dropped == 0


def test_the_bus_hears_nothing_and_the_agent_is_not_played(pair):
    one, other = pair("PCMU", "PCMU")
    frames = len(one.line.frames)
    one.line.rtp.bridge_to(other.line.rtp)
    one.line.say(tone(2000, 20, 8000), begins=True)
    talk(one, other, 500)
    assert len(one.line.frames) == frames
    got = one.line.rtp.statistics()
    assert (got.dn_played, got.dn_waiting) == (0, 1)
    assert got.rtp_received == got.up_bridged


def test_fifty_packets_a_second_go_out_although_the_other_is_silent(pair):
    one, other = pair("PCMU", "PCMA")
    sent = other.line.rtp.sent
    one.line.rtp.bridge_to(other.line.rtp)
    other.line.pass_time(1000)
    assert other.line.rtp.sent - sent == pytest.approx(50, abs=1)
    other.listen()
    assert not best_correlation(tone(440, 200, 8000), other.heard)[0] > 0.5


def test_the_delay_is_bounded_and_what_exceeds_it_is_counted(pair):
    one, other = pair("PCMU", "PCMU")
    one.line.rtp.bridge_to(other.line.rtp)
    for _ in range(50):  # the other's clock stands still
        one.say(tone(440, 20, 8000))
        one.line.now += 0.02
    got = other.line.rtp.statistics()
    assert got.bridge_dropped == 50 - MAX_FRAMES
    other.line.pass_time(20 * MAX_FRAMES)
    assert other.line.rtp.statistics().bridge_dropped == 50 - MAX_FRAMES


def test_digits_of_one_are_sent_to_the_other(pair):
    one, other = pair("PCMU", "PCMA")
    one.line.rtp.bridge_to(other.line.rtp)
    for number, event in enumerate(dtmf_packets("42")):
        one.line.send(packet(number, event.payload, pt=101, ts=event.timestamp_offset, marker=event.marker))
    other.line.pass_time(400)
    other.listen()
    receiver = DtmfReceiver()
    got = [receiver.push(p.payload, p.timestamp, p.marker) for p in other.packets if p.payload_type == 101]
    assert [digit for digit in got if digit] == ["4", "2"]
    assert one.line.digits == ["4", "2"]


def test_after_it_both_are_back_on_the_bus(pair):
    one, other = pair("PCMU", "G722")
    one.line.rtp.bridge_to(other.line.rtp)
    talk(one, other, 200)
    one.line.rtp.unbridge()
    assert not other.line.rtp.is_bridged
    frames = [len(c.line.frames) for c in (one, other)]
    talk(one, other, 400)
    assert [len(c.line.frames) - before for c, before in zip((one, other), frames, strict=True)] == [
        pytest.approx(20, abs=5)
    ] * 2
    one.line.say(tone(440, 20, 8000), begins=True)
    one.line.pass_time(20)
    assert one.line.rtp.statistics().dn_played == 1


def test_the_end_of_one_call_ends_the_bridge(pair):
    one, other = pair("PCMU", "PCMU")
    one.line.rtp.bridge_to(other.line.rtp)
    one.line.rtp.finish(one.line.now)
    assert not other.line.rtp.is_bridged
    other.line.pass_time(100)


def test_a_call_joined_elsewhere_leaves_its_former_partner(pair):
    one, other, third = pair("PCMU", "PCMU", "PCMA")
    one.line.rtp.bridge_to(other.line.rtp)
    one.line.rtp.bridge_to(third.line.rtp)
    assert [c.line.rtp.is_bridged for c in (one, other, third)] == [True, False, True]


@pytest.mark.parametrize("names", [("PCMU", "G722"), ("G722", "PCMU")])
def test_a_reinvite_within_the_bridge_changes_the_codec(pair, names):
    one, other = pair("PCMU", names[0])
    one.line.rtp.bridge_to(other.line.rtp)
    talk(one, other, 200)
    media = FORMATS[names[1]]
    other.line.rtp.redirect(other.line.caller.getsockname(), may_send=True, media=media)
    other.codec, other.heard = media.codec, b""
    other._encoder, other._decoder = media.codec.encoder(), media.codec.decoder()
    talk(one, other, 600)
    assert best_correlation(tone(440, 300, media.codec.rate_hz), other.heard)[0] > 0.97
    assert best_correlation(tone(700, 300, 8000), one.heard)[0] > 0.97
    assert one.line.rtp.is_bridged


def test_a_short_reserve_is_gathered_before_speech_and_after_every_gap():
    queue = BridgeQueue(8000)
    frame = tone(440, 20, 8000)
    queue.push(frame, 8000)
    assert queue.pop() is None
    queue.push(frame, 8000)
    assert [queue.pop(), queue.pop(), queue.pop()] == [frame, frame, None]
    queue.push(frame, 8000)
    assert queue.pop() is None


# -- an announcement before the bridge ------------------------------------------------------------------------------


def announce(one: Caller, other: Caller, ms: int, hz: float = 520) -> None:
    """The agent of `one` speaks, and both callers do."""
    rate_hz = one.line.rate_hz
    words, size = tone(hz, ms, rate_hz), rate_hz // 25
    for number in range(ms // 20):
        one.line.say(words[number * size : (number + 1) * size], begins=number == 0)
        for caller, voice_hz in ((one, 440), (other, 700)):
            caller.say(tone(voice_hz, 20, caller.codec.rate_hz))
            caller.line.pass_time(20)
            caller.listen()


@pytest.mark.parametrize("names", [("PCMU", "PCMA"), ("PCMA", "G722"), ("G722", "PCMU"), ("G722", "G722")])
def test_the_target_hears_the_agent_and_the_caller_waits_whatever_they_speak(pair, names):
    one, other = pair(*names)
    one.line.rtp.announce_to(other.line.rtp)
    frames, theirs = len(one.line.frames), len(other.line.frames)
    announce(one, other, 1000)
    assert best_correlation(tone(520, 600, other.codec.rate_hz), other.heard)[0] > 0.95
    for hz in (520, 700):
        assert best_correlation(tone(hz, 600, one.codec.rate_hz), one.heard)[0] < 0.5
    assert best_correlation(waiting_tone(one.codec.rate_hz)[: len(one.heard) // 2], one.heard)[0] > 0.9
    assert len(one.line.frames) - frames == pytest.approx(50, abs=4)  # R2 goes on
    assert not any(any(frame.payload) for frame in one.line.frames[frames + 2 :])
    assert len(other.line.frames) - theirs <= 50  # of a target of the gateway's, there is no bus
    assert one.line.audio.playout.played >= 0.9 * one.line.rate_hz
    one.line.rtp.bridge_to(other.line.rtp)
    one.heard = other.heard = b""
    talk(one, other, 1000)
    assert best_correlation(tone(700, 600, one.codec.rate_hz), one.heard)[0] > 0.98
    assert best_correlation(tone(440, 600, other.codec.rate_hz), other.heard)[0] > 0.98


def test_a_target_that_changes_its_codec_meanwhile_still_hears_the_agent(pair):
    one, other = pair("PCMU", "PCMA")
    one.line.rtp.announce_to(other.line.rtp)
    other.line.rtp.redirect(other.line.caller.getsockname(), may_send=True, media=FORMATS["G722"])
    other.codec = G722
    other._encoder, other._decoder = G722.encoder(), G722.decoder()
    announce(one, other, 600)
    assert best_correlation(tone(520, 300, 16000), other.heard)[0] > 0.9
    assert not one.line.rtp.is_bridged


def test_an_announcement_that_ends_without_a_bridge_brings_caller_and_agent_back(pair):
    one, other = pair("PCMU", "PCMA")
    one.line.rtp.announce_to(other.line.rtp)
    announce(one, other, 200)
    other.line.rtp.finish(other.line.now)
    one.heard, frames = b"", len(one.line.frames)
    for number in range(30):
        one.line.say(tone(500, 20, 8000), begins=number == 0 and not one.line.audio.playout.is_talking)
        one.say(tone(400, 20, 8000))
        one.line.pass_time(20)
    one.listen()
    assert best_correlation(tone(500, 200, 8000), one.heard)[0] > 0.9
    heard = b"".join(frame.payload for frame in one.line.frames[frames:])
    assert best_correlation(tone(400, 200, 8000), heard)[0] > 0.9
