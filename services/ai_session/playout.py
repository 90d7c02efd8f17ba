"""The playout ledger of one epoch: which sample of which item has gone out, and which was heard.

Theory of operation. Reply audio arrives faster than real time and waits in a queue of chunks, each
belonging to one content part `(item, content_index)`. `next_frame` cuts 20 ms frames off the queue as
long as the worker leads the caller's ear by at most `LEAD_MS`; it is asked whenever an `up` frame or new
audio arrives, so that the ledger needs no clock. `timestamp` counts the samples sent in this epoch without
gaps (R6). Each frame leaves spans `(from_sample, to_sample, part)` behind; `up.played` consumes them, and
what it has consumed is what the caller heard. Silence that pads a response's last frame is part of
the timestamps but of no item.

A flush (barge-in) clears the queue and emits one flush frame, repeated on each `up` until one carries
FLUSHED; nothing else is sent meanwhile. The position in that frame, clamped to what was sent, fixes what
was heard. A second flush meanwhile drops what had come to wait behind the first and supersedes it; since
nothing was sent between the two, the acknowledgement of either one tells where playback stopped. Samples that
the flush threw away are never played, so from then on the lead is counted from the flush point, and a
later jump of `played` over them credits nothing.

Parking stops the voice without giving anything up: the gateway is flushed as above, but what it had not played
goes back to the head of the queue, sample by sample, and goes out again, from new timestamps, after `resume`. So
no sample is credited twice and none is lost. The first frame after a pause fades in.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from libs.audio.fade import fade_in

FRAME_MS = 20
LEAD_MS = 200
STUCK_FRAMES = 25
STUCK_FRAMES_AT_START = 150  # before anything was played: the line may still be about to be answered
Key = tuple[str, int]


class OutFrame(NamedTuple):
    """One downlink frame; `payload` is PCM16LE of 20 ms, or empty for a flush or a late end mark."""

    seq: int
    timestamp: int
    payload: bytes
    talkspurt: bool = False
    end_of_response: bool = False
    flush: bool = False


@dataclass(slots=True)
class Part:
    """The ledger of one content part, in samples of the call's rate."""

    key: Key
    response: str
    received: int = 0
    sent: int = 0
    heard: int = 0
    lost: int = 0  # written off: sent, and never played
    ended: bool = False  # all of its audio has been received
    from_sample: int = -1  # timestamp of its first sample; -1 while nothing was sent
    base: int = 0  # what the timestamp of its first sample would be, had it never been parked

    @property
    def complete(self) -> bool:
        """Nothing more of this part will be heard: all of it was received, and was heard or written off."""
        return self.ended and self.heard + self.lost >= self.received


@dataclass(frozen=True, slots=True)
class PartBegan:
    """The first sample of a part reached the caller."""

    part: Part


@dataclass(frozen=True, slots=True)
class PartDone:
    """A part was heard to its end, but for what was written off (`part.lost`)."""

    part: Part


@dataclass(frozen=True, slots=True)
class Drained:
    """Everything received was heard, and no response is under way that could add more."""


@dataclass(frozen=True, slots=True)
class Flushed:
    """A flush was acknowledged; `parts` are what it concerned, oldest first, as far as heard."""

    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Parked:
    """The voice has stopped and can go on; `unheard_ms` waits, and more may come if the response is `open`."""

    unheard_ms: int
    open: bool


PlayoutEvent = PartBegan | PartDone | Drained | Flushed | Parked


class Playout:
    """The ledger. `rate_hz` is the call's, `continuous` turns the lead limit off."""

    def __init__(self, rate_hz: int, *, continuous: bool = False) -> None:
        self.frame_samples = rate_hz * FRAME_MS // 1000
        self.rate_hz = rate_hz
        self._frame_bytes = 2 * self.frame_samples
        self._lead = (1 << 62) if continuous else rate_hz * LEAD_MS // 1000
        self._queue: deque[tuple[Part, memoryview]] = deque()
        self._queued_bytes = 0
        self._spans: deque[tuple[int, int, Part]] = deque()  # from, to (exclusive), whose
        self._parts: dict[Key, Part] = {}  # received and not yet heard to their end, oldest first
        self._dying: list[Part] = []  # the same, under a flush that is not acknowledged
        self._open_response = False  # more audio may come
        self._end_due = False  # the end mark of the last response has not gone out
        self._idle = True  # Drained was reported, nothing came since
        self._seq = 0
        self._played_floor = 0  # samples up to here are gone: heard, or thrown away by a flush
        self._flush_seq: int | None = None
        self._out: deque[tuple[int, bytes]] = deque()  # timestamp and samples of frames that are not played yet
        self._keeps = False  # the flush under way only parks
        self._parked_due = False  # `Parked` is to be told, as soon as no flush is under way
        self._fade_in = False
        self._stuck = 0
        self.parked = False  # nothing goes out until `resume`
        self.paused = False  # the caller is on hold: nothing goes out, and no progress is no loss
        self.written_off = 0
        self.sent = 0
        self.played = 0

    # -- audio in ------------------------------------------------------------------------------------

    def push(self, response: str, key: Key, pcm: bytes) -> None:
        """Take reply audio: whole samples, any length."""
        part = self._parts.get(key)
        if part is None:
            part = self._parts[key] = Part(key, response)
        part.received += len(pcm) // 2
        self._queue.append((part, memoryview(pcm)))
        self._queued_bytes += len(pcm)
        self._open_response, self._idle = True, False

    def end_part(self, key: Key) -> None:
        """No more audio comes for this part; one under a flush may have been heard completely, too."""
        if key in self._parts:
            self._parts[key].ended = True
            return
        for part in self._dying:
            if part.key == key:
                part.ended = True

    def part(self, key: Key) -> Part | None:
        """The ledger of a part that is not heard to its end and not under a flush."""
        return self._parts.get(key)

    def end_response(self) -> None:
        """The response is over: pad its last frame and mark it."""
        for part in self._parts.values():
            part.ended = True
        if self._open_response:
            self._open_response, self._end_due = False, True

    # -- frames out -----------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Audio waits or is on its way to the ear."""
        return not self._idle

    @property
    def flushing(self) -> bool:
        """A flush has not been acknowledged yet."""
        return self._flush_seq is not None

    @property
    def head(self) -> Part | None:
        """Whose audio the next frame begins with."""
        return self._queue[0][0] if self._queue else None

    def claim_frame(self) -> OutFrame:
        """The empty frame that proves the new epoch to the gateway."""
        return self._frame(b"")

    def passthrough(self, pcm: bytes) -> OutFrame:
        """A frame of continuous audio: it goes out as it came and belongs to no item."""
        frame = self._frame(pcm, talkspurt=self.sent == 0)
        self.sent += len(pcm) // 2
        return frame

    def next_frame(self) -> OutFrame | None:
        """The next frame that may go out now, or None."""
        if self._flush_seq is not None or self.paused or self.parked:
            return None
        if self._queued_bytes < self._frame_bytes:
            if not self._end_due:
                return None
            if not self._queued_bytes:
                self._end_due = False
                return self._frame(b"", end_of_response=True)
        floor = max(self.played, self._played_floor)
        if self.sent - floor + self.frame_samples > self._lead:
            return None
        payload = self._cut()
        if self._fade_in:
            payload, self._fade_in = fade_in(payload), False
        last = self._end_due and not self._queued_bytes
        if last:
            self._end_due = False
        frame = self._frame(payload, talkspurt=floor >= self.sent, end_of_response=last)
        self._out.append((self.sent, payload))
        self.sent += self.frame_samples
        return frame

    def _frame(
        self, payload: bytes, *, talkspurt: bool = False, end_of_response: bool = False, flush: bool = False
    ) -> OutFrame:
        frame = OutFrame(self._seq, self.sent, payload, talkspurt, end_of_response, flush)
        self._seq += 1
        return frame

    def _cut(self) -> bytes:
        """20 ms off the queue, padded when a response ends in it; books the spans."""
        wanted, at, pieces = self._frame_bytes, self.sent, []
        while wanted and self._queue:
            part, chunk = self._queue[0]
            piece = chunk[:wanted]
            samples = len(piece) // 2
            if len(piece) == len(chunk):
                self._queue.popleft()
            else:
                self._queue[0] = (part, chunk[wanted:])
            if part.from_sample < 0:
                part.from_sample = at
            part.base = at - part.sent
            part.sent += samples
            last = self._spans[-1] if self._spans else None
            if last is not None and last[2] is part and last[1] == at:
                self._spans[-1] = (last[0], at + samples, part)
            elif samples:
                self._spans.append((at, at + samples, part))
            at += samples
            wanted -= len(piece)
            self._queued_bytes -= len(piece)
            pieces.append(piece)
        if wanted:
            pieces.append(memoryview(bytes(wanted)))
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)

    # -- the ear ---------------------------------------------------------------------------------------

    def heard(self, played: int, *, flushed: bool = False) -> list[PlayoutEvent]:
        """Take the position of an `up` frame: samples of this epoch that RTP has sent."""
        played = min(played, self.sent)
        events: list[PlayoutEvent] = []
        if played > self.played:
            self.played, self._stuck = played, 0
            while self._out and self._out[0][0] + self.frame_samples <= played:
                self._out.popleft()
            if self._spans:
                self._credit(played, events)
        elif self.sent > max(played, self._played_floor) and self._flush_seq is None and not self.paused:
            self._stuck += 1
            if self._stuck >= (STUCK_FRAMES if self.played else STUCK_FRAMES_AT_START):
                self._write_off(events)
        if flushed and self._flush_seq is not None:
            self._acknowledged(events)
        if self._parked_due and self._flush_seq is None:
            self._parked_due = False
            per_ms = self.rate_hz // 1000
            events.append(Parked(self._queued_bytes // 2 // per_ms, self._open_response))
        if not self._idle and self._is_drained():
            self._idle = True
            self._retire(events)
            events.append(Drained())
        return events

    def _is_drained(self) -> bool:
        return not (
            self._open_response or self._end_due or self._queue or self._spans or self._flush_seq is not None
        ) and (max(self.played, self._played_floor) >= self.sent)

    def _credit(self, played: int, events: list[PlayoutEvent]) -> None:
        while self._spans and self._spans[0][0] < played:
            start, end, part = self._spans[0]
            upto = min(end, played)
            if not part.heard:
                events.append(PartBegan(part))
            part.heard += upto - start
            if upto < end:
                self._spans[0] = (upto, end, part)
                break
            self._spans.popleft()
        self._retire(events)

    def _write_off(self, events: list[PlayoutEvent]) -> None:
        self._stuck = 0
        self._out.clear()
        self.written_off += self.sent - max(self.played, self._played_floor)
        self._played_floor = self.sent
        while self._spans:
            start, end, part = self._spans.popleft()
            part.lost += end - start
        self._retire(events)

    def _retire(self, events: list[PlayoutEvent]) -> None:
        for key in [key for key, part in self._parts.items() if part.complete]:
            events.append(PartDone(self._parts.pop(key)))

    # -- barge-in --------------------------------------------------------------------------------------

    def flush(self) -> OutFrame:
        """Drop everything unplayed, here and at the gateway; the first flush frame. Supersedes an earlier flush."""
        self._queue.clear()
        self._queued_bytes = 0
        self._open_response = self._end_due = self._idle = False
        self.parked = self._keeps = self._parked_due = self._fade_in = False
        self._dying += self._parts.values()  # what arrives from here on belongs to another response
        self._parts.clear()
        frame = self._frame(b"", flush=True)
        self._flush_seq = frame.seq
        return frame

    def repeat_flush(self) -> OutFrame | None:
        """The flush frame again, while it is not acknowledged."""
        if self._flush_seq is None:
            return None
        return OutFrame(self._flush_seq, self.sent, b"", flush=True)

    def _acknowledged(self, events: list[PlayoutEvent]) -> None:
        self._flush_seq, self._stuck = None, 0
        if self._keeps:
            self._keeps = False
            self._take_back()
        else:
            parts, self._dying = tuple(self._dying), []
            events.append(Flushed(parts))
        self._played_floor = self.sent
        self._spans.clear()
        self._out.clear()

    # -- parking ---------------------------------------------------------------------------------------

    def park(self) -> OutFrame | None:
        """Stop the voice, and keep what is not heard yet; the flush frame to send, if anything is on its way."""
        self.parked = self._parked_due = True
        if self._flush_seq is not None or self.sent <= max(self.played, self._played_floor):
            return None
        self._keeps = True
        frame = self._frame(b"", flush=True)
        self._flush_seq = frame.seq
        return frame

    def resume(self) -> None:
        """Let the voice go on where it was stopped, or as soon as that is known."""
        self.parked, self._fade_in = False, self.parked

    def _take_back(self) -> None:
        """What went out and was not played waits again, first of all; padding is not kept."""
        if not self._spans:
            return
        origin, audio = self._out[0][0], memoryview(b"".join(payload for _, payload in self._out))
        for start, end, part in reversed(self._spans):
            part.sent -= end - start
            if not part.sent:
                part.from_sample = -1
            self._queue.appendleft((part, audio[2 * (start - origin) : 2 * (end - origin)]))
            self._queued_bytes += 2 * (end - start)
        if not self._open_response:
            self._end_due = True
