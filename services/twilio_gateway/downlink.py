"""What goes to Twilio on a media stream: audio in real time, marks that measure it, `clear`. A core without I/O.

Source: Twilio, "Media Streams - WebSocket Messages". Twilio plays what it gets one after the other and returns
a mark when the audio before it was played; `clear` empties its buffer and returns the marks in it at once.
Theory of operation.

 - *Pace*. One frame per 20 ms, as on RTP; nothing in silence, so that Twilio's buffer runs empty in each pause.
   Sending ahead would save nothing and would have to be taken back at each barge-in.
 - *Lag*. A mark sent into silence comes back after the round trip alone; one sent within speech takes the wait
   in Twilio's buffer, too. The least of the last few of each kind is free of jitter; the difference is the
   buffer, and `lag_frames` of it are in flight: sent, not heard.
 - *Bound*. When the oldest mark stays away longer than that and `MAX_BEHIND_S`, the connection stalls: no
   frame leaves until it is back. The agent's audio then waits in the playout queue, where the worker sees it
   and a flush reaches it, instead of in a TCP buffer that would come out late, all of it.
 - Marks that a `clear` brings back say nothing about playing, and are not counted as played.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections import Counter, deque

from libs.audio.g711 import Law

FRAME_S = 0.02
MARK_EVERY_FRAMES = 5
MAX_BEHIND_S = 0.4
MAX_LAG_FRAMES = 6  # of the ten that a worker leads by, so that it never waits for us
REMEMBERED = 8
MOST_CLEARED = 200  # names of marks that a `clear` takes back, until they come
UNANSWERED_S = 2.0  # with the caller's audio flowing meanwhile: this mark will not come back
QUIET_S = 0.5  # after that much silence Twilio's buffer is empty: the next mark measures the round trip

encode = Law.PCMU.encode


class Downlink:
    """One per stream. `frame` once per 20 ms while `may_send`; each returned text is a message to send, in order."""

    def __init__(self, stream_sid: str) -> None:
        self._sid = json.dumps(stream_sid)
        self._media = f'{{"event":"media","streamSid":{self._sid},"media":{{"payload":"'
        self._numbers = 0
        self._pending: deque[tuple[str, float, bool]] = deque()  # name, sent at, sent into silence
        self._cleared: dict[str, None] = {}  # in the order of sending
        self._round_trips: deque[float] = deque(maxlen=REMEMBERED)
        self._lags: deque[float] = deque(maxlen=REMEMBERED)
        self._unmarked = 0
        self._sent_at: float | None = None
        self.counters: Counter[str] = Counter()

    # -- what was measured -------------------------------------------------------------------------------------

    @property
    def round_trip_s(self) -> float | None:
        """To Twilio and back, or None before the first mark came back."""
        return min(self._round_trips, default=None)

    @property
    def buffered_s(self) -> float:
        """How long a frame waits at Twilio before it is heard; 0 while unknown."""
        round_trip_s = self.round_trip_s
        if round_trip_s is None or not self._lags:
            return 0.0
        return max(0.0, min(self._lags) - round_trip_s)

    @property
    def lag_frames(self) -> int:
        """Frames that are sent and not heard."""
        return min(MAX_LAG_FRAMES, round(self.buffered_s / FRAME_S))

    @property
    def is_drained(self) -> bool:
        """Whether all that was sent has been played, as far as marks tell."""
        return not self._pending and not self._unmarked

    def may_send(self, now: float, heard_at: float) -> bool:
        """Whether the connection keeps up. `heard_at` is when the caller's last message came."""
        if not self._pending:
            return True
        age_s, round_trip_s = now - self._pending[0][1], self.round_trip_s
        if round_trip_s is not None and age_s <= round_trip_s + self.buffered_s + MAX_BEHIND_S:
            return True
        if age_s > UNANSWERED_S and now - heard_at < MAX_BEHIND_S:
            self.counters["marks_lost"] += len(self._pending)
            self._pending.clear()
            return True
        if round_trip_s is None:
            return True
        self.counters["held_back"] += 1
        return False

    # -- messages ------------------------------------------------------------------------------------------------

    def begin(self, now: float) -> list[str]:
        """The stream has started: measure the round trip."""
        return [self._mark(now, into_silence=True)]

    def frame(self, pcm: bytes | None, now: float) -> list[str]:
        """20 ms of PCM for the caller, or None for silence."""
        if pcm is None:
            if not self._unmarked:
                return []
            self._unmarked = 0
            return [self._mark(now)]
        messages = []
        if self._sent_at is not None and now - self._sent_at > QUIET_S and not self._pending:
            messages.append(self._mark(now, into_silence=True))
        messages.append(f'{self._media}{b64encode(encode(pcm)).decode()}"}}}}')
        self._sent_at = now
        self._unmarked += 1
        self.counters["frames"] += 1
        if self._unmarked >= MARK_EVERY_FRAMES:
            self._unmarked = 0
            messages.append(self._mark(now))
        return messages

    def cut(self, now: float) -> list[str]:
        """Take back what is not heard yet."""
        self._cleared.update((name, None) for name, _, _ in self._pending)
        while len(self._cleared) > MOST_CLEARED:
            del self._cleared[next(iter(self._cleared))]
        self._pending.clear()
        self._unmarked = 0
        self._sent_at = now
        self.counters["clears"] += 1
        return [f'{{"event":"clear","streamSid":{self._sid}}}']

    def mark_returned(self, name: str, now: float) -> None:
        """Twilio played what was sent before this mark, unless a `clear` took it back."""
        if name in self._cleared:
            del self._cleared[name]
            self.counters["marks_cleared"] += 1
            return
        if not any(name == pending for pending, _, _ in self._pending):
            self.counters["marks_unknown"] += 1
            return
        while self._pending:
            pending, sent_at, into_silence = self._pending.popleft()
            if pending == name:
                (self._round_trips if into_silence else self._lags).append(now - sent_at)
                self.counters["marks"] += 1
                return
            self.counters["marks_skipped"] += 1

    def _mark(self, now: float, *, into_silence: bool = False) -> str:
        self._numbers += 1
        name = f"{'s' if into_silence else 'm'}{self._numbers}"
        self._pending.append((name, now, into_silence))
        return f'{{"event":"mark","streamSid":{self._sid},"mark":{{"name":"{name}"}}}}'
