"""The downlink queue of one call: what the agent says on its way to the caller's ear (R6). A core without I/O.

Theory of operation. Frames arrive with `seq` and `timestamp` that count within one epoch; `pop` is called
once per 20 ms by the call's tick and hands out one frame's worth, or None when there is nothing to say.

 - *Fence*: only frames of the present epoch enter; `begin_epoch` drops what an older one left.
 - *Played* is the timestamp behind the last sample handed out. Trimmed samples count as played out, flushed
   ones do not.
 - *Flush* drops every frame with a `seq` below the flush frame's own and raises `flushed`, which stays up
   until newer audio arrives: the worker repeats its flush until it has seen the flag. Where the line is ours
   sample by sample (`fades`), a voice that is cut within a word gets its next frame, falling to silence, instead
   of a click: that frame counts as played, and the flag goes up behind it.
 - *Underrun*: the queue ran dry where more was due. Of a paced worker that is known once the same response goes on
   after silence; a response that has nothing more to say may be slow to tell its end, and leaves no gap.
 - *Quiet* is a playout that has handed out all of the last response, and has seen its end mark or its flush.
 - *Depth*. A paced worker leads by up to 200 ms: that is no latency, it is ours to drop at barge-in, and
   the first frame is played at once. A continuous source (echo, take-over, a live model) cannot be asked to
   wait, so each queued frame is delay: it gets a pre-buffer of one frame, two after an underrun, and what
   exceeds it for half a second is trimmed, half of it each time. Latency never grows for good.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Literal, NamedTuple

from libs.audio.fade import fade_out
from libs.contracts.frame import AudioFrame, Flag

Pacing = Literal["paced", "continuous"]

FLUSH, END_OF_RESPONSE = Flag.FLUSH.value, Flag.END_OF_RESPONSE.value  # plain integers: enum arithmetic is slow
PACED_LEAD_FRAMES = 10
HARD_CAP_FRAMES = 25
TRIM_WINDOW = 25
CONTINUOUS_MAX_TARGET = 3
CALM_FRAMES = 500  # 10 s without an underrun let the pre-buffer shrink again


class _Queued(NamedTuple):
    seq: int
    timestamp: int
    payload: bytes


class Playout:
    """One per call; `frame_bytes` is 20 ms of 16-bit samples at the call's rate."""

    def __init__(self, frame_bytes: int = 320, *, fades: bool = False) -> None:
        self._fades = fades
        self._frame_bytes = frame_bytes
        self._queue: deque[_Queued] = deque()
        self._remainder = b""
        self._remainder_timestamp = 0
        self.counters: Counter[str] = Counter()
        self.epoch = 0
        self.played = 0
        self.flushed = False
        self._pacing: Pacing = "paced"
        self._reset_epoch()

    def _reset_epoch(self) -> None:
        self._queue.clear()
        self._remainder = b""
        self.played = 0
        self.flushed = False
        self._responses = 0
        self._ends: deque[int] = deque()  # positions of end marks that are not played yet
        self._is_open = False  # a response came without its end so far
        self._ran_dry = False  # in the middle of it, as it seems
        self._last_seq = -1
        self._flush_seq = -1
        self._fading: _Queued | None = None  # the last frame of a voice that was cut
        self._talking = False
        self._target = 1
        self._calm = 0
        self._least_depth = HARD_CAP_FRAMES
        self._window = 0

    def begin_epoch(self, epoch: int, pacing: Pacing = "paced") -> int:
        """Start with a new owner; returns how far the old one's audio was played."""
        played = self.played
        dropped = len(self._queue) + (self._fading is not None)
        self.counters["fenced"] += dropped
        self.counters["discarded"] += dropped  # those of them that had entered
        self.epoch = epoch
        self._pacing = pacing
        self._reset_epoch()
        return played

    def set_pacing(self, pacing: Pacing) -> None:
        """Learn from the acceptance how the worker sends."""
        self._pacing = pacing

    @property
    def depth(self) -> int:
        """Frames waiting."""
        return len(self._queue) + (self._fading is not None)

    @property
    def is_talking(self) -> bool:
        """Whether the last `pop` gave audio: within a talkspurt."""
        return self._talking

    @property
    def is_quiet(self) -> bool:
        """Whether nothing waits and no response goes on."""
        return not self._is_open and not self._queue and not self._remainder and self._fading is None

    @property
    def responses(self) -> int:
        """How many of this epoch were played to their end, or cut off."""
        while self._ends and self.played >= self._ends[0]:
            self._ends.popleft()
            self._responses += 1
        return self._responses

    def push(self, frame: AudioFrame) -> bool:
        """Take a frame. True when it begins a talkspurt that should go out at once, not at the next tick."""
        if frame.epoch != self.epoch:
            self.counters["fenced"] += 1
            return False
        if frame.flags & FLUSH:
            self.counters["received"] += 1
            self.counters["control"] += 1
            self._flush(frame.seq)
            return False
        if frame.seq <= self._last_seq or frame.seq < self._flush_seq:
            self.counters["stale"] += 1
            return False
        missing = frame.seq - self._last_seq - 1
        if missing > 0 and self._last_seq >= 0:  # the claim may have come before we knew of the acceptance
            self.counters["lost"] += missing - (self._last_seq < self._flush_seq < frame.seq)
        self._last_seq = frame.seq
        self.counters["received"] += 1
        if frame.flags & END_OF_RESPONSE:
            self._ends.append(frame.timestamp + len(frame.payload) // 2)
            self._is_open = False
        elif frame.payload:
            self._is_open = True
        if self._ran_dry:
            self.counters["underrun"] += bool(frame.payload)
            self._ran_dry = False
        if not frame.payload:
            self.counters["control"] += 1
            if self._remainder and frame.flags & END_OF_RESPONSE:  # a late end mark
                self._pad_remainder(frame.seq)
            return False
        self.flushed = False
        self._enqueue(frame)
        while len(self._queue) > HARD_CAP_FRAMES:  # a frame of 60 ms makes three
            self._trim()
        return not self._talking and self._may_start()

    def _enqueue(self, frame: AudioFrame) -> None:
        if len(frame.payload) == self._frame_bytes and not self._remainder:
            self._queue.append(_Queued(frame.seq, frame.timestamp, frame.payload))
            return
        # Another length than 20 ms: cut to ours, keeping positions. A gap ends the piece before it.
        if self._remainder and frame.timestamp != self._remainder_timestamp + len(self._remainder) // 2:
            self._pad_remainder(frame.seq)
        timestamp = self._remainder_timestamp if self._remainder else frame.timestamp
        data = self._remainder + frame.payload
        size = self._frame_bytes
        whole = len(data) - len(data) % size
        for start in range(0, whole, size):
            self._queue.append(_Queued(frame.seq, timestamp + start // 2, data[start : start + size]))
        self._remainder, self._remainder_timestamp = data[whole:], timestamp + whole // 2
        if self._remainder and frame.flags & END_OF_RESPONSE:
            self._pad_remainder(frame.seq)

    def _pad_remainder(self, seq: int) -> None:
        self._queue.append(_Queued(seq, self._remainder_timestamp, self._remainder))
        self._remainder = b""

    def _flush(self, seq: int) -> None:
        if seq > self._flush_seq:  # a repetition finds newer audio, and leaves it alone
            self._flush_seq = seq
            self._last_seq = max(self._last_seq, seq - 1)
            self._remainder = b""
            self._responses += len(self._ends) + self._is_open
            self._ends.clear()
            self._is_open = self._ran_dry = False
        if self._fades and self._talking and self._fading is None and self._queue and self._queue[0].seq < seq:
            last = self._queue.popleft()
            self._fading = last._replace(payload=fade_out(last.payload))
        while self._queue and self._queue[0].seq < seq:
            self._queue.popleft()
            self.counters["flushed"] += 1
        if not self._queue and self._fading is None:
            self.flushed = True

    def _may_start(self) -> bool:
        return len(self._queue) >= (1 if self._pacing == "paced" else self._target)

    def pop(self) -> bytes | None:
        """20 ms to play now (shorter only at the end of a response), or None for silence."""
        if self._fading is not None:
            return self._pop_faded(self._fading)
        if not self._talking and not self._may_start():
            return None
        if not self._queue and self._remainder:  # the source stopped within a frame: what it sent is played
            self._pad_remainder(self._last_seq)
        if not self._queue:
            self._underrun()
            return None
        self._watch_depth()
        queued = self._queue.popleft()
        self._talking = True
        return self._hand_out(queued)

    def _pop_faded(self, last: _Queued) -> bytes:
        self._fading = None
        self.flushed = not self._queue
        return self._hand_out(last)

    def _hand_out(self, queued: _Queued) -> bytes:
        self.played = queued.timestamp + len(queued.payload) // 2
        self.counters["played"] += 1
        return queued.payload

    def _underrun(self) -> None:
        self._talking = False
        if self._pacing == "continuous":
            self.counters["underrun"] += 1
            self._target = min(self._target + 1, CONTINUOUS_MAX_TARGET)
        else:
            self._ran_dry = self._is_open
        self._window, self._least_depth, self._calm = 0, HARD_CAP_FRAMES, 0

    def _watch_depth(self) -> None:
        self._least_depth = min(self._least_depth, len(self._queue))
        self._window += 1
        self._calm += 1
        if self._calm >= CALM_FRAMES and self._target > 1:
            self._target, self._calm = self._target - 1, 0
        if self._window < TRIM_WINDOW:
            return
        target = PACED_LEAD_FRAMES if self._pacing == "paced" else self._target
        excess = self._least_depth - target
        for _ in range((excess + 1) // 2):  # half of it: after a long stall one frame at a time would take many seconds
            self._trim()
        self._window, self._least_depth = 0, HARD_CAP_FRAMES

    def _trim(self) -> None:
        dropped = self._queue.popleft()
        self.played = dropped.timestamp + len(dropped.payload) // 2
        self.counters["trimmed"] += 1
