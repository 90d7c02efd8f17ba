"""The polite end of a call: wait for the sentence, say goodbye, hang up. A core without I/O.

Theory of operation. When the time or the budget is used up, the agent may finish what it says, for `FINISH_S`
at most; then the rest is cut off. Then the goodbye is asked for, so that it never waits behind a long answer,
and the line is cut when it was heard, or `LAST_WORDS_S` after it began (later if it is long), whatever the model does.
A goodbye that does not begin at all ends the call `LAST_WORDS_S` after it was asked for. One that fails before
anything of it could be heard is asked for once more. An agent that hangs up by itself has mostly said its goodbye
already: only the waiting is left. Nothing else is said once the last words are being said.
"""

from __future__ import annotations

from enum import Enum, auto

from services.ai_session.actions import Why
from services.ai_session.phrases import Verbatim, Wish

FINISH_S = 5.0  # how long a sentence under way may go on when the time is over
LAST_WORDS_S = 15.0  # for the goodbye to begin, and from then on to be heard
CHARACTERS_PER_S = 7.0  # of the slowest speech; a message of a minute is not cut off
RETRY_GOODBYE_S = 0.5


class Step(Enum):
    """What to do now."""

    WAIT = auto()
    ASK = auto()  # for the goodbye
    CUT_AND_ASK = auto()  # what is being said, for the goodbye
    HANG_UP = auto()


class _Stage(Enum):
    TALKING = auto()  # nobody thinks of the end
    FINISHING = auto()  # the agent may finish its sentence
    ASKED = auto()  # the goodbye was asked for
    FAILED = auto()  # it is to be asked for once more
    PARTING = auto()  # the last words are being said
    OVER = auto()


class PoliteEnd:
    """One call's end. `next` tells what to do; it is asked whenever something ended, and ten times a second."""

    def __init__(self) -> None:
        self.why: Why | None = None
        self._stage = _Stage.TALKING
        self._by = 0.0  # when the stage ends at the latest
        self._may_retry = True
        self._has_asked = False
        self._words_s = LAST_WORDS_S

    @property
    def is_parting(self) -> bool:
        """The last words that were asked for are being said."""
        return self._stage is _Stage.PARTING and self._has_asked

    @property
    def is_near(self) -> bool:
        """The call is about to end."""
        return self.why is not None

    @property
    def is_over(self) -> bool:
        """`HANG_UP` was told."""
        return self._stage is _Stage.OVER

    def begin(self, why: Why, now: float, words: Wish) -> bool:
        """End the call with these words, None: without one more; False when it is ending already."""
        if self.why is not None:
            return False
        self.why = why
        if isinstance(words, Verbatim):
            self._words_s = max(LAST_WORDS_S, len(words.text) / CHARACTERS_PER_S)
        if words is None:
            self._stage, self._by = _Stage.PARTING, now + (LAST_WORDS_S if why is Why.AGENT else 0.0)
        elif why in (Why.AGENT, Why.MACHINE):  # nothing is due but this, and a machine records already
            self._stage, self._by = _Stage.FINISHING, now
        else:
            self._stage, self._by = _Stage.FINISHING, now + FINISH_S
        return True

    def response_began(self, now: float) -> None:
        """A response that was asked for begins."""
        if self._stage is _Stage.ASKED:
            self._stage, self._by = _Stage.PARTING, now + self._words_s

    def response_failed(self, now: float) -> None:
        """A response ended, and nothing of it can be heard."""
        if self.is_parting and self._may_retry:
            self._may_retry = False
            self._stage, self._by = _Stage.FAILED, now + RETRY_GOODBYE_S

    def connection_replaced(self) -> None:
        """A new model knows nothing of the goodbye that its predecessor was asked for."""
        if self._has_asked and self._stage in (_Stage.ASKED, _Stage.FAILED, _Stage.PARTING):
            self._stage = _Stage.FINISHING

    def next(self, *, speaking: bool, answer_due: bool, tools: bool, now: float) -> Step:
        """The next step. `speaking`: a response is under way or its audio plays; `answer_due`: one is about to begin;
        `tools`: some are running.
        """
        late = now >= self._by
        match self._stage:
            case _Stage.FINISHING if late or not (speaking or answer_due):
                return self._ask(Step.CUT_AND_ASK if speaking else Step.ASK, now)
            case _Stage.FAILED if late:
                return self._ask(Step.ASK, now)
            case _Stage.ASKED if late:
                return self._hang_up()
            case _Stage.PARTING if late or not (speaking or tools):
                return self._hang_up()
            case _:
                return Step.WAIT

    def _ask(self, how: Step, now: float) -> Step:
        self._stage, self._by, self._has_asked = _Stage.ASKED, now + LAST_WORDS_S, True
        return how

    def _hang_up(self) -> Step:
        self._stage = _Stage.OVER
        return Step.HANG_UP
