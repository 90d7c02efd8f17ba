"""What the caller has heard, against a model of Twilio's player in virtual time."""

import base64
import json

import pytest

from libs.contracts.frame import AudioFrame, Codec, Flag
from services.twilio_gateway.downlink import MARK_EVERY_FRAMES, MAX_BEHIND_S, MAX_LAG_FRAMES, Downlink
from services.twilio_gateway.heard import HeardPlayout

STREAM = "MZ1"
MS = 0.001


class Player:
    """Twilio: plays what arrives after a pre-buffer; the way there and back takes `way_s` each."""

    def __init__(self, way_s: float, buffer_s: float) -> None:
        self.way_s, self.buffer_s = way_s, buffer_s
        self.arriving: list[tuple[float, dict]] = []
        self.returning: list[tuple[float, str]] = []
        self.buffer: list[tuple[str, object]] = []
        self.next_at: float | None = None
        self.played: list[float] = []  # when each frame had been played
        self.stalled_until = 0.0

    def send(self, messages, now: float) -> None:
        self.arriving += [(max(now, self.stalled_until) + self.way_s, json.loads(message)) for message in messages]

    def run(self, until: float) -> list[str]:
        """What has come back by then."""
        while self.arriving and self.arriving[0][0] <= until:
            at, message = self.arriving.pop(0)
            self._play(at)
            self._take(at, message)
        self._play(until)
        back = [name for at, name in self.returning if at <= until]
        self.returning = [(at, name) for at, name in self.returning if at > until]
        return back

    def _take(self, at: float, message: dict) -> None:
        if message["event"] == "media":
            assert len(base64.b64decode(message["media"]["payload"])) == 160
            if self.next_at is None:
                self.next_at = at + self.buffer_s
            self.buffer.append(("media", None))
        elif message["event"] == "mark":
            if self.buffer or self.next_at is not None:
                self.buffer.append(("mark", message["mark"]["name"]))
            else:
                self.returning.append((at + self.way_s, message["mark"]["name"]))
        else:
            self.returning += [(at + self.way_s, name) for kind, name in self.buffer if kind == "mark"]
            self.buffer.clear()
            self.next_at = None

    def _play(self, until: float) -> None:
        while self.next_at is not None:
            if self.buffer and self.buffer[0][0] == "mark":
                self.returning.append((self.next_at + self.way_s, self.buffer.pop(0)[1]))
                continue
            if not self.buffer:
                if self.next_at <= until:
                    self.next_at = None
                return
            if self.next_at + 20 * MS > until:
                return
            self.buffer.pop(0)
            self.next_at += 20 * MS
            self.played.append(self.next_at)


class Rig:
    """Playout, downlink and player, ticked every 20 ms; `receiving` tells whether the caller's audio comes."""

    def __init__(self, way_s: float = 0.05, buffer_s: float = 0.1) -> None:
        self.playout, self.downlink, self.player = HeardPlayout(), Downlink(STREAM), Player(way_s, buffer_s)
        self.playout.begin_epoch(1)
        self.playout.on_cut = lambda: self.player.send(self.downlink.cut(self.now), self.now)
        self.now, self.seq, self.receiving = 0.0, 0, True
        self.heard_at = 0.0
        self.player.send(self.downlink.begin(0.0), 0.0)

    def say(self, frames: int) -> None:
        for _ in range(frames):
            self.playout.push(AudioFrame(Codec.PCM16_8000, 0, 1, self.seq, self.seq * 160, bytes(320)))
            self.seq += 1

    def flush(self) -> None:
        self.playout.push(AudioFrame(Codec.PCM16_8000, Flag.FLUSH, 1, self.seq, self.seq * 160, b""))
        self.seq += 1

    def tick(self, ticks: int = 1, *, feed: bool = False) -> None:
        for _ in range(ticks):
            self.now += 20 * MS
            for name in self.player.run(self.now):
                self.downlink.mark_returned(name, self.now)
            if self.receiving:
                self.heard_at = self.now
            if feed:
                self.say(max(0, 5 - self.playout.depth))
            if self.downlink.may_send(self.now, self.heard_at):
                self.playout.lag_frames = self.downlink.lag_frames
                self.playout.aged()
                self.player.send(self.downlink.frame(self.playout.pop(), self.now), self.now)


def balance(rig) -> int:
    """Frames of the agent that no counter of the record accounts for."""
    counted = rig.playout.counters
    ends = sum(counted[name] for name in ("control", "played", "trimmed", "flushed", "discarded"))
    return counted["received"] - ends - rig.playout.depth


@pytest.mark.parametrize("way_s", [0.005, 0.05, 0.15])
@pytest.mark.parametrize("buffer_s", [0.0, 0.04, 0.1])
def test_at_a_barge_in_played_is_what_was_heard_to_within_40_ms(way_s, buffer_s):
    rig = Rig(way_s, buffer_s)
    rig.tick(20)
    rig.tick(100, feed=True)
    assert rig.downlink.round_trip_s == pytest.approx(2 * way_s, abs=0.021)
    assert rig.downlink.buffered_s == pytest.approx(buffer_s + 0.02, abs=0.041)
    rig.flush()
    cut_at = rig.now
    rig.tick(40)
    heard = sum(1 for at in rig.player.played if at <= cut_at + way_s + 20 * MS)
    assert len(rig.player.played) == heard  # nothing after the cut reached the ear
    assert abs(rig.playout.played / 160 - heard) <= 2
    assert abs(rig.playout.counters["played"] - heard) <= 2  # the call's record
    assert balance(rig) == 0


def test_marks_that_a_clear_brings_back_are_not_played_audio():
    rig = Rig()
    rig.tick(20)
    rig.tick(60, feed=True)
    lag = rig.downlink.buffered_s
    rig.flush()
    played = rig.playout.played
    rig.tick(40)
    assert rig.playout.played == played
    assert rig.downlink.counters["marks_cleared"] > 0
    assert rig.downlink.buffered_s == lag
    assert rig.downlink.is_drained


def test_after_a_barge_in_the_next_sentence_counts_from_where_it_begins():
    rig = Rig()
    rig.tick(20)
    rig.tick(60, feed=True)
    rig.flush()
    first = rig.seq
    rig.tick(20)
    rig.say(10)
    rig.tick(60)
    assert rig.playout.played == (first + 10) * 160


def test_everything_said_is_heard_in_the_end():
    rig = Rig()
    rig.tick(20)
    rig.say(10)
    rig.tick(40)
    rig.say(10)
    rig.tick(60)
    assert rig.playout.played == 20 * 160
    assert len(rig.player.played) == 20
    assert rig.downlink.is_drained


def test_a_stalled_connection_holds_audio_back_and_leaves_no_lasting_delay():
    rig = Rig()
    rig.tick(20)
    rig.tick(50, feed=True)
    before = len(rig.player.arriving) + len(rig.player.buffer)
    rig.player.stalled_until, rig.receiving = rig.now + 1.5, False
    rig.tick(75, feed=True)
    assert rig.downlink.counters["held_back"] > 30
    in_flight = [message for _, message in rig.player.arriving if message["event"] == "media"]
    assert len(in_flight) * 0.02 <= 0.1 + 0.12 + MAX_BEHIND_S + 0.1
    rig.receiving = True
    rig.tick(200, feed=True)
    rig.tick(60)  # a pause: Twilio's buffer runs empty
    rig.tick(50, feed=True)
    after = len(rig.player.arriving) + len(rig.player.buffer)
    assert after <= before + 2


def test_marks_that_never_come_back_do_not_silence_the_agent():
    rig = Rig()
    rig.tick(20)
    rig.tick(30, feed=True)
    rig.player.run = lambda until: []
    rig.tick(300, feed=True)
    assert rig.downlink.counters["marks_lost"] > 0
    sent = rig.downlink.counters["frames"]
    rig.tick(300, feed=True)
    assert rig.downlink.counters["frames"] > sent


def test_a_mark_goes_with_every_fifth_frame_and_with_the_last():
    downlink = Downlink(STREAM)
    events = []
    for number in range(13):
        pcm = bytes(320) if number < 12 else None
        events += [json.loads(text)["event"] for text in downlink.frame(pcm, number * 0.02)]
    assert events == (["media"] * MARK_EVERY_FRAMES + ["mark"]) * 2 + ["media"] * 2 + ["mark"]


def test_a_large_buffer_at_twilio_leaves_the_worker_a_lead():
    rig = Rig(buffer_s=0.4)
    rig.tick(20)
    rig.tick(100, feed=True)
    assert rig.downlink.lag_frames == MAX_LAG_FRAMES


def test_the_end_of_an_epoch_cuts_what_its_owner_has_in_flight():
    rig = Rig()
    rig.tick(20)
    rig.tick(60, feed=True)
    heard = rig.playout.played
    assert rig.playout.begin_epoch(2) == heard
    assert (rig.playout.counters["played"], balance(rig)) == (heard // 160, 0)
    assert rig.downlink.counters["clears"] == 1
    assert rig.playout.played == 0
    rig.tick(20)
    assert not rig.player.buffer
    assert rig.player.next_at is None


def test_marks_of_nobody_are_counted():
    downlink = Downlink(STREAM)
    downlink.mark_returned("m7", 1.0)
    assert downlink.counters["marks_unknown"] == 1


def test_a_stream_id_that_needs_escaping_is_escaped():
    for text in [*Downlink('a"b').begin(0.0), *Downlink('a"b').frame(bytes(320), 0.0), *Downlink('a"b').cut(0.0)]:
        assert json.loads(text)["streamSid"] == 'a"b'
