"""What to do about silence: a filler while the caller waits for us, a question while we wait for the caller. Pure.

Theory of operation. Silence is ours while an answer is due: tools run, the model has not begun, or it is asked again
after a failure. After `after_ms` of it a *filler* is said ("Einen Moment, ich schaue nach"), then one every `every_ms`,
never the same twice in a row. Fillers come ready-made from the worker, so that they are heard whatever the model or
its provider is doing; the model knows nothing of them.

Silence is the caller's when nothing is due from us. After `after_s` of it the agent asks whether somebody is there, up
to `prompts` times, and then ends the call politely. Any sign of the caller (`caller_acted`) starts that anew. Where the
model's server asks by itself (`prompted`), that counts, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

from libs.contracts import agent
from services.ai_session.actions import PlayLocal, Why
from services.ai_session.phrases import Verbatim
from services.ai_session.spoken import LOCAL


class Fillers:
    """One call's fillers; none without texts."""

    def __init__(self, texts: Sequence[str], *, after_ms: float, every_ms: float) -> None:
        self._texts = tuple(dict.fromkeys(texts))
        self._after_s = after_ms / 1000
        self._every_s = every_ms / 1000
        self._next = 0
        self._due_at: float | None = None

    def tick(self, now: float, *, silent: bool, wanted: bool) -> str | None:
        """The filler to be said now. `wanted`: the caller waits for us; `silent`: and hears nothing."""
        if not self._texts or not wanted:
            self._due_at = None
            return None
        if self._due_at is None:
            self._due_at = now + self._after_s
        if not silent or now < self._due_at:
            return None
        text = self._texts[self._next % len(self._texts)]
        self._next += 1
        self._due_at = now + self._every_s
        return text


class Patience(Enum):
    """What the caller's silence calls for."""

    WAIT = auto()
    PROMPT = auto()
    GIVE_UP = auto()


class IdleCaller:
    """One call's patience with a silent caller; endless with `after_s` None."""

    def __init__(self, after_s: float | None, prompts: int) -> None:
        self._after_s = after_s
        self._prompts = prompts
        self._left = prompts
        self._since: float | None = None

    def caller_acted(self) -> None:
        """The caller spoke or pressed a key."""
        self._left, self._since = self._prompts, None

    def prompted(self) -> None:
        """The model's server has asked by itself."""
        self._left, self._since = max(0, self._left - 1), None

    def tick(self, now: float, *, silent: bool) -> Patience:
        """Time passes; `silent`: it is the caller's turn, and nothing is heard."""
        if not silent or self._after_s is None:
            self._since = None
            return Patience.WAIT
        if self._since is None:
            self._since = now
        if now - self._since < self._after_s:
            return Patience.WAIT
        if not self._left:
            return Patience.GIVE_UP
        self.prompted()
        return Patience.PROMPT


class SilenceBreaker:
    """One call's fillers and its patience, from the agent's document."""

    def __init__(self, idle: agent.Idle, fillers: agent.Fillers) -> None:
        self._fillers = Fillers(fillers.texts, after_ms=fillers.after_ms, every_ms=fillers.every_ms)
        self._said = 0
        self._prompt = idle.text
        self.caller = IdleCaller(idle.after_s, idle.prompts)

    def tick(self, now: float, *, silent: bool, ours: bool, idle: bool) -> PlayLocal | Verbatim | Why | None:
        """What is due: a filler, words for the model to say, the end of the call.

        `silent`: the caller hears and says nothing; `ours`: something is due from us; `idle`: nothing is from anybody.
        """
        text = self._fillers.tick(now, silent=silent, wanted=ours)
        if text is not None:
            self._said += 1
            return PlayLocal(f"{LOCAL}{self._said}", text)
        match self.caller.tick(now, silent=silent and idle and not ours):
            case Patience.PROMPT:
                return Verbatim(self._prompt)
            case Patience.GIVE_UP:
                return Why.IDLE
            case Patience.WAIT:
                return None
