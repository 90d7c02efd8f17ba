"""The text of the agent's speech, sentence by sentence, beside the audio that carries it.

The provider sends transcript and audio as two streams without a time relation. A sentence's place in the
audio is therefore estimated: when both streams of a part are complete, by proportion (characters before it /
all characters x samples); before that, by the speaking rate measured on earlier parts, at first
`CHARACTERS_PER_SECOND`. The estimate errs by a few hundred milliseconds at worst, which for "which
sentences were heard?" (R8) moves at most the one sentence that was being spoken.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

CHARACTERS_PER_SECOND = 15.0  # conversational German and English
_BOUNDARY = re.compile(r"(?<=[.!?…:])[\"'“”»)]*\s+")
_SHORTEST = 3  # "1." or "z." is no sentence

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
    breaks: list[int] = field(default_factory=list)  # where sentences end, past the white space


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
            end = _sentence_end(part.text, part.told)
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


def _sentence_end(text: str, start: int) -> int | None:
    for match in _BOUNDARY.finditer(text, start):
        if match.end() - start > _SHORTEST:
            return match.end()
    return None
