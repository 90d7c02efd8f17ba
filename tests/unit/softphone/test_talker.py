import asyncio

import pytest

from libs.audio.dtmf import DtmfReceiver
from libs.audio.g711 import Law
from libs.audio.rtp import RtpPacket
from libs.softphone.talker import RtpStart, Talker
from libs.softphone.ticker import TICK_S, Ticker


def talker() -> Talker:
    return Talker(Law.PCMU, 0, RtpStart(10, 1000, 5), 101)


def packets(speaker: Talker, ticks) -> list[RtpPacket | None]:
    sent = [speaker.packet(tick, tick * 0.02) for tick in ticks]
    return [data and RtpPacket.parse(data) for data in sent]


async def test_speech_is_cut_into_frames_and_joined_with_the_next_piece():
    speaker = talker()
    first = speaker.play(b"\x00\x10" * 240)
    second = speaker.play(b"\x00\x20" * 160)
    sent = packets(speaker, range(1, 5))
    assert [len(p.payload) for p in sent] == [160] * 4
    assert sent[1].payload[79] != sent[1].payload[80]
    assert sent[2].payload[80:] == Law.PCMU.silence * 80
    assert sent[3].payload == Law.PCMU.silence * 160
    assert (first.started_at, first.finished_at, second.started_at, second.finished_at) == (0.02, 0.04, 0.04, 0.06)
    assert (first.first_timestamp, second.first_timestamp) == (1000, 1160)
    assert second.finished.is_set()


async def test_skipped_ticks_show_in_the_timestamp_and_not_in_the_sequence():
    sent = packets(talker(), [7, 8, 20])
    assert [(p.sequence_number, p.timestamp) for p in sent] == [(10, 1000), (11, 1160), (12, 1000 + 13 * 160)]


async def test_without_silence_each_talkspurt_begins_with_a_marker():
    speaker = talker()
    speaker.sends_silence = False
    speaker.play(b"\x00\x10" * 320)
    early = packets(speaker, range(1, 5))
    speaker.play(b"\x00\x10" * 160)
    late = packets(speaker, range(5, 7))
    assert [p and p.marker for p in early] == [True, False, None, None]
    assert [p and p.marker for p in late] == [True, None]


async def test_digits_take_the_place_of_audio_and_share_the_sequence():
    speaker = talker()
    done = speaker.queue_digits("15", duration_ms=40, gap_ms=60)
    with pytest.raises(RuntimeError):
        speaker.queue_digits("1")
    sent = packets(speaker, range(1, 14))
    receiver = DtmfReceiver()
    digits = [receiver.push(p.payload, p.timestamp, p.marker) for p in sent if p.payload_type == 101]
    assert [d for d in digits if d] == ["1", "5"]
    assert [p.sequence_number for p in sent] == list(range(10, 23))
    assert done.is_set()
    assert sent[-1].payload_type == 0


async def test_closing_wakes_who_waits():
    speaker = talker()
    handle, digits = speaker.play(b"\0\0"), speaker.queue_digits("1")
    speaker.close()
    await asyncio.gather(handle.wait(), digits.wait())


async def test_muted_speech_runs_on_silently():
    speaker = talker()
    speaker.muted = True
    handle = speaker.play(b"\x00\x10" * 160)
    assert packets(speaker, [1])[0].payload == Law.PCMU.silence * 160
    assert handle.finished.is_set()


class FakeLoop:
    """Time by hand, for the schedule of the ticker."""

    def __init__(self) -> None:
        self.now = 50.0
        self.pending = None

    def time(self) -> float:
        return self.now

    def call_at(self, when, callback):
        self.pending = (when, callback)
        return self

    def cancel(self) -> None:
        self.pending = None

    def run(self, late_s: float = 0.0) -> None:
        when, callback = self.pending
        self.now = when + late_s
        callback()


def test_ticks_keep_an_absolute_schedule_catch_up_and_skip_a_stop():
    loop, ticks = FakeLoop(), []
    ticker = Ticker(loop)
    ticker.subscribe(ticks.append)
    loop.run()
    loop.run(late_s=0.005)
    loop.run(late_s=0.045)
    assert ticks == [1, 2, 3, 4, 5]
    assert loop.pending[0] == pytest.approx(50 + 6 * TICK_S)
    loop.run(late_s=1.005)
    assert ticks[5:] == [56]
    assert ticker.skipped == 50


def test_the_last_subscriber_stops_the_ticker_and_the_next_starts_it_again():
    loop, ticks = FakeLoop(), []
    ticker = Ticker(loop)

    def on_tick(number: int) -> None:
        ticks.append(number)

    ticker.subscribe(on_tick)
    loop.run()
    ticker.unsubscribe(on_tick)
    assert loop.pending is None
    loop.now += 10
    ticker.subscribe(on_tick)
    loop.run()
    assert ticks == [1, 2]
