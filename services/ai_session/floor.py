"""The model's responses in one call: which one is made, which ones play, which were cut off or are over. Pure."""

from __future__ import annotations

from enum import Enum

from services.ai_session.memory import RecentIds


class Phase(Enum):
    """What the agent does."""

    LISTENING = "listening"
    THINKING = "thinking"
    SPEAKING = "speaking"
    PARKED = "parked"


class Floor:
    """Who has the floor on the agent's side."""

    def __init__(self) -> None:
        self.active: str | None = None  # the response that the model works on
        self.has_spoken = False  # since the caller did
        self._playing: set[str] = set()  # responses with audio that is not heard yet
        self._dead = RecentIds()  # cut off: what still arrives of them is dropped
        self._ended = RecentIds()

    @property
    def is_playing(self) -> bool:
        """Audio waits or is on its way to the ear."""
        return bool(self._playing)

    @property
    def is_taken(self) -> bool:
        """The agent speaks, or a response of the model is about to be heard."""
        return bool(self._playing) or (self.active is not None and self.active not in self._dead)

    @property
    def is_busy(self) -> bool:
        """A response is made or plays, cut off or not."""
        return bool(self._playing) or self.active is not None

    def is_dead(self, response: str) -> bool:
        """The response was cut off."""
        return response in self._dead

    def is_over(self, response: str) -> bool:
        """The response has ended."""
        return response in self._ended

    def started(self, response: str) -> None:
        """The model works on a response."""
        self.active = response
        self._dead.discard(response)
        self._ended.discard(response)

    def caller_spoke(self) -> None:
        """The caller began to speak; into the agent's words, that is no new turn yet."""
        self.has_spoken = self.has_spoken and self.is_taken

    def audio(self, response: str, *, is_answer: bool = True) -> bool:
        """Audio of a response goes to the ledger. True when it is the first since the last one was heard."""
        self.has_spoken = self.has_spoken or is_answer
        if response in self._playing:
            return False
        self._playing.add(response)
        return True

    def give_up(self, response: str) -> None:
        """Nothing of this response is wanted."""
        self._dead.add(response)

    def ended(self, response: str) -> None:
        """A response is over; its audio may still play."""
        self._ended.add(response)
        if self.active == response:
            self.active = None

    def drained(self) -> None:
        """Everything was heard."""
        self._playing.clear()

    def cut_off(self) -> tuple[bool, str | None]:
        """Give up what is not heard: whether something plays, and the response under way, if any."""
        plays = bool(self._playing)
        self._playing.clear()
        if self.active is not None:
            self._dead.add(self.active)
        return plays, self.active

    def lost(self) -> str | None:
        """The model connection is gone; the next one has its own names. The response that it took with it, if any."""
        active, self.active = self.active, None
        self._dead.clear()
        self._ended.clear()
        return active
