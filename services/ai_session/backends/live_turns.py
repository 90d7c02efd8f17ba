"""Turns of a conversation that has no turn events. A core without I/O.

Theory of operation. Live is full duplex and tells nothing about turns: there is a stream of audio each way, and two
streams of words with their times. Here they become what the session knows from other backends.

 - *The agent*: each talkspurt (`continuous`) is a response with one item; its words belong to it. What was asked for
   (`ask`) begins a response at once, which the next talkspurt fills; one that stays silent for `SILENT_S` has failed.
   Requests wait for each other. If the caller was speaking when the voice fell silent, the model has yielded, and the
   response counts as cancelled.
 - *The caller*: a voice detection on what we send tells turns by sound; words that arrive are given to the turn in
   whose time they fall, and are its transcript when no more have come for `WORDS_S`. A turn without words for
   `NO_WORDS_S` was none. Words without a sound that was loud enough make a turn of their own.
 - A turn that the model does not answer for `UNANSWERED_S` gets an empty, cancelled response, so that nobody waits.

Nothing can be cancelled or truncated: a response that the session gives up is not passed on until the voice pauses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from libs.audio.vad import EnergyVad, GateTimes, VoiceDiscarded, VoiceStarted, VoiceStopped
from services.ai_session.backends.port import (
    AudioDelta,
    AudioEnded,
    BackendEvent,
    CallerTextDelta,
    CallerTranscript,
    ResponseEnded,
    ResponseStarted,
    SpeechDiscarded,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    TextEnded,
)
from services.ai_session.continuous import FRAME_MS, Talk, TalkBegan, TalkEnded, Talkspurts

SILENT_S = 8.0  # what was asked for must have begun
UNANSWERED_S = 8.0
WORDS_S = 0.7
NO_WORDS_S = 4.0
SWALLOWED_PAUSE_MS = 200  # ends what is not passed on
_EARLY_MS = 700  # words may begin so much before the sound that the voice detection noticed


@dataclass(frozen=True, slots=True)
class Comment:
    """Give the model something to say, in these pieces."""

    pieces: tuple[str, ...]


Out = BackendEvent | Comment


@dataclass(slots=True)
class _Response:
    name: str
    item: str
    asked: bool
    began_at: float
    spoke: bool = False
    overlapped: bool = False  # the caller spoke during the last sound


@dataclass(slots=True)
class _Turn:
    item: str
    begins_ms: float
    stopped_at: float | None = None
    words: str = ""
    words_at: float = 0.0
    by_words: bool = False


class LiveTurns:
    """One connection. `names` makes its ids unlike those of the connection before."""

    def __init__(self, rate_hz: int, silence_ms: int, names: str) -> None:
        self.talk = Talkspurts(rate_hz)
        self._ear = EnergyVad(rate_hz, times=GateTimes(prefix_padding_ms=0, silence_ms=silence_ms, min_speech_ms=60))
        self._ms_per_byte = 1000 / rate_hz / 2
        self._names, self._count = names, 0
        self._response: _Response | None = None
        self._requests: deque[tuple[str, ...]] = deque()
        self._early_words = ""  # came before the sound
        self._ended_ms = 0  # of the stream: where the last talkspurt ended
        self._swallowing = False
        self._turns: list[_Turn] = []
        self._fed_ms = 0.0
        self._unanswered_at: float | None = None

    @property
    def is_talking(self) -> bool:
        """The model's voice is heard at present."""
        return self.talk.is_talking and not self._swallowing

    # -- the caller --------------------------------------------------------------------------------------

    def caller(self, pcm: bytes, now: float) -> Sequence[Out]:
        """20 ms of the caller, as they are sent to the model."""
        self._fed_ms += len(pcm) * self._ms_per_byte
        change = self._ear.push(pcm)
        if change is None:
            return ()
        turn = next((turn for turn in self._turns if turn.stopped_at is None and not turn.by_words), None)
        match change:
            case VoiceStarted(preroll_ms):
                self._unanswered_at = None
                return [self._begin_turn(self._fed_ms - preroll_ms)]
            case VoiceStopped() if turn is not None:
                turn.stopped_at = now
                self._unanswered_at = None if self.talk.is_talking else now
                return [SpeechStopped(turn.item)]
            case VoiceDiscarded() if turn is not None:
                self._turns.remove(turn)
                return [SpeechDiscarded(turn.item)]
        return ()

    def heard(self, words: str, start_ms: int, now: float) -> Sequence[Out]:
        """Words of the caller, said `start_ms` into the session."""
        of_its_time = [turn for turn in self._turns if turn.begins_ms - _EARLY_MS <= start_ms]
        turn = of_its_time[-1] if of_its_time else next(iter(self._turns), None)
        out: list[Out] = []
        if turn is None:
            out.append(self._begin_turn(float(start_ms)))
            turn = self._turns[-1]
            turn.by_words = True
        turn.words += words
        turn.words_at = now
        out.append(CallerTextDelta(turn.item, words))
        return out

    def _begin_turn(self, begins_ms: float) -> SpeechStarted:
        turn = _Turn(self._name("caller"), begins_ms)
        self._turns.append(turn)
        return SpeechStarted(turn.item)

    def _end_turns(self, now: float) -> Iterable[Out]:
        for turn in list(self._turns):
            if turn.words and now - turn.words_at >= WORDS_S and (turn.by_words or turn.stopped_at is not None):
                self._turns.remove(turn)
                if turn.by_words:
                    yield SpeechStopped(turn.item)
                yield CallerTranscript(turn.item, turn.words.strip())
            elif not turn.words and turn.stopped_at is not None and now - turn.stopped_at >= NO_WORDS_S:
                self._turns.remove(turn)
                yield SpeechDiscarded(turn.item)

    # -- the agent ---------------------------------------------------------------------------------------

    def audio(self, pcm: bytes, now: float) -> list[Out]:
        """A piece of the model's stream."""
        out: list[Out] = []
        for event in self.talk.push(pcm, now):
            match event:
                case Talk():
                    self._voice(event, now, out)
                case TalkBegan():
                    self._unanswered_at = None
                    if not self._swallowing:
                        self._speak(now, out)
                case TalkEnded():
                    self._ended_ms = self.talk.received_ms
                    if self._swallowing:
                        self._swallowing = False
                    else:
                        self._finish(out, now)
        return out

    def _voice(self, talk: Talk, now: float, out: list[Out]) -> None:
        if self._swallowing:
            self._swallowing = talk.quiet_ms < SWALLOWED_PAUSE_MS  # what comes after a pause is something else
            return
        response = self._response
        if response is None or not response.spoke:
            response = self._speak(now, out)
        if not talk.quiet_ms:
            response.overlapped = self._ear.speaking
        out.append(AudioDelta(response.name, response.item, 0, talk.pcm))

    def _speak(self, now: float, out: list[Out]) -> _Response:
        response = self._response
        if response is None:
            response = self._begin(out, now, asked=False)
        response.spoke = True
        if self._early_words:
            out.append(TextDelta(response.name, response.item, 0, self._early_words))
            self._early_words = ""
        return response

    def said(self, words: str, end_ms: int) -> Sequence[Out]:
        """Words of the model, said until `end_ms` of the session."""
        response = self._response
        if self._swallowing:
            return ()
        if response is not None and response.spoke:
            return [TextDelta(response.name, response.item, 0, words)]
        if end_ms > self._ended_ms - FRAME_MS:  # the sound is about to come; else it is over, and told already
            self._early_words += words
        return ()

    def ask(self, pieces: Sequence[str], now: float) -> list[Out]:
        """Let the model say something, when it has said what it is saying."""
        self._requests.append(tuple(pieces))
        return self._next(now)

    def give_up(self, response: str, now: float) -> list[Out]:
        """The session wants no more of this response: the rest is not passed on."""
        if self._response is None or self._response.name != response:
            return []
        self._swallowing = self.talk.is_talking
        out: list[Out] = []
        self._finish(out, now, cancelled=True)
        return out

    def _next(self, now: float) -> list[Out]:
        out: list[Out] = []
        if self._requests and self._response is None:
            self._unanswered_at = None
            self._begin(out, now, asked=True)
            out.append(Comment(self._requests.popleft()))
        return out

    def _begin(self, out: list[Out], now: float, *, asked: bool) -> _Response:
        name = self._name("live")
        self._response = _Response(name, f"{name}-item", asked, now)
        out.append(ResponseStarted(name, asked))
        return self._response

    def _finish(self, out: list[Out], now: float, *, cancelled: bool = False) -> None:
        response, self._response = self._response, None
        if response is None:
            return
        self._early_words = ""
        cancelled = cancelled or response.overlapped
        if response.spoke:
            out.append(TextEnded(response.name, response.item, 0, ""))
            out.append(AudioEnded(response.name, response.item, 0))
        items = (response.item,) if response.spoke else ()
        out.append(ResponseEnded(response.name, "cancelled" if cancelled else "completed", "", items))
        out += self._next(now)

    # -- time --------------------------------------------------------------------------------------------

    def tick(self, now: float, *, busy: bool) -> list[Out]:
        """About ten times a second. `busy`: tools or the chat model are at work."""
        out: list[Out] = [*self._end_turns(now)]
        response = self._response
        if busy:
            if self._unanswered_at is not None:
                self._unanswered_at = now
            if response is not None and not response.spoke:
                response.began_at = now
        if response is not None and not response.spoke and now - response.began_at >= SILENT_S:
            self._response = None
            out.append(ResponseEnded(response.name, "failed", f"the model said nothing for {SILENT_S:g} s"))
            out += self._next(now)
        elif response is None and self._unanswered_at is not None and now - self._unanswered_at >= UNANSWERED_S:
            self._unanswered_at = None
            name = self._name("live")
            out += [ResponseStarted(name), ResponseEnded(name, "cancelled", "the model did not answer")]
        return out

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{self._names}-{self._count}"
