"""When to ask a model for its answer that does not answer turns by itself. A core without I/O.

Theory of operation. The caller's turns are *open* while they are spoken and, where the answer is made from words, until
their transcript has come. An answer is *owed* when a turn counts; it is asked for once, when no turn is open: a caller
who goes on before that gets one answer to all of it. Empty words are owed nothing; words that the provider could
not give (`failed`, or not within `TRANSCRIPT_S`) have to be asked for again.
"""

from __future__ import annotations

from enum import Enum, auto

TRANSCRIPT_S = 6.0  # longer than the slowest transcription that still makes sense in a conversation


class Ask(Enum):
    """What to ask the model for."""

    NOTHING = auto()
    ANSWER = auto()
    REPETITION = auto()  # of what the caller said


class Answering:
    """One call's turns and the answers that they are owed; none is due where the model answers by itself."""

    def __init__(self, *, asks: bool, needs_transcript: bool) -> None:
        self._asks = asks
        self._needs_transcript = needs_transcript
        self._speaking: set[str] = set()
        self._awaited: dict[str, float] = {}  # turn without transcript -> when to give up
        self._owed = False
        self._missed = False  # a turn's words are lost

    @property
    def is_due(self) -> bool:
        """An answer is owed, or will be when a transcript has come."""
        return self._asks and (self._owed or self._missed or bool(self._awaited))

    def began(self, turn: str) -> None:
        """The caller speaks."""
        self._speaking.add(turn)

    def stopped(self, turn: str, now: float) -> None:
        """The turn is over, and counts."""
        self._speaking.discard(turn)
        if self._needs_transcript:
            self._awaited[turn] = now + TRANSCRIPT_S
        else:
            self._owed = True

    def transcribed(self, turn: str, text: str, *, failed: bool) -> None:
        """The turn's words."""
        if not self._needs_transcript:
            return
        self._speaking.discard(turn)
        self._awaited.pop(turn, None)
        if failed:
            self._missed = True
        elif text.strip():
            self._owed = True

    def dropped(self, turn: str) -> None:
        """It was no turn, or wants no answer."""
        self._speaking.discard(turn)
        self._awaited.pop(turn, None)

    def counts(self, turn: str) -> None:
        """The turn is complete and wants an answer."""
        self.dropped(turn)
        self._owed = True

    def due(self, now: float) -> Ask:
        """What to ask for now."""
        for turn in [turn for turn, until in self._awaited.items() if now >= until]:
            del self._awaited[turn]
            self._missed = True
        if not self._asks or self._speaking or self._awaited or not (self._owed or self._missed):
            return Ask.NOTHING
        ask = Ask.ANSWER if self._owed else Ask.REPETITION
        self._owed = self._missed = False
        return ask

    def forget(self) -> None:
        """The model connection is gone; its successor starts from what was said."""
        self._speaking.clear()
        self._awaited.clear()
        self._owed = self._missed = False
