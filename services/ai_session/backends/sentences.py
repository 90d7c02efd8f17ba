"""Cuts a text that is still being written into pieces that can be spoken. Pure.

Theory of operation. A voice sounds best with whole sentences, and a caller waits for the first sound. So pieces are
sentences (the rules of `speech_text`: "z. B.", "Nr. 7", "am 3. Mai" end none, "22,5" and "70 x 100 cm" hold together
since only white space separates), but the first one may end at a clause once that is long enough to sound like speech.
Very short sentences wait for the next one; very long ones are cut at a clause, or at a word. What is written to be
seen and not to be heard (markdown, a model's thoughts in `<think>`) is left out.
"""

from __future__ import annotations

import re

from services.ai_session.speech_text import sentence_end

FIRST_CLAUSE = 24  # characters: from there on the first piece may end at a comma
SHORT_SENTENCE = 12  # shorter ones go together with the next, but for the first piece
LONGEST_PIECE = 280

_CLAUSE = re.compile(r"[,;:–—]\s+|\s[-–—]\s+")
_LINE_BREAK = re.compile(r"\s*\n\s*")
_MARKUP = re.compile(
    r"```\w*|^\s*-{3,}\s*$|^\s*#{1,6}\s+|^\s*[-*•]\s+|[*_`]{1,3}(?=\S)|(?<=\S)[*_`]{1,3}|\[([^\]]*)\]\([^)]*\)",
    re.MULTILINE,
)
_SPOKEN = re.compile(r"\w")
_THINK, _THOUGHT = "<think>", "</think>"


class Sentences:
    """One text. `push` takes what was written, `end` what is left; both return pieces in order."""

    def __init__(self) -> None:
        self._text = ""
        self._first = True

    def push(self, text: str) -> list[str]:
        """More of the text; the pieces that are complete now."""
        self._text += text
        pieces: list[str] = []
        while (end := self._end(complete=False)) is not None:
            self._take(end, pieces)
        return pieces

    def end(self) -> list[str]:
        """The text is complete."""
        pieces: list[str] = []
        while self._text.strip():
            self._take(self._end(complete=True) or len(self._text), pieces)
        self._text = ""
        return pieces

    def _take(self, end: int, pieces: list[str]) -> None:
        piece, self._text = speakable(self._text[:end]), self._text[end:]
        if piece:
            pieces.append(piece)
            self._first = False

    def _end(self, *, complete: bool) -> int | None:
        """Where the next piece ends; None when more has to be written."""
        text = self._text
        end = self._sentences_end(complete=complete)
        if end is not None and end <= LONGEST_PIECE:
            return end
        if self._first and end is None and (clause := _clause_end(text, FIRST_CLAUSE, len(text))) is not None:
            return clause
        if len(text) <= LONGEST_PIECE:
            return None
        return _clause_end(text, LONGEST_PIECE // 2, LONGEST_PIECE) or _word_end(text)

    def _sentences_end(self, *, complete: bool) -> int | None:
        """The end of the sentence, or of the first ones when they are short."""
        start = 0
        while True:
            end = _sentence_or_line(self._text, start, complete=complete)
            if end is None:
                return None
            if self._first or end >= SHORT_SENTENCE or (complete and end == len(self._text)):
                return end
            start = end


def _sentence_or_line(text: str, start: int, *, complete: bool) -> int | None:
    """Where the sentence from `start` ends; a line break ends one, too."""
    line = _LINE_BREAK.search(text, start)
    while line is not None and not text[start : line.start()].strip():
        line = _LINE_BREAK.search(text, line.end())
    within = text if line is None else text[: line.start()]
    end = sentence_end(within, start, complete=complete or line is not None)
    if end is not None and end < len(within):
        return end
    return line.end() if line is not None else end


def _clause_end(text: str, shortest: int, longest: int) -> int | None:
    """The first end of a clause within these lengths."""
    for match in _CLAUSE.finditer(text, 0, longest):
        if match.end() >= shortest and match.end() < len(text):
            return match.end()
    return None


def _word_end(text: str) -> int:
    space = text.rfind(" ", 1, LONGEST_PIECE)
    return space + 1 if space > 0 else LONGEST_PIECE


def speakable(text: str) -> str:
    """A piece as it is to be spoken; empty when there is nothing to say in it."""
    text = " ".join(_MARKUP.sub(lambda found: found[1] or "", text).split())
    return text if _SPOKEN.search(text) else ""


class ThoughtFilter:
    """Takes away what a model thinks aloud at the beginning of its answer, as some open models do."""

    def __init__(self) -> None:
        self._held = ""
        self._stage = "before"  # before, thinking, after

    def push(self, text: str) -> str:
        """What of it is meant to be heard."""
        if self._stage == "after":
            return text
        self._held += text
        if self._stage == "before":
            begun = self._held.lstrip()
            if _THINK.startswith(begun[: len(_THINK)]) and len(begun) < len(_THINK):
                return ""
            if not begun.startswith(_THINK):
                return self._release(self._held)
            self._stage = "thinking"
        _, closed, answer = self._held.partition(_THOUGHT)
        return self._release(answer.lstrip()) if closed else ""

    def end(self) -> str:
        """The answer is complete: what was held back in doubt."""
        return self._release(self._held) if self._stage == "before" else ""

    def _release(self, text: str) -> str:
        self._stage, self._held = "after", ""
        return text
