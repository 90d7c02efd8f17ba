"""The text of the agent's speech, sentence by sentence, beside the audio that carries it.

The provider sends transcript and audio as two streams without a time relation. A sentence's place in the
audio is therefore estimated: when both streams of a part are complete, by proportion (characters before it /
all characters x samples); before that, by the speaking rate measured on earlier parts, at first
`CHARACTERS_PER_SECOND`. The estimate errs by a few hundred milliseconds at worst, which for "which
sentences were heard?" (R8) moves at most the one sentence that was being spoken.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

CHARACTERS_PER_SECOND = 15.0  # conversational German and English
_BOUNDARY = re.compile(r"(?<=[.!?…:])[\"'“”»)]*\s+")
_LAST_WORD = re.compile(r"(\w+)\.$")

# Words whose full stop ends no sentence. A single letter ("z. B.", "e. g.") and a number of one or two digits
# ("1. Stock", "am 3. Mai") never do, nor does any full stop before a small letter.
ABBREVIATIONS = {
    "de": """abs abt bspw bzgl bzw ca dipl dr evtl exkl frl geb ggf hr ing inkl mind mio mrd mwst nr prof rd sog st stck
        stk str tel ust vgl zb zzgl zzt""",
    "en": "approx apt ave dept dr fig jr mr mrs ms mt prof sr vs",
}
# Words that are abbreviations only before a number or another of these: "Art. Nr. 4711", but "Diese Art. Und …".
BEFORE_NUMBERS = {"de": "art best kd max min nr pos", "en": "item max min no nos pp vol"}
_NEVER_LAST = frozenset(" ".join(ABBREVIATIONS.values()).split())
_NOT_BEFORE_NUMBERS = frozenset(" ".join(BEFORE_NUMBERS.values()).split())

Key = tuple[str, int]


class Sentence(NamedTuple):
    """One sentence and the sample of its part at which it is taken to begin."""

    text: str
    offset: int


@dataclass(slots=True)
class _Text:
    text: str = ""
    ended: bool = False
    told: int = 0  # characters that `due` has handed out


class SpeechText:
    """Transcripts of all parts that were not dropped yet. `rate_hz` is the call's."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._per_second = CHARACTERS_PER_SECOND
        self._parts: dict[Key, _Text] = {}

    def add(self, key: Key, text: str) -> None:
        """Append a transcript delta."""
        self._parts.setdefault(key, _Text()).text += text

    def end(self, key: Key, text: str) -> None:
        """The transcript is complete; `text`, if any, is all of it."""
        part = self._parts.setdefault(key, _Text())
        if len(text) >= part.told and text:
            part.text = text
        part.ended = True

    def text(self, key: Key) -> str:
        """All text of a part so far."""
        part = self._parts.get(key)
        return part.text.strip() if part is not None else ""

    def drop(self, key: Key) -> None:
        """Forget a part."""
        self._parts.pop(key, None)

    def due(self, key: Key, upto: int, received: int, audio_ended: bool) -> list[Sentence]:
        """Complete sentences that begin before sample `upto` of the part and were not handed out yet."""
        part = self._parts.get(key)
        if part is None or part.told >= len(part.text):
            return []
        found: list[Sentence] = []
        while part.told < len(part.text):
            offset = self._offset(part, part.told, received, audio_ended)
            if offset >= upto:
                break
            end = sentence_end(part.text, part.told, complete=part.ended)
            if end is None:
                if not part.ended:
                    break
                end = len(part.text)
            if sentence := part.text[part.told : end].strip():
                found.append(Sentence(sentence, offset))
            part.told = end
        return found

    def _offset(self, part: _Text, characters: int, received: int, audio_ended: bool) -> int:
        if audio_ended and part.ended:
            return received * characters // max(1, len(part.text))
        return int(characters / self._per_second * self._rate_hz)

    def learn(self, key: Key, samples: int) -> None:
        """A part is complete and had `samples`: adapt the speaking rate."""
        part = self._parts.get(key)
        if part is not None and len(part.text) > 20 and samples > self._rate_hz:
            measured = len(part.text) * self._rate_hz / samples
            self._per_second += 0.5 * (min(40.0, max(5.0, measured)) - self._per_second)

    def heard_text(self, key: Key, heard: int, received: int, audio_ended: bool) -> str:
        """The text by the proportion of its audio that was heard, cut at the last whole word."""
        part = self._parts.get(key)
        if part is None or heard <= 0:
            return ""
        text = part.text.strip()
        whole = received
        if not (audio_ended and part.ended):
            whole = max(received, int(len(text) / self._per_second * self._rate_hz))
        if heard >= whole:
            return text
        cut = len(text) * heard // max(1, whole)
        if cut < len(text) and not text[cut].isspace():
            cut = max(text.rfind(" ", 0, cut), 0)
        return text[:cut].rstrip()


def sentence_end(text: str, start: int, *, complete: bool) -> int | None:
    """Where the sentence that begins at `start` ends, past the white space; None while that cannot be told."""
    for match in _BOUNDARY.finditer(text, start):
        goes_on = _goes_on(text[start : match.start()], text[match.end() :], complete=complete)
        if goes_on is None:
            return None
        if not goes_on:
            return match.end()
    return None


def _goes_on(before: str, after: str, *, complete: bool) -> bool | None:
    """Whether a sentence goes on behind the punctuation that ends `before`; None when more text has to tell."""
    if not after:
        return False if complete else None
    word = _LAST_WORD.search(before)
    if word is None:
        return False
    last = word[1].lower()
    if len(last) == 1 or (last.isdigit() and len(last) <= 2) or last in _NEVER_LAST or after[0].islower():
        return True
    if last not in _NOT_BEFORE_NUMBERS or after[0].isdigit():
        return last in _NOT_BEFORE_NUMBERS
    following = after.split(None, 1)
    if len(following) == 1 and not complete:
        return None
    return following[0].rstrip(".").lower() in _NOT_BEFORE_NUMBERS
