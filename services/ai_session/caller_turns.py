"""The caller's turns in one call: which of them interrupt the agent, and which are owed an answer. A core without I/O.

With `interruption` None the model's server decides what an interruption is. Methods return the verdict on the agent's
speech; `due` tells what to ask a model for that does not answer by itself.
"""

from __future__ import annotations

from services.ai_session.answering import Answering, Ask
from services.ai_session.interruption import Interruption, Verdict


class CallerTurns:
    """Puts a turn of the caller to `interruption` first, if the agent has the floor, and then to `answering`."""

    def __init__(self, answering: Answering, interruption: Interruption | None) -> None:
        self._answering = answering
        self._interruption = interruption
        self._speaking: dict[str, None] = {}  # turns without an end, oldest first

    @property
    def decides(self) -> bool:
        """Interruptions are decided here."""
        return self._interruption is not None

    @property
    def is_speaking(self) -> bool:
        """The caller speaks."""
        return bool(self._speaking)

    @property
    def is_settled(self) -> bool:
        """Nothing is open: no turn, no verdict, no answer."""
        return not (self._speaking or self.is_parked or self._answering.is_due)

    @property
    def is_parked(self) -> bool:
        """The agent's voice waits for a verdict."""
        return self._interruption is not None and self._interruption.parked

    @property
    def answer_is_due(self) -> bool:
        """An answer is owed, or will be when a transcript has come."""
        return self._answering.is_due

    def began(self, turn: str) -> None:
        """The caller speaks."""
        self._speaking[turn] = None
        self._answering.began(turn)

    def agent_has_floor(self, now: float) -> Verdict:
        """The agent speaks, or is about to: whatever the caller is saying may be an interruption."""
        verdict = Verdict.NOTHING
        if self._interruption is not None:
            for turn in self._speaking:
                if not self._interruption.holds(turn) and self._interruption.began(turn, now) is Verdict.PARK:
                    verdict = Verdict.PARK
        return verdict

    def voice_stopped(self, unheard_ms: float, *, more: bool) -> None:
        """The voice is parked: so much is unheard, and `more` may come."""
        if self._interruption is not None:
            self._interruption.stopped_at(unheard_ms, more=more)

    def stopped(self, turn: str, now: float) -> Verdict:
        """The turn is over."""
        self._speaking.pop(turn, None)
        if self._interruption is None or not self._interruption.holds(turn):
            self._answering.stopped(turn, now)
            return Verdict.NOTHING
        return self._judged(self._interruption.stopped(turn, now), now)

    def discarded(self, turn: str, now: float) -> Verdict:
        """It was no speech."""
        self._speaking.pop(turn, None)
        self._answering.dropped(turn)
        return self._judged(self._interruption.discarded(turn), now) if self._interruption else Verdict.NOTHING

    def transcribed(self, turn: str, text: str, now: float, *, failed: bool) -> Verdict:
        """The turn's words."""
        interruption, verdict = self._interruption, Verdict.NOTHING
        if interruption is not None and interruption.is_late(turn):
            verdict = self._judged(interruption.transcribed(turn, text, failed=failed), now)
            if verdict is Verdict.INTERRUPTED:
                self._answering.counts(turn)
            return verdict
        if interruption is not None and interruption.holds(turn):
            verdict = self._judged(interruption.transcribed(turn, text, failed=failed), now)
            if verdict is not Verdict.INTERRUPTED:
                self._answering.dropped(turn)
                return verdict
        self._answering.transcribed(turn, text, failed=failed)
        return verdict

    def tick(self, now: float) -> Verdict:
        """Time passes."""
        return self._judged(self._interruption.tick(now), now) if self._interruption else Verdict.NOTHING

    def agent_yields(self, now: float) -> None:
        """The agent has said all it had to say, or was cut off: held turns are turns like any other."""
        if self._interruption is not None:
            for turn in self._interruption.release():
                self._answering.stopped(turn, now)

    def due(self, now: float) -> Ask:
        """What to ask the model for now."""
        return self._answering.due(now)

    def forget(self) -> None:
        """The model connection is gone; its successor starts from what was said."""
        self._speaking.clear()
        self._answering.forget()
        if self._interruption is not None:
            self._interruption.forget()

    def _judged(self, verdict: Verdict, now: float) -> Verdict:
        if verdict is Verdict.INTERRUPTED:
            self.agent_yields(now)
        return verdict
