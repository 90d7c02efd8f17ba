"""The voice of a Live session: a stream at real-time pace that never stops, silence included. A core without I/O.

Utterances wait in a queue and are spoken one after the other. ``chunk`` gives what the next stretch of the stream
holds; a caller's words cut the utterance under way off after the time that a model takes to fall silent.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from services.rehearsal.conversation import Item
from services.rehearsal.live_audio import LiveAudio

YIELD_MS = 160  # from the caller's first sound to silence
_WORDS_PER_DELTA = 3


@dataclass(frozen=True, slots=True)
class Words:
    """A fragment of what is said, and where in the session it is said."""

    text: str
    start_ms: int
    end_ms: int


@dataclass(slots=True)
class _Utterance:
    item: Item
    audio: bytes
    not_before_ms: float
    begins_ms: float = -1.0
    at: int = 0  # bytes that went out
    words: deque[tuple[float, float, str]] = field(default_factory=deque)
    said: str = ""
    stops_at_ms: float | None = None


class Speaker:
    """Positions are milliseconds of the session's output, which is its time."""

    def __init__(self, audio: LiveAudio) -> None:
        self._audio = audio
        self._queue: deque[_Utterance] = deque()
        self.position_ms = 0

    @property
    def is_talking(self) -> bool:
        """An utterance is being spoken."""
        return bool(self._queue) and self._queue[0].begins_ms >= 0

    @property
    def has_words(self) -> bool:
        """Something is being said, or about to be."""
        return bool(self._queue)

    def say(self, item: Item, delay_ms: float) -> None:
        """Speak ``item.text`` after what is being said, not before ``delay_ms`` have passed."""
        audio = self._audio.spoken(item.audio)
        self._queue.append(_Utterance(item, audio, self.position_ms + delay_ms, words=_timed(item)))

    def interrupt(self) -> list[Item]:
        """The caller speaks: stop soon, and drop what waits. The items that will not be said at all."""
        waiting = [one for one in self._queue if one.begins_ms < 0]
        for one in waiting:
            self._queue.remove(one)
            _cut(one)
        if self._queue and self._queue[0].stops_at_ms is None:
            self._queue[0].stops_at_ms = self.position_ms + YIELD_MS
        return [one.item for one in waiting]

    def chunk(self, duration_ms: int) -> tuple[bytes, list[Words]]:
        """The next stretch of the stream, and the words that are said in it."""
        out, words = b"", list[Words]()
        size = duration_ms * self._audio.bytes_per_ms
        while len(out) < size:
            now_ms = self.position_ms + len(out) / self._audio.bytes_per_ms
            piece = self._speak(now_ms, size - len(out), words)
            if not piece:
                piece = self._audio.silence(1) * duration_ms
            out += piece[: size - len(out)]
        self.position_ms += duration_ms
        return out, words

    def _speak(self, now_ms: float, wanted: int, words: list[Words]) -> bytes:
        if not self._queue or now_ms < self._queue[0].not_before_ms:
            return b""
        one = self._queue[0]
        if one.begins_ms < 0:
            one.begins_ms = now_ms
        if one.stops_at_ms is not None and now_ms >= one.stops_at_ms:
            _cut(one)
            self._queue.popleft()
            return b""
        # 20 ms at a time, so that an interruption does not wait for the end of a chunk.
        piece = one.audio[one.at : one.at + min(wanted, 20 * self._audio.bytes_per_ms)]
        one.at += len(piece)
        one.item.sent_ms = one.at / self._audio.bytes_per_ms
        while one.words and one.words[0][0] <= one.item.sent_ms:
            start_ms, end_ms, text = one.words.popleft()
            one.said += text
            words.append(Words(text, int(one.begins_ms + start_ms), int(one.begins_ms + end_ms)))
        if one.at >= len(one.audio):
            self._queue.popleft()
            if self._queue:  # the model takes a breath between two utterances
                following = self._queue[0]
                following.not_before_ms = max(following.not_before_ms, now_ms + 250)
        return piece


def _cut(one: _Utterance) -> None:
    one.item.body["status"] = "incomplete"
    one.item.text = one.said.strip()


def _timed(item: Item) -> deque[tuple[float, float, str]]:
    """The text in fragments with their places in the audio, by proportion of the letters."""
    words = item.text.split(" ")
    found: deque[tuple[float, float, str]] = deque()
    at, whole = 0, max(1, len(item.text))
    for start in range(0, len(words), _WORDS_PER_DELTA):
        end = start + _WORDS_PER_DELTA
        text = " ".join(words[start:end]) + (" " if end < len(words) else "")
        found.append((item.audio_ms * at / whole, item.audio_ms * (at + len(text)) / whole, text))
        at += len(text)
    return found
