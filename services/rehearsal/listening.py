"""What a transcription hears: a known recording, the scenario's next turn, or nothing."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from services.rehearsal.caller_clips import CallerClips, has_speech
from services.rehearsal.scenario import Scenario, ScenarioSet

_KEPT_CONVERSATIONS = 1000


Ask = tuple[str, str, bytes]  # conversation, scenario, digest of the audio


@dataclass(frozen=True, slots=True)
class Heard:
    """``how`` is "recording", "next turn", "again" or "no speech"; ``ask`` is what ``Listener.answered`` wants."""

    text: str
    scenario: str
    turn: int | None
    language: str
    how: str
    ask: Ask | None = None


class Listener:
    """Gives audio its words.

    A recording of a caller's turn is recognised whoever sends it. Other speech is the turn after the one heard last
    in the same conversation; requests that name none count as one conversation. The same speech once more, after a
    request that had no proper answer, is the same turn.
    """

    def __init__(self, callers: CallerClips, scenarios: ScenarioSet) -> None:
        self._callers, self._scenarios = callers, scenarios
        self._last: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._unanswered: OrderedDict[Ask, int] = OrderedDict()

    def hear(self, pcm: bytes | None, *, conversation: str, scenario: str | None, prompt: str) -> Heard:
        """``pcm`` is PCM16 at 8 kHz, None for a container that this server has no decoder for."""
        chosen = self._scenarios.choose(instructions=prompt, query=scenario)
        if pcm is not None:
            known = self._callers.recognise(pcm)
            if known is not None:
                spoken = self._scenarios.find(known.scenario) or chosen
                self._note(conversation, spoken, known.number)
                return Heard(known.text, known.scenario, known.number, spoken.language, "recording")
            if not has_speech(pcm):
                return Heard("", chosen.name, None, chosen.language, "no speech")
        ask = (conversation, chosen.name, hashlib.sha256(pcm).digest()) if pcm is not None else None
        turn, how = self._unanswered.get(ask) if ask is not None else None, "again"
        if turn is None:
            turn, how = self._last.get((conversation, chosen.name), 0) + 1, "next turn"
            self._note(conversation, chosen, turn)
        if ask is not None:
            self._unanswered[ask] = turn
            while len(self._unanswered) > _KEPT_CONVERSATIONS:
                self._unanswered.popitem(last=False)
        return Heard(chosen.transcript(turn), chosen.name, turn, chosen.language, how, ask)

    def answered(self, heard: Heard) -> None:
        """The words went out: the same audio would be another turn now."""
        if heard.ask is not None:
            self._unanswered.pop(heard.ask, None)

    def _note(self, conversation: str, scenario: Scenario, turn: int) -> None:
        self._last[conversation, scenario.name] = turn
        self._last.move_to_end((conversation, scenario.name))
        while len(self._last) > _KEPT_CONVERSATIONS:
            self._last.popitem(last=False)
