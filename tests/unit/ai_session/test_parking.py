"""Parking: the ledger joined with the gateway's queue, as the two run in a call."""

from __future__ import annotations

import array
from itertools import pairwise

from hypothesis import given, settings, strategies as st

from libs.audio.fade import fade_in, fade_out
from libs.call_leg import playout as gateway
from libs.contracts.frame import AudioFrame, Codec, Flag
from services.ai_session.playout import STUCK_FRAMES, Drained, Flushed, Parked, PartBegan, PartDone, Playout

FRAME = 160


def numbered(first, count):
    return array.array("h", range(first, first + count)).tobytes()


class Joined:
    """The ledger, the gateway's queue, and an ear. Every sample of the agent has a number of its own, from 1 on."""

    def __init__(self):
        self.ledger = Playout(8000)
        self.line = gateway.Playout(fades=True)
        self.line.begin_epoch(1)
        self.sent = {}  # timestamp -> samples
        self.ear = []
        self.events = []
        self.next_number = 1
        self.waiting = []  # `dn` frames on the bus
        self.undelivered = 0  # how long they have waited

    def push(self, count, item="a"):
        self.ledger.push("r", (item, 0), numbered(self.next_number, count))
        self.next_number += count
        self.pump()

    def pump(self):
        while (frame := self.ledger.next_frame()) is not None:
            if frame.payload:
                self.sent[frame.timestamp] = array.array("h", frame.payload).tolist()
            self.waiting.append(frame)

    def park(self):
        if (frame := self.ledger.park()) is not None:
            self.waiting.append(frame)

    def resume(self):
        self.ledger.resume()
        self.ledger._fade_in = False  # the numbers would change
        self.pump()

    def flush(self):
        self.waiting.append(self.ledger.flush())

    def deliver(self):
        """What is on the bus arrives at the gateway."""
        for frame in self.waiting:
            flags = (Flag.FLUSH if frame.flush else 0) | (Flag.END_OF_RESPONSE if frame.end_of_response else 0)
            self.line.push(AudioFrame(Codec.PCM16_8000, flags, 1, frame.seq, frame.timestamp, frame.payload))
        self.waiting.clear()

    def play(self, frames=1):
        """20 ms each: one frame for the ear, and the position for the ledger.

        No frame is on its way for so long that it is written off, and heard after all.
        """
        for _ in range(frames):
            self.undelivered = self.undelivered + 1 if self.waiting else 0
            if self.undelivered == STUCK_FRAMES:
                self.deliver()
            if self.line.pop() is not None:
                self.ear += [number for number in self.sent[self.line.played - FRAME] if number]
            self.events += self.ledger.heard(self.line.played, flushed=self.line.flushed)
            again = self.ledger.repeat_flush()
            if again is not None:
                self.waiting.append(again)
            self.pump()

    def run(self, frames=1):
        for _ in range(frames):
            self.deliver()
            self.play()

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


def test_a_parked_voice_is_silent_at_once_and_goes_on_with_the_very_next_sample():
    call = Joined()
    call.push(8000)
    call.run(5)
    call.park()
    call.run(10)
    heard = len(call.ear)
    assert heard <= 6 * FRAME  # the gateway fades out what it is about to send
    assert call.of(Parked) == [Parked((8000 - heard) // 8, open=True)]
    call.resume()
    call.ledger.end_response()
    call.run(80)
    assert call.ear == list(range(1, 8001))
    (done,) = call.of(PartDone)
    assert (done.part.heard, done.part.lost, done.part.received) == (8000, 0, 8000)
    assert isinstance(call.events[-1], Drained)


def test_what_is_parked_can_be_given_up_and_counts_as_far_as_it_was_heard():
    call = Joined()
    call.push(8000)
    call.run(5)
    call.park()
    call.run(3)
    call.flush()
    call.run(3)
    (flushed,) = call.of(Flushed)
    assert flushed.parts[0].heard == len(call.ear)
    call.push(1600, "b")
    call.ledger.end_response()
    call.run(20)
    assert call.ear[-1600:] == list(range(8001, 9601))


def test_a_voice_that_is_let_go_before_the_gateway_answered_loses_nothing():
    call = Joined()
    call.push(4000)
    call.run(4)
    call.park()
    call.resume()
    call.ledger.end_response()
    call.run(60)
    assert call.ear == list(range(1, 4001))


def test_parking_with_nothing_on_its_way_needs_no_flush():
    call = Joined()
    assert call.ledger.park() is None
    call.push(1600)
    call.run(3)
    assert call.ear == []
    assert call.of(Parked) == [Parked(200, open=True)]
    call.resume()
    call.ledger.end_response()
    call.run(20)
    assert call.ear == list(range(1, 1601))


def test_the_end_mark_of_a_response_goes_out_again_and_the_padding_does_not():
    call = Joined()
    call.push(1000)
    call.ledger.end_response()
    call.pump()
    call.run(2)
    call.park()
    call.run(3)
    call.resume()
    call.run(10)
    assert call.ear == list(range(1, 1001))
    assert call.line.is_quiet
    assert isinstance(call.events[-1], Drained)


def test_a_sentence_is_announced_where_it_will_be_heard_after_a_pause():
    call = Joined()
    call.push(8000)
    call.run(5)
    part = call.ledger.part(("a", 0))
    assert part.base == 0
    call.park()
    call.run(3)
    heard = part.heard
    at = call.ledger.sent
    call.resume()
    assert part.base == at - heard
    assert part.from_sample == 0


def test_a_voice_fades_in_and_out_without_a_step():
    loud = array.array("h", [20000] * FRAME).tobytes()
    rising, falling = array.array("h", fade_in(loud)).tolist(), array.array("h", fade_out(loud)).tolist()
    assert rising == falling[::-1]
    assert rising[0] == 0
    assert max(abs(a - b) for a, b in pairwise(rising)) < 250


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(1, 2000)),
        st.tuples(st.just("item"), st.integers(1, 800)),
        st.tuples(st.sampled_from(["park", "resume", "flush", "deliver", "end"]), st.just(0)),
        st.tuples(st.sampled_from(["play", "run"]), st.integers(1, 12)),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_no_sample_is_credited_twice_and_none_is_lost_between_park_and_resume(steps):
    call, given_up, items = Joined(), False, 0
    for step, count in steps:
        match step:
            case "push":
                call.push(count, f"i{items}")
            case "item":
                items += 1
                call.push(count, f"i{items}")
            case "park":
                call.park()
            case "resume":
                call.resume()
            case "flush":
                call.flush()
                given_up = True
                items += 1
            case "end":
                call.ledger.end_response()
                call.pump()
                items += 1
            case "deliver":
                call.deliver()
            case "play":
                call.play(count)
            case "run":
                call.run(count)
    call.resume()
    call.ledger.end_response()
    call.run(2 * len(call.sent) + call.next_number // FRAME + 60)
    assert call.ear == sorted(set(call.ear))  # in order, each once
    parts = [event.part for event in call.of(PartDone)] + [p for e in call.of(Flushed) for p in e.parts]
    assert sum(part.heard for part in parts) == len(call.ear)  # what is told is what was heard
    assert all(part.heard <= part.received for part in parts)
    assert len({id(event.part) for event in call.of(PartBegan)}) == len(call.of(PartBegan))
    if not given_up:
        assert call.ear == list(range(1, call.next_number))
