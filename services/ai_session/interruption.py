"""Whether a sound of the caller interrupts the agent, where the worker decides (`barge_in: local`). A core without I/O.

Theory of operation. When the caller starts to speak while the agent speaks, or is about to, the agent's voice is
*parked* at once: nothing is heard of it, and nothing of it is lost. Then each turn of the caller is judged:

 - longer than `LONG_MS`, or with words that are no back-channel ("mhm", "ja, genau"): an interruption. What was not
   heard is given up and the caller is answered;
 - no speech after all, or nothing but back-channels: none. The agent goes on where it stopped, and the turn gets no
   answer.

Words come some time after a turn's end; they are waited for until `VERDICT_S` after it, and then its length decides:
`min_ms` or longer is an interruption. Words that come later still count. A voice detection tells the end of a turn
only after `silence_ms` without speech, which are no part of it. Where no back-channels are tolerated, `min_ms` are
enough, whatever the words.

A caller who answers into the agent's last syllables means it: with less than `LAST_SYLLABLES_MS` unheard and nothing
more to come, a back-channel is an answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

LONG_MS = 1500  # nobody says "mhm" for so long
VERDICT_S = 1.0
LAST_SYLLABLES_MS = 400
_WORDS = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+")


class Verdict(Enum):
    """What is to be done."""

    NOTHING = auto()
    PARK = auto()  # stop the voice, and keep what is not heard
    RESUME = auto()  # it was no interruption: go on
    INTERRUPTED = auto()  # give up what was not heard


class BackChannels:
    """Sounds of a listener that want no answer, one or several in a row."""

    def __init__(self, phrases: Iterable[str]) -> None:
        known = {tuple(_WORDS.findall(phrase.casefold())) for phrase in phrases}
        self._phrases = frozenset(known - {()})
        self._longest = max(map(len, self._phrases), default=0)

    def __bool__(self) -> bool:
        return bool(self._phrases)

    def are_all_of(self, text: str) -> bool:
        """Whether the text consists of nothing else; so does a text without words."""
        words = tuple(_WORDS.findall(text.casefold()))
        at = 0
        while at < len(words):
            for length in range(min(self._longest, len(words) - at), 0, -1):
                if words[at : at + length] in self._phrases:
                    at += length
                    break
            else:
                return False
        return True


@dataclass(slots=True)
class _Turn:
    started_at: float
    spoken_ms: float = -1.0  # -1 while it goes on
    judge_at: float = float("inf")  # without having heard its words


class Interruption:
    """The turns of one call that may be interruptions. `held` and `late` ones are answered only when they are."""

    def __init__(self, *, min_ms: float, silence_ms: float, back_channels: BackChannels) -> None:
        self._min_ms = min_ms
        self._silence_ms = silence_ms
        self._back_channels = back_channels
        self._sure_ms = max(min_ms, LONG_MS) if back_channels else min_ms
        self._held: dict[str, _Turn] = {}  # that the voice is parked for
        self._late: set[str] = set()  # taken for no interruption, their words still to come
        self._at_the_end = False  # nothing of weight is left of what the agent has to say
        self.parked = False

    def holds(self, turn: str) -> bool:
        """The turn's verdict is open."""
        return turn in self._held

    def is_late(self, turn: str) -> bool:
        """The turn was taken for none before its words came."""
        return turn in self._late

    def began(self, turn: str, now: float) -> Verdict:
        """The caller speaks while the agent has the floor."""
        self._held[turn] = _Turn(now)
        if self.parked:
            return Verdict.NOTHING
        self.parked, self._at_the_end = True, False
        return Verdict.PARK

    def stopped_at(self, unheard_ms: float, *, more: bool) -> None:
        """The voice has stopped: so much is unheard, and `more` may come."""
        self._at_the_end = not more and unheard_ms < LAST_SYLLABLES_MS

    def stopped(self, turn: str, now: float) -> Verdict:
        """A held turn is over."""
        held = self._held[turn]
        held.spoken_ms = max(0.0, (now - held.started_at) * 1000 - self._silence_ms)
        if held.spoken_ms >= self._sure_ms:
            return self._interrupted()
        held.judge_at = now + VERDICT_S
        return Verdict.NOTHING

    def discarded(self, turn: str) -> Verdict:
        """It was no speech."""
        self._held.pop(turn, None)
        self._late.discard(turn)
        return self._resumed()

    def transcribed(self, turn: str, text: str, *, failed: bool) -> Verdict:
        """The words of a turn, held or not."""
        is_harmless = not text.strip() or self._back_channels.are_all_of(text)
        if turn in self._late:
            self._late.discard(turn)
            return Verdict.NOTHING if failed or is_harmless else self._interrupted()
        held = self._held.get(turn)
        if held is None:
            return Verdict.NOTHING
        if failed:
            return self._by_length(turn, held)
        if not is_harmless or (text.strip() and self._at_the_end):
            return self._interrupted()
        return self.discarded(turn)

    def tick(self, now: float) -> Verdict:
        """Time passes: long enough turns are interruptions, and words are not waited for for ever."""
        sure_s = (self._sure_ms + self._silence_ms) / 1000
        for turn, held in list(self._held.items()):
            if held.spoken_ms < 0 and now - held.started_at >= sure_s:
                return self._interrupted()
            if now >= held.judge_at:
                verdict = self._by_length(turn, held)
                if verdict is Verdict.INTERRUPTED:
                    return verdict
                self._late.add(turn)
                if verdict is Verdict.RESUME:
                    return verdict
        return Verdict.NOTHING

    def release(self) -> list[str]:
        """The agent was interrupted, has nothing more to say, or says its last words. The held turns that are over."""
        over = [turn for turn, held in self._held.items() if held.spoken_ms >= 0]
        self._held.clear()
        self.parked = False
        return over

    def forget(self) -> None:
        """The model connection is gone, and with it the turns."""
        self.release()
        self._late.clear()

    def _by_length(self, turn: str, held: _Turn) -> Verdict:
        return self._interrupted() if held.spoken_ms >= self._min_ms else self.discarded(turn)

    def _interrupted(self) -> Verdict:
        self.parked = False
        return Verdict.INTERRUPTED

    def _resumed(self) -> Verdict:
        if self._held or not self.parked:
            return Verdict.NOTHING
        self.parked = False
        return Verdict.RESUME
