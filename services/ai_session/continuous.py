"""Talkspurts of a voice that comes as a stream without end, silence included. A core without I/O.

Theory of operation. A full-duplex model sends as much audio as time passes, and whatever is kept waiting on the way to
the ear waits for good: the stream never pauses to let the queue drain. So only speech goes on. The silence between two
talkspurts is not forwarded at all, and a long pause within one only at its beginning: the time of arrival alone makes
the pause. Each talkspurt therefore starts afresh, behind the stream by its longest piece and `MARGIN_MS`, which evens
out the jitter of the pieces; what came just before its first sound (soft consonants, mostly) fills that time. When
the stream stalled and then came in a burst, speech is late by the stall; pauses are shortened to `BREATH_MS` until
that is made up. Speech itself is never dropped.

How far the ear is behind is reckoned from the clock, since everything forwarded is played at once and without gaps.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from libs.audio.level import dbfs

FRAME_MS = 20
SPEECH_DBFS = -50.0  # a model's silence is digital, or nearly so
MARGIN_MS = 40
LONGEST_PIECE_MS = 100  # what is longer makes the voice falter rather than lag
SLACK_MS = 40  # what the ear may be behind beyond that before pauses are shortened
RECENT_PIECES = 50
BREATH_MS = 60  # of a pause that stay, whatever the lead
PAUSE_MS = 300  # of a pause that are forwarded while there is no hurry
END_MS = 600  # of silence end a talkspurt


@dataclass(frozen=True, slots=True)
class TalkBegan:
    """The voice begins to speak."""


@dataclass(frozen=True, slots=True)
class Talk:
    """20 ms that go on to the ear; `quiet_ms` of silence end with them."""

    pcm: bytes
    quiet_ms: int = 0


@dataclass(frozen=True, slots=True)
class TalkEnded:
    """The voice has been silent for `END_MS`."""


TalkEvent = TalkBegan | Talk | TalkEnded


class Talkspurts:
    """One connection's stream, PCM16LE at `rate_hz` in pieces of any length."""

    def __init__(self, rate_hz: int) -> None:
        self._frame_bytes = 2 * rate_hz * FRAME_MS // 1000
        self._rest = b""
        most_held = (LONGEST_PIECE_MS + MARGIN_MS) // FRAME_MS
        self._held: deque[bytes] = deque(maxlen=most_held)  # the newest silence, not forwarded
        longest = LONGEST_PIECE_MS // FRAME_MS * self._frame_bytes  # until it is known better
        self._pieces: deque[int] = deque([longest], maxlen=RECENT_PIECES)  # their lengths in bytes
        self._plays_until = 0.0
        self.is_talking = False
        self.quiet_ms = 0
        self.received_ms = 0
        self.skipped_ms = 0  # silence that was left out within talkspurts
        self.inserted_ms = 0  # cushions after the stream was late

    @property
    def lag_ms(self) -> int:
        """How far behind the stream, counted from the end of each piece, a voice is played that is not late."""
        longest_ms = FRAME_MS * -(-max(self._pieces) // self._frame_bytes)
        return min(LONGEST_PIECE_MS, longest_ms) + MARGIN_MS

    def lead_ms(self, now: float) -> float:
        """How much of what was forwarded is still to be played."""
        return max(0.0, (self._plays_until - now) * 1000)

    def push(self, pcm: bytes, now: float) -> list[TalkEvent]:
        """Take what arrived, and say what goes on."""
        data = self._rest + pcm if self._rest else pcm
        whole = len(data) - len(data) % self._frame_bytes
        self._rest = data[whole:]
        events: list[TalkEvent] = []
        self._pieces.append(len(pcm))
        frames = whole // self._frame_bytes
        excess_ms = self.lead_ms(now) + frames * FRAME_MS - self.lag_ms - SLACK_MS
        for number in range(frames):
            frame = data[number * self._frame_bytes : (number + 1) * self._frame_bytes]
            excess_ms -= self._frame(frame, (frames - number) * FRAME_MS, excess_ms > 0, now, events)
        return events

    def _frame(self, frame: bytes, rest_ms: int, hurry: bool, now: float, events: list[TalkEvent]) -> int:
        """Judge one frame, with which `rest_ms` of its piece begin; the ms of silence that were left out."""
        self.received_ms += FRAME_MS
        if dbfs(frame) >= SPEECH_DBFS:
            self._speech(frame, rest_ms, now, events)
            return 0
        if not self.is_talking:
            self._held.append(frame)
            return 0
        self.quiet_ms += FRAME_MS
        if self.quiet_ms <= (BREATH_MS if hurry else PAUSE_MS):
            self._forward(frame, now, events)
            return 0
        self._held.append(frame)
        self.skipped_ms += FRAME_MS
        if self.quiet_ms >= END_MS:
            self.is_talking = False
            events.append(TalkEnded())
        return FRAME_MS

    def _speech(self, frame: bytes, rest_ms: int, now: float, events: list[TalkEvent]) -> None:
        if not self.is_talking:
            self.is_talking = True
            events.append(TalkBegan())
        self.quiet_ms = 0
        if self._plays_until <= now:  # the ear waits: begin, or go on, a little behind the stream
            frames = max(1, (self.lag_ms - rest_ms) // FRAME_MS)
            held = list(self._held)[-frames:]
            self.inserted_ms += FRAME_MS * (frames - len(held))
            for quiet in (*[bytes(self._frame_bytes)] * (frames - len(held)), *held):
                self._forward(quiet, now, events)
        self._held.clear()
        self._forward(frame, now, events)

    def _forward(self, frame: bytes, now: float, events: list[TalkEvent]) -> None:
        self._plays_until = max(self._plays_until, now) + FRAME_MS / 1000
        events.append(Talk(frame, self.quiet_ms))
