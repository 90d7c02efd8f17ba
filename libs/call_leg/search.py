"""The search for a worker that serves the call: who is asked next, and when it is given up. A core without I/O.

Theory of operation.

 - Before anybody is on the line each worker is asked once, `first_attempts` at most; a worker that was ready ends the
   count, so that its successor is looked for as the first one was.
 - Once somebody is on the line, or is being called, there is no last worker: the search lasts `limit_s` from the
   owner's loss on, and whoever comes back is welcome.
 - R3: without a sound link nobody's silence counts. Set-up waits up to `SETUP_PATIENCE_S` for the workers to be heard.
   A worker's own word that it failed is evidence on any link.
 - R3 again: whoever looks at the clock `STALLED_S` too late has stalled, and the answer to the offer may lie unread in
   the socket. It gets `UNREAD_S` to be read, once per offer.
 - Silence to an offer is no refusal: on a machine that is busy for a moment a worker in good health answers late. Who
   was only silent is asked again, with more time, while set-up has patience.
 - A model that fails whoever asks it must not keep a caller in an endless row of workers: `FAILURES_IN_A_ROW` owners
   that each failed within `STEADY_S` end the call.
 - Somebody who hears nothing but the waiting tone hangs up. That is no proper end: from `GAVE_UP_AFTER_S` on the call
   ends with what kept it waiting, or an outage would look the better the less patient its callers are.
"""

from __future__ import annotations

from libs.call_leg.roster import Roster
from libs.contracts.termination import Reason, Termination

OFFER_TIMEOUT_S = 0.08
PATIENT_OFFER_TIMEOUT_S = 0.4  # for whom an offer's first time was too short
LATE_S = 1.0  # that an acceptance may come after its offer's time, and still be answered with a release
STALLED_S, UNREAD_S = 0.02, 0.04
FIRST_ATTEMPTS = 3
SEEK_LIMIT_S = 20.0
SETUP_PATIENCE_S = 3.0
STEADY_S = 10.0  # an owner that lasted this long was well; failures after shorter times are counted together
FAILURES_IN_A_ROW = 3
GAVE_UP_AFTER_S = 2.0  # who leaves earlier would have left anyway
BY_CHOICE = (Reason.CALLER_HUNG_UP, Reason.CALLEE_HUNG_UP, Reason.CALLER_CANCELLED)
NEVER = float("inf")


class WorkerSearch:
    """One per leg, for all its searches. `is_connected`: somebody is on the line, or is being called."""

    def __init__(self, roster: Roster, first_attempts: int = FIRST_ATTEMPTS, limit_s: float = SEEK_LIMIT_S) -> None:
        self._roster = roster
        self._first_attempts = first_attempts
        self._limit_s = limit_s
        self._attempts = 0
        self._excluded: set[str] = set()
        self._setup_from = 0.0
        self._until = NEVER
        self._failure: Termination | None = None
        self._failures_in_a_row = 0
        self._was_silent = self._has_waited = False
        self.offer_timeout_s = OFFER_TIMEOUT_S

    def set_up(self, now: float) -> None:
        """The call may be offered from now on."""
        self._setup_from = now

    def limit(self, now: float) -> None:
        """Somebody on the line waits: the search has its time from here on."""
        self._until = now + self._limit_s

    def found(self) -> None:
        """A worker is ready, or a person has the call."""
        self._attempts = 0
        self._until = NEVER
        self._failure = None
        self._was_silent = False
        self.offer_timeout_s = OFFER_TIMEOUT_S

    def begin_anew(self) -> None:
        """A person had the call: what agents failed before it is not counted together with what comes after."""
        self.found()
        self._failures_in_a_row = 0

    def exclude(self, wk: str, *, alone: bool = False) -> None:
        """Do not ask this one again; `alone`: all others are welcome again."""
        self._excluded = {wk} if alone else self._excluded | {wk}

    def unread_s(self, late_s: float) -> float:
        """An offer's time was over so long ago: how long to wait nevertheless for an answer that is here already."""
        if late_s < STALLED_S or self._has_waited:
            return 0.0
        self._has_waited = True
        return UNREAD_S

    def silent(self, wk: str) -> None:
        """This one did not answer the offer in time: the others first, then it is asked again."""
        self.exclude(wk)
        self._was_silent = True

    def failed(self, failure: Termination) -> None:
        """A worker told why it cannot serve the call: that is what the call ends with when no other can."""
        self._failure = failure

    def is_hopeless(self, talked_s: float) -> bool:
        """An owner failed after this time of talking: whether the next one would fail as well."""
        if talked_s >= STEADY_S:
            self._failures_in_a_row = 0
        self._failures_in_a_row += 1
        return self._failures_in_a_row >= FAILURES_IN_A_ROW

    def next(self, is_connected: bool) -> str | None:
        """The worker to ask now, or None."""
        if not is_connected and self._attempts >= self._first_attempts:
            return None
        wk = self._roster.pick(self._excluded)
        self._has_waited = False
        if wk is not None:
            self._attempts += 1
            self._roster.offered(wk)
        return wk

    def has_another(self, wk: str, is_connected: bool) -> bool:
        """Whether somebody could be asked if this one gave the call away."""
        return self._roster.pick({wk} if is_connected else self._excluded | {wk}) is not None

    def left(self, own: Termination, now: float) -> Termination:
        """The other side ended the call, with `own`, while no agent had it: what the call ends with."""
        was_served = self._until != NEVER
        waited_s = now - (self._until - self._limit_s if was_served else self._setup_from)
        why = self._failure
        if why is None and was_served:
            why = Termination.of(Reason.WORKER_LOST, "no worker could take the call over")
        if why is None or waited_s < GAVE_UP_AFTER_S or own.reason not in BY_CHOICE:
            return own
        return Termination.of(why.reason, f"{why.detail}; the other side gave up after {waited_s:.0f} s")

    def given_up(self, is_connected: bool, is_patient: bool, now: float) -> Termination | None:
        """`next` found nobody: what the call ends with, or None to try again. `is_patient`: a transfer still runs."""
        said_no = self._failure is not None
        nobody_knows = self._was_silent or not self._roster.is_sound(now)
        if not said_no and nobody_knows and now < self._setup_from + SETUP_PATIENCE_S:
            self._attempts = 0
        elif not is_connected:
            return self._failure or Termination.of(Reason.NO_WORKER, "no AI worker is free")
        elif now >= self._until and not is_patient:
            return self._failure or Termination.of(Reason.WORKER_LOST, "no worker could take the call over")
        self._excluded.clear()  # who waits is glad of whoever comes back
        if self._was_silent:
            self._was_silent, self.offer_timeout_s = False, PATIENT_OFFER_TIMEOUT_S
        return None
