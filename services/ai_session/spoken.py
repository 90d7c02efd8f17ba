"""What of the agent's speech was heard, for the transcript and for the model's memory. A core without I/O.

Theory of operation. The ledger tells what became of each part; here that turns into the record of what the agent
said (`PublishAgentTurn`, with the text that was heard) and into the corrections of `memory`. A part of a response that
the model connection took with it is told as interrupted even when all that arrived of it was heard. What the worker
said by itself (a response whose name begins with `LOCAL`) is recorded, and the model is told nothing of it.
"""

from __future__ import annotations

from services.ai_session.actions import Action, PublishAgentTurn
from services.ai_session.backends.port import ResponseEnded
from services.ai_session.memory import ModelMemory
from services.ai_session.playout import Part
from services.ai_session.speech_text import SpeechText

LOCAL = "local-"


class Spoken:
    """One call's spoken parts. `text` is filled by the shell from the backend's transcripts."""

    def __init__(self, text: SpeechText, *, can_truncate: bool, samples_per_ms: float) -> None:
        self._text = text
        self._per_ms = samples_per_ms
        self._memory = ModelMemory(can_truncate=can_truncate, samples_per_ms=samples_per_ms)
        self._cut: set[str] = set()  # responses whose rest was lost with the model connection

    @property
    def remembered_items(self) -> int:
        """How many of the model's items are kept track of."""
        return self._memory.size

    def produced(self, item: str, response: str) -> None:
        """Audio of an item arrived, whether it was accepted or refused."""
        self._memory.produced(item, response)

    def connection_lost(self, response: str | None) -> None:
        """The model connection is gone, and with it the rest of the response under way, if any."""
        if response is not None:
            self._cut.add(response)

    def began(self, part: Part) -> None:
        """The first sample of a part reached the caller."""
        if not _is_local(part):
            self._memory.heard(part)

    def done(self, part: Part) -> list[Action]:
        """A part was heard to its end, or written off: nothing to be corrected any more."""
        self.began(part)
        self._text.learn(part.key, part.received)
        return [self._record(part, interrupted=part.response in self._cut or part.lost > 0)]

    def flush_began(self) -> None:
        """From now on it is not known what was heard, until `flushed`."""
        self._memory.flush_began()

    def flushed(self, parts: tuple[Part, ...]) -> list[Action]:
        """The flush was acknowledged: the model is told what was heard of these parts."""
        actions: list[Action] = []
        for part in parts:
            if not _is_local(part):
                actions += self._memory.correct(part)
            actions.append(self._record(part, interrupted=not part.complete or part.lost > 0))
        return [*actions, *self._memory.flushed()]

    def interrupted_response_ended(self, event: ResponseEnded) -> list[Action]:
        """An interrupted response is over: nothing more comes of it."""
        return [*self._memory.interrupted_response_ended(event)]

    def drained(self, active: str | None) -> None:
        """Everything was heard; `active` is the response under way, if any."""
        self._cut.clear()
        self._memory.drained(active)

    def _record(self, part: Part, *, interrupted: bool) -> PublishAgentTurn:
        whole = self._text.text(part.key)
        heard = self._text.heard_text(part.key, part.heard, part.received, part.ended) if interrupted else whole
        self._text.drop(part.key)
        return PublishAgentTurn(
            item=part.key[0],
            response=part.response,
            text=whole,
            heard_text=heard,
            interrupted=interrupted,
            audio_ms=part.received / self._per_ms,
            heard_ms=part.heard / self._per_ms,
            from_sample=max(0, part.from_sample),
            local=_is_local(part),
        )


def _is_local(part: Part) -> bool:
    return part.response.startswith(LOCAL)
