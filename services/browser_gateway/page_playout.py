"""The downlink queue of a call whose last buffer is in the browser: what counts as played is what the page played.

Theory of operation. A SIP gateway knows what RTP carried; here 20 ms handed to the WebSocket may wait in the page
for tens of milliseconds, and a flush must reach them there. So each frame that goes to the page bears a *position*,
the number of samples sent to this page before it, and each frame that comes from the page bears the position up to
which its audio worklet has handed samples to the sound device. `played` follows the page's word, not ours.

A flush (barge-in, or an owner that was fenced) goes on to the page with a new *generation*. The page drops what it
holds and answers at once where it stopped; audio sent behind the flush is untouched. Only with that answer is
`flushed` raised towards the worker (R6). A page that does not answer within `FLUSH_PATIENCE_S` is taken at its last
word.

What the page may hold is bounded by `WINDOW_SAMPLES`: beyond it frames wait in the queue, whose own rules drop the
oldest, however much the network between would swallow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from libs.call_leg.playout import FLUSH, Playout
from libs.contracts.frame import AudioFrame

FLUSH_PATIENCE_S = 0.5
WINDOW_SAMPLES = 8000  # half a second at 16 kHz


class _InPage(NamedTuple):
    position: int  # samples sent to the page before this frame
    samples: int
    span: tuple[int, int] | None  # from and to in the worker's count; None: no worker sent it (filler)
    generation: int


class PagePlayout(Playout):
    """`on_flush(generation)` is called when the page must drop what it holds."""

    def __init__(self, frame_bytes: int, on_flush: Callable[[int], None]) -> None:
        self._in_page: deque[_InPage] = deque()
        self._handed_out = 0  # what the queue itself counts as played
        self._heard = 0  # what the page has confirmed, in samples of the epoch
        self._span: tuple[int, int] | None = None
        self._queue_flushed = False
        self._awaits_answer = False
        self._answer_due_at: float | None = None
        self._on_flush = on_flush
        self.sent = 0
        self.generation = 0
        super().__init__(frame_bytes)

    def _reset_epoch(self) -> None:
        super()._reset_epoch()
        self._heard = 0
        self._stop_waiting()
        if any(frame.span for frame in self._in_page):  # what a fenced owner said is not played any more
            self._flush_page()
        self._in_page.clear()

    # -- what the worker is told ---------------------------------------------------------------------------

    @property
    def played(self) -> int:
        """Samples of this epoch that the page has played, or that were trimmed."""
        return self._heard if self._in_page or self._awaits_answer else max(self._heard, self._handed_out)

    @played.setter
    def played(self, handed_out: int) -> None:
        self._handed_out = handed_out

    @property
    def flushed(self) -> bool:
        """The flush has taken effect, in the page as well."""
        return self._queue_flushed and not self._awaits_answer

    @flushed.setter
    def flushed(self, flushed: bool) -> None:
        self._queue_flushed = flushed

    # -- from the worker -----------------------------------------------------------------------------------

    def push(self, frame: AudioFrame) -> bool:
        """As the queue's own; a flush goes on to the page."""
        is_new_flush = frame.epoch == self.epoch and frame.flags & FLUSH and frame.seq > self._flush_seq
        starts = super().push(frame)
        if is_new_flush and self._in_page:
            self._flush_page()
            self._awaits_answer, self._answer_due_at = True, None
        return starts

    def pop(self) -> bytes | None:
        """As the queue's own."""
        if not self._in_page and not self._awaits_answer:
            self._heard = max(self._heard, self._handed_out)  # muted and trimmed frames never reach the page
        payload = super().pop()
        self._span = None if payload is None else (self._handed_out - len(payload) // 2, self._handed_out)
        return payload

    # -- to and from the page ------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether the page may be sent more."""
        return not self._in_page or self.sent - self._in_page[0].position < WINDOW_SAMPLES

    def hand_over(self, samples: int) -> int:
        """The frame popped last (or a filler) goes to the page, in this length; the position to send with it."""
        position = self.sent
        self.sent += samples
        self._in_page.append(_InPage(position, samples, self._span, self.generation))
        self._span = None
        return position

    def page_played(self, position: int) -> None:
        """The page's word: it has played all samples before `position`, or thrown them away.

        Its word is taken for what it was sent; whoever claims to have heard more has said nothing.
        """
        if position > self.sent:
            self.counters["position_ahead"] += 1
            return
        while self._in_page:
            frame = self._in_page[0]
            got = min(frame.samples, position - frame.position)
            if got <= 0:
                return
            if frame.span is not None:
                start, end = frame.span
                self._heard = max(self._heard, min(end, start + got))
            if got < frame.samples:
                return
            self._in_page.popleft()

    def page_flushed(self, generation: int, position: int) -> None:
        """The page's answer to a flush: where it stopped."""
        if generation > self.generation:
            self.counters["flush_answer_unasked"] += 1
            return
        older = deque(frame for frame in self._in_page if frame.generation < generation)
        newer = deque(frame for frame in self._in_page if frame.generation >= generation)
        self._in_page = older
        self.page_played(position)
        self._in_page = newer
        if generation == self.generation:
            self._flush_took_effect()

    def expire(self, now: float) -> None:
        """At each tick: a page that does not answer a flush is taken at its last word."""
        if not self._awaits_answer:
            return
        if self._answer_due_at is None:
            self._answer_due_at = now + FLUSH_PATIENCE_S
        elif now >= self._answer_due_at:
            self.counters["flush_unanswered"] += 1
            self._in_page = deque(frame for frame in self._in_page if frame.generation >= self.generation)
            self._flush_took_effect()

    def _flush_page(self) -> None:
        self.generation += 1
        self._on_flush(self.generation)

    def _flush_took_effect(self) -> None:
        if self._awaits_answer and not self._in_page:
            self._handed_out = self._heard  # the rest of what was handed out was thrown away
        self._stop_waiting()

    def _stop_waiting(self) -> None:
        self._awaits_answer, self._answer_due_at = False, None
