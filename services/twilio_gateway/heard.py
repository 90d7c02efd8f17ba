"""A playout queue whose `played` is what the caller has heard, not what was sent. A core without I/O.

Twilio keeps a buffer of its own: what was sent is heard `lag_frames` later (measured by marks, see
`downlink`). Until then it can be taken back with `clear`, and that is what a flush does: it cuts the frames in
flight, too, and they do not count as played (R6).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from libs.call_leg.playout import Pacing, Playout
from libs.contracts.frame import AudioFrame


class HeardPlayout(Playout):
    """`aged` is called once per 20 ms that Twilio plays; `on_cut` when what is in flight must be taken back."""

    def __init__(self, frame_bytes: int = 320) -> None:
        self._in_flight: deque[tuple[int, int]] = deque()  # when it was sent, in ticks; the position behind it
        self._ticks = 0
        self._sent = 0
        self._heard = 0
        self.lag_frames = 0
        self.on_cut: Callable[[], None] | None = None
        super().__init__(frame_bytes)

    @property
    def played(self) -> int:
        """Samples of this epoch that the caller has heard; trimmed ones count."""
        return self._heard

    @played.setter
    def played(self, value: int) -> None:
        self._sent = value  # the queue's own word: handed out, or trimmed

    def _reset_epoch(self) -> None:
        super()._reset_epoch()
        self._in_flight.clear()
        self._sent = self._heard = 0

    def begin_epoch(self, epoch: int, pacing: Pacing = "paced") -> int:
        """As the queue's; what the old owner has in flight is cut, so that nothing of a fenced epoch is heard."""
        in_flight = len(self._in_flight)
        self._take_back(in_flight, "discarded")
        self.counters["fenced"] += in_flight  # as for those that wait in the queue
        heard = super().begin_epoch(epoch, pacing)
        if in_flight and self.on_cut is not None:
            self.on_cut()
        return heard

    def push(self, frame: AudioFrame) -> bool:
        """As the queue's."""
        begins = super().push(frame)
        self._settle()
        return begins

    def pop(self) -> bytes | None:
        """As the queue's; the frame is in flight now."""
        payload = super().pop()
        if payload is not None:
            self._in_flight.append((self._ticks, self._sent))
        self._settle()
        return payload

    def aged(self) -> None:
        """Twilio has played 20 ms more."""
        self._ticks += 1
        self._settle()

    def _take_back(self, frames: int, end: str) -> None:
        """Frames that were handed out and not heard: the call's record says what was heard."""
        self.counters["cut"] += frames
        self.counters["played"] -= frames
        self.counters[end] += frames

    def _settle(self) -> None:
        in_flight, heard_until = self._in_flight, self._ticks - self.lag_frames
        while in_flight and in_flight[0][0] <= heard_until:
            self._heard = in_flight.popleft()[1]
        if not in_flight:
            self._heard = self._sent

    def _flush(self, seq: int) -> None:
        is_new = seq > self._flush_seq
        super()._flush(seq)
        if is_new:
            self._take_back(len(self._in_flight), "flushed")
            self._in_flight.clear()
            self._sent = self._heard
            if self.on_cut is not None:
                self.on_cut()
