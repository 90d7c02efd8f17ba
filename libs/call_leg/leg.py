"""One call's leg: who owns it, in which epoch, until its one end. A core without I/O.

Theory of operation.

    OFFERING --accepted--> CLAIMED --ready--> TALKING --worker lost--> OFFERING ...
        |  refused, silent    | failed, late      |                       | nobody there
        +----> next worker <--+                   |                    SEEKING --retry--> OFFERING
                                                  v
    every phase --hang-up, no worker left--> ENDED

 - Every offer has a new epoch (R1), and only the present one counts: a late acceptance, a `ready` of an
   older attempt, a command of a fenced worker are refused, and the worker is told to release the call.
 - Before the answer each worker is tried once, three at most; then the route's fallback. After it the
   caller is on the line: the leg keeps seeking for `SEEK_LIMIT_S` while filler plays, with nobody
   excluded but the worker that failed last.
 - The gateway's memory is the truth (R4): nothing here waits for the key-value copy.
 - Exactly one `PublishEnded` leaves a leg, as its last act; whatever arrives later changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, assert_never

from libs.call_leg.actions import (
    Action,
    Answer,
    Claimed,
    DropEntry,
    EndMedia,
    HangUpCaller,
    Lost,
    PublishEnded,
    Reject,
    SendOffer,
    SendRelease,
    SetFiller,
    SetMuted,
    StartMedia,
    StopUplink,
    TellAgent,
    WriteEntry,
)
from libs.call_leg.roster import Gone, Roster
from libs.contracts.commands import (
    Accept,
    CommandReply,
    Decline,
    Describe,
    Failed,
    HandOver,
    HangUp,
    Hold,
    LegCommand,
    Mute,
    Ready,
    Record,
    Say,
    SendDtmf,
    TakeOver,
    Transfer,
)
from libs.contracts.termination import Reason, Termination

OFFER_TIMEOUT_S = 0.08
FIRST_ATTEMPTS = 3
SEEK_RETRY_S = 0.25
DISOWN_AFTER_S = 1.5  # a worker's list of calls may be older than its acceptance, but not by more
SEEK_LIMIT_S = 20.0
SETUP_PATIENCE_S = 3.0
STEADY_S = 10.0  # an owner that lasted this long was well; failures after shorter times are counted together
FAILURES_IN_A_ROW = 3
OVERTIME_S = 30.0  # the worker ends the call politely at its maximum; this is the gateway's own limit behind it

Cause = Literal["first", "failover", "drain", "retry"]


class Phase(StrEnum):
    """Where the call stands; see the theory of operation."""

    NEW = "new"
    OFFERING = "offering"
    CLAIMED = "claimed"
    TALKING = "talking"
    SEEKING = "seeking"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class LegConfig:
    """What the leg must know of its call."""

    call: str
    ready_timeout_s: float = 5.0
    max_duration_s: float = 1800.0
    fallback_status: int = 503
    has_fallback_message: bool = False
    seek_limit_s: float = SEEK_LIMIT_S
    first_attempts: int = FIRST_ATTEMPTS


@dataclass(slots=True)
class Dead:
    """The owner that was lost, for the next one's offer (R8)."""

    wk: str
    epoch: int
    cause: Literal["failover", "drain"]


class Leg:
    """One per call. Feed it, perform the returned actions, call `expire` at `deadline()`.

    `played` tells how many samples of the present epoch RTP has carried.
    """

    def __init__(self, config: LegConfig, roster: Roster, played: Callable[[], int]) -> None:
        self._config = config
        self._roster = roster
        self._played = played
        self.phase = Phase.NEW
        self.epoch = 0
        self.wk: str | None = None  # the owner, or the worker that the offer went to
        self.muted = False
        self.held = False
        self.dead: Dead | None = None
        self.played_by_epoch: dict[int, int] = {}
        self.started_at = 0.0
        self.answered_at: float | None = None
        self.termination: Termination | None = None
        self._attempts = 0
        self._excluded: set[str] = set()
        self._deadline: float | None = None
        self._seek_until = float("inf")
        self._failure: Termination | None = None
        self._talking_since = 0.0
        self._failures_in_a_row = 0
        self._is_ready_early = False
        self._claimed_at = 0.0

    # -- life ---------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Action]:
        """The call arrived and its agent is known: offer it."""
        self.started_at = now
        return self._offer_next(now, "first")

    def deadline(self) -> float | None:
        """When `expire` must be called, or None."""
        if self.phase is Phase.ENDED:
            return None
        limit = self._overtime_at()
        if self._deadline is None or limit is None:
            return limit if self._deadline is None else self._deadline
        return min(self._deadline, limit)

    def _overtime_at(self) -> float | None:
        if self.answered_at is None:
            return None
        return self.answered_at + self._config.max_duration_s + OVERTIME_S

    def expire(self, now: float) -> list[Action]:
        """Time has passed: an offer without answer, a worker that is not ready, a retry, an endless call."""
        if self.phase is Phase.ENDED:
            return []
        limit = self._overtime_at()
        if limit is not None and now >= limit:
            return self.end(Termination.of(Reason.MAX_DURATION, "the worker did not end the call in time"), now)
        if self._deadline is None or now < self._deadline:
            return []
        if self.phase is Phase.OFFERING:
            return self._next_worker(now, "no answer to the offer")
        if self.phase is Phase.CLAIMED:
            self._failure = Termination.of(Reason.NOT_READY, f"{self.wk} was not ready in time")
            return self._next_worker(now, "not ready in time")
        if self.phase is Phase.SEEKING:
            return self._offer_next(now, "retry")
        return []

    # -- offers (R1) -----------------------------------------------------------------------------------------

    def _offer_next(self, now: float, cause: Cause) -> list[Action]:
        wk = None
        if self.answered_at is not None or self._attempts < self._config.first_attempts:
            wk = self._roster.pick(self._excluded)
        if wk is None:
            return self._nobody(now)
        self._attempts += 1
        self._is_ready_early = False
        self.epoch += 1
        self.wk = wk
        self.phase = Phase.OFFERING
        self._deadline = now + OFFER_TIMEOUT_S
        self._roster.offered(wk)
        return [SendOffer(wk, self.epoch, cause), WriteEntry()]

    def _nobody(self, now: float) -> list[Action]:
        self.wk = None
        said_no = self._failure is not None  # a worker told why: that is evidence on any link
        if not said_no and not self._roster.is_sound(now) and now < self.started_at + SETUP_PATIENCE_S:
            self._attempts = 0  # R3: without a sound link nobody's silence counts, set-up included
        elif self.answered_at is None:
            failure = self._failure or Termination.of(Reason.NO_WORKER, "no AI worker is free")
            return self.end(failure, now)
        elif now >= self._seek_until:
            failure = self._failure or Termination.of(Reason.WORKER_LOST, "no worker could take the call over")
            return self.end(failure, now)
        self._excluded.clear()  # the caller waits: whoever comes back is welcome
        self.phase = Phase.SEEKING
        self._deadline = now + SEEK_RETRY_S
        return [WriteEntry()]

    def _next_worker(self, now: float, why: str) -> list[Action]:
        """The worker that was asked or had accepted does not serve: take the call back, ask the next."""
        assert self.wk is not None
        wk, was_claimed = self.wk, self.phase is Phase.CLAIMED
        self._excluded.add(wk)
        actions: list[Action] = [SendRelease(wk, self.epoch)]
        if was_claimed:
            played = self.played_by_epoch[self.epoch] = self._played()
            actions += [StopUplink(), Lost(wk, self.epoch, "failed", why, played)]
        return actions + self._offer_next(now, "retry" if self.dead is None else "failover")

    def offer_answered(self, wk: str, epoch: int, accepted: bool, reason: str, now: float) -> list[Action]:
        """A worker replied. Only the present epoch's acceptance is a claim; a late one is released."""
        if self.phase is not Phase.OFFERING or epoch != self.epoch or wk != self.wk:
            is_owner = self.phase in (Phase.CLAIMED, Phase.TALKING) and (wk, epoch) == (self.wk, self.epoch)
            return [SendRelease(wk, epoch)] if accepted and not is_owner else []
        if not accepted:
            self._excluded.add(wk)
            return self._offer_next(now, "retry" if self.dead is None else "failover")
        self.phase = Phase.CLAIMED
        self._claimed_at = now
        self._deadline = now + self._config.ready_timeout_s
        claimed: list[Action] = [Claimed(wk, epoch), StartMedia(wk, epoch), WriteEntry()]
        return claimed + self._ready(now)[1] if self._is_ready_early else claimed

    def offer_failed(self, wk: str, epoch: int, why: str, now: float) -> list[Action]:
        """The request had no responder, or no answer in time."""
        if self.phase is not Phase.OFFERING or epoch != self.epoch or wk != self.wk:
            return []
        return self._next_worker(now, why)

    # -- the worker is lost (R3, R5), hands over (R9) ----------------------------------------------------------

    def worker_gone(self, gone: Gone, now: float) -> list[Action]:
        """The roster judged a worker dead."""
        if gone.wk != self.wk or self.phase is Phase.ENDED:
            return []
        return self._replace(gone.cause, f"worker {gone.cause}", now)

    def disowned(self, wk: str, now: float) -> list[Action]:
        """The worker lives, and its list of calls does not name this one: its session ended without a word."""
        if wk != self.wk or self.phase not in (Phase.CLAIMED, Phase.TALKING):
            return []
        if now - self._claimed_at < DISOWN_AFTER_S:
            return []
        return self._replace("released", "the worker does not list the call", now)

    def _replace(
        self, cause: Literal["gone", "silent", "failed", "released", "drain"], detail: str, now: float
    ) -> list[Action]:
        assert self.wk is not None
        wk, epoch = self.wk, self.epoch
        release = SendRelease(wk, epoch)
        self._excluded = {wk} if self.answered_at is not None else self._excluded | {wk}
        if self.phase is Phase.OFFERING:
            return [release, *self._offer_next(now, "retry" if self.dead is None else "failover")]
        played = self.played_by_epoch[epoch] = self._played()
        actions: list[Action] = [release, StopUplink(), Lost(wk, epoch, cause, detail, played)]
        if self.answered_at is not None:
            if self.phase is Phase.TALKING:
                self._seek_until = now + self._config.seek_limit_s
            self.dead = Dead(wk, epoch, "drain" if cause == "drain" else "failover")
            actions.append(SetFiller(True))
        return actions + self._offer_next(now, "drain" if cause == "drain" else "failover")

    # -- commands (R7) -------------------------------------------------------------------------------------------

    def command(self, command: LegCommand, now: float) -> tuple[CommandReply, list[Action]]:
        """Do what is asked, or say in one sentence why not."""
        if self.phase is Phase.ENDED:
            return _refuse("the call has ended"), []
        if command.epoch is None:
            if isinstance(command, Ready | Failed | HandOver):
                return _refuse(f"'{command.kind}' is a worker's word and needs its epoch"), []
        elif command.epoch != self.epoch or self.wk is None:  # without an owner every epoch so far is fenced
            return _refuse(f"epoch {command.epoch} is not the call's present one ({self.epoch})"), []
        match command:
            case Ready():
                return self._ready(now)
            case Failed():
                return self._failed(command, now)
            case HandOver():
                return self._hand_over(now)
            case HangUp():
                return _DONE, self.end(Termination.of(command.reason, command.detail), now)
            case Mute():
                self.muted = command.muted
                return _DONE, [SetMuted(command.muted), TellAgent(), WriteEntry()]
            case Transfer() | SendDtmf() | Hold() | Say() | Record() | TakeOver() | Accept() | Decline() | Describe():
                return _refuse(f"'{command.kind}' is not available in this version of the gateway"), []
            case _:
                assert_never(command)

    def _ready(self, now: float) -> tuple[CommandReply, list[Action]]:
        if self.phase is Phase.TALKING:
            return _DONE, []  # the worker repeated itself: our first reply was lost
        if self.phase is Phase.OFFERING:  # it overtook the acceptance, which travels another way through the client
            self._is_ready_early = True
            return _DONE, []
        if self.phase is not Phase.CLAIMED:
            return _refuse(f"the call is {self.phase}, not claimed"), []
        self.phase = Phase.TALKING
        self._talking_since = now
        self._deadline = None
        self._failure = None
        self._seek_until = float("inf")
        if self.answered_at is not None:
            return _DONE, [SetFiller(False), WriteEntry()]
        self.answered_at = now
        return _DONE, [Answer(), WriteEntry()]

    def _failed(self, command: Failed, now: float) -> tuple[CommandReply, list[Action]]:
        if self.phase not in (Phase.OFFERING, Phase.CLAIMED, Phase.TALKING):
            return _refuse(f"the call is {self.phase}"), []
        self._failure = Termination.of(command.reason, command.detail)
        if self.phase is not Phase.TALKING:
            return _DONE, self._next_worker(now, command.detail or command.reason)
        if now - self._talking_since >= STEADY_S:
            self._failures_in_a_row = 0
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= FAILURES_IN_A_ROW:  # the model fails whoever asks it: no next worker helps
            return _DONE, self.end(self._failure, now)
        return _DONE, self._replace("failed", command.detail or command.reason, now)

    def _hand_over(self, now: float) -> tuple[CommandReply, list[Action]]:
        if self.phase is not Phase.TALKING or self.wk is None:
            return _refuse(f"the call is {self.phase}"), []
        if self._roster.pick({self.wk}) is None:
            return _refuse("no other worker is free"), []
        return _DONE, self._replace("drain", "the worker drains", now)

    # -- the end ---------------------------------------------------------------------------------------------------

    def caller_gone(self, reason: Reason, now: float, detail: str = "") -> list[Action]:
        """The caller's side ended the call (CANCEL, BYE, no ACK, silence of RTP)."""
        return self.end(Termination.of(reason, detail), now, by_caller=True)

    def end(self, termination: Termination, now: float, *, by_caller: bool = False) -> list[Action]:
        """The one end. Releases whoever has the call, tells the caller's side unless it knows."""
        if self.phase is Phase.ENDED:
            return []
        actions: list[Action] = []
        if self.phase in (Phase.OFFERING, Phase.CLAIMED, Phase.TALKING) and self.wk is not None:
            actions.append(SendRelease(self.wk, self.epoch, termination.reason))
        duration_s = 0.0 if self.phase is Phase.NEW else now - self.started_at
        self.phase = Phase.ENDED
        self.termination = termination
        self._deadline = None
        if not by_caller:
            if self.answered_at is not None:
                actions.append(HangUpCaller(termination))
            else:
                actions.append(Reject(self._config.fallback_status, termination))
        talk_s = 0.0 if self.answered_at is None else now - self.answered_at
        return [*actions, EndMedia(), PublishEnded(termination, duration_s, talk_s), DropEntry()]


_DONE = CommandReply(ok=True)


def _refuse(why: str) -> CommandReply:
    return CommandReply(ok=False, error=why)
