"""The polite end of a call: wait for the sentence, say goodbye, hang up. A core without I/O.

Theory of operation. When the time or the budget is used up, the agent may finish what it says, for `FINISH_S`
at most; then the rest is cut off. Then the goodbye is asked for, so that it never waits behind a long answer,
and the line is cut when it was heard, or `LAST_WORDS_S` after it began, whatever the model does. A goodbye that
does not begin at all ends the call `LAST_WORDS_S` after it was asked for. One that fails before anything of
it could be heard is asked for once more. An agent that hangs up by itself has said its goodbye already, or
is about to: only the waiting is left.
"""

from __future__ import annotations

from enum import Enum, auto

from services.ai_session.actions import Why

FINISH_S = 5.0  # how long a sentence under way may go on when the time is over
LAST_WORDS_S = 15.0  # for the goodbye to begin, and from then on to be heard
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

    @property
    def is_near(self) -> bool:
        """The call is about to end."""
        return self.why is not None

    @property
    def is_over(self) -> bool:
        """`HANG_UP` was told."""
        return self._stage is _Stage.OVER

    def begin(self, why: Why, now: float, *, has_last_words: bool = True) -> bool:
        """End the call, without a word where there are none; False when it is ending already."""
        if self.why is not None:
            return False
        self.why = why
        if why is Why.AGENT:
            self._stage, self._by = _Stage.PARTING, now + LAST_WORDS_S
        elif why is Why.MACHINE:  # it records already: what is being said is not for it
            self._stage, self._by = _Stage.FINISHING if has_last_words else _Stage.PARTING, now
        else:
            self._stage, self._by = _Stage.FINISHING, now + FINISH_S
        return True

    def response_began(self, now: float) -> None:
        """A response that was asked for begins."""
        if self._stage is _Stage.ASKED:
            self._stage, self._by = _Stage.PARTING, now + LAST_WORDS_S

    def response_failed(self, now: float) -> None:
        """A response ended, and nothing of it can be heard."""
        if self._stage is _Stage.PARTING and self._may_retry and self.why is not Why.AGENT:
            self._may_retry = False
            self._stage, self._by = _Stage.FAILED, now + RETRY_GOODBYE_S

    def connection_replaced(self) -> None:
        """A new model knows nothing of the goodbye that its predecessor was asked for."""
        if self._stage in (_Stage.ASKED, _Stage.FAILED, _Stage.PARTING) and self.why is not Why.AGENT:
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
        self._stage, self._by = _Stage.ASKED, now + LAST_WORDS_S
        return how

    def _hang_up(self) -> Step:
        self._stage = _Stage.OVER
        return Step.HANG_UP
