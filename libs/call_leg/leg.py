"""One call's leg: who owns it, in which epoch, until its one end. A core without I/O.

Theory of operation.

    WAITING --accept--> OFFERING --accepted--> CLAIMED --ready--> [RINGING] --answer--> TALKING
       | decline, late     |  refused, silent    | failed, late       | worker lost        | worker lost
       v                   +----> next worker <--+                    +----> OFFERING <----+
     ENDED                                                                     | nobody there
                                                                            SEEKING --retry--> OFFERING
    TALKING --bridged transfer done--> BRIDGED
    every phase --hang-up, no worker left--> ENDED

 - WAITING only where the route wants a person's word. RINGING: a worker is ready and the other side is not there
   yet, because the answer of an inbound call is delayed, or because the number of an outbound one was dialled.
   The agent comes first, then the call (docs/adr/0007): a callee who picks up never hears dead air. A worker that is
   lost while it rings is replaced without dialling again; a callee who picks up meanwhile gets filler, as after a
   failover.

 - Every offer has a new epoch (R1), and only the present one counts: a late acceptance, a `ready` of an
   older attempt, a command of a fenced worker are refused, and the worker is told to release the call.
 - Before the answer each worker is tried once, three at most; then the route's fallback. After it the caller is on
   the line: the leg keeps seeking while filler plays, with nobody excluded but the worker that failed last. Who is
   asked next and when the search is over is `libs.call_leg.search`'s.
 - A transfer belongs to the leg (R8): a worker that dies meanwhile is fenced, and its successor is sought only when
   the transfer has failed. A bridged call has no owner; it lasts until either side hangs up.
 - A person who takes over is an owner as a worker is one, with an epoch, heartbeats and frames of its own. Only an
   agent can be muted; hold silences whoever has the call.
 - The gateway's memory is the truth (R4): nothing here waits for the key-value copy.
 - Exactly one `PublishEnded` leaves a leg, as its last act; whatever arrives later changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, assert_never

from libs.call_leg import actions as do
from libs.call_leg.actions import Action, TransferMode
from libs.call_leg.objections import InCall, objection
from libs.call_leg.phase import OWNED, SEARCHING, Phase
from libs.call_leg.roster import Gone, Roster
from libs.call_leg.search import FIRST_ATTEMPTS, SEEK_LIMIT_S, WorkerSearch
from libs.call_leg.transfer import TransferState
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
    Listen,
    Mute,
    Ready,
    Record,
    Say,
    SendDtmf,
    TakeOver,
    Transfer,
)
from libs.contracts.termination import Reason, Termination

SEEK_RETRY_S = 0.25
DISOWN_AFTER_S = 1.5  # a worker's list of calls may be older than its acceptance, but not by more
RING_GUARD_S = 5.0  # the entrance ends the ringing at its time-out; this is the leg's limit behind it
OK = 200  # SIP's, for a target that answered
OVERTIME_S = 30.0  # the worker ends the call politely at its maximum; this is the gateway's own limit behind it

Cause = Literal["first", "failover", "drain", "retry"]


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
    outbound: bool = False
    ring_timeout_s: float = 60.0
    needs_person: bool = False
    person_timeout_s: float = 60.0
    answer_delay_s: float = 0.0


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
        self.is_person = False  # the owner has taken over
        self.muted = False
        self.held = False  # by the other side
        self.held_by_us = False
        self.transfer = TransferState()
        self.dead: Dead | None = None
        self.played_by_epoch: dict[int, int] = {}
        self.started_at = 0.0
        self.answered_at: float | None = None
        self.termination: Termination | None = None
        self._search = WorkerSearch(roster, config.first_attempts, config.seek_limit_s)
        self._deadline: float | None = None
        self._talking_since = 0.0
        self._is_ready_early = False
        self._claimed_at = 0.0
        self._ring_by: float | None = None
        self._dialled = False
        self._rung: tuple[int, bool] | None = None
        self._known: tuple[object, ...] = ()  # the state that the owner was offered, or told when it was ready
        self._parked = False  # without an owner until the transfer's end

    @property
    def is_answered(self) -> bool:
        """What a session is told: from when on the two hear each other. Mostly the answer follows `ready` at once."""
        delayed = self._config.outbound or self._config.answer_delay_s > 0
        return self.answered_at is not None or not delayed

    @property
    def _told_state(self) -> tuple[object, ...]:
        """What a session must know (R8): in its offer, and as soon as something of it changes."""
        return (self.is_answered, self.held, self.held_by_us, self.muted, self.transfer.state)

    @property
    def _is_connected(self) -> bool:
        """Somebody is on the line, or is being called: no worker is the last one."""
        return self.answered_at is not None or self._dialled

    # -- life ---------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Action]:
        """The call arrived, or was asked for, and its agent is known: offer it, or wait for a person's word."""
        self.started_at = now
        self._search.set_up(now)
        if not self._config.needs_person:
            return self._offer_next(now, "first")
        self.phase = Phase.WAITING
        self._deadline = now + self._config.person_timeout_s
        return [do.PublishWaiting(self._config.person_timeout_s), do.WriteEntry()]

    def deadline(self) -> float | None:
        """When `expire` must be called, or None."""
        if self.phase is Phase.ENDED:
            return None
        limits = (self._deadline, self._overtime_at(), self._ring_by, self.transfer.deadline)
        return min((limit for limit in limits if limit is not None), default=None)

    def _overtime_at(self) -> float | None:
        if self.answered_at is None:
            return None
        return self.answered_at + self._config.max_duration_s + OVERTIME_S

    def expire(self, now: float) -> list[Action]:  # noqa: PLR0912  one clock after the other
        """Time has passed: an offer without answer, a worker that is not ready, a retry, an endless call."""
        if self.phase is Phase.ENDED:
            return []
        if (limit := self._overtime_at()) is not None and now >= limit:
            why = "nobody ended" if self.phase is Phase.BRIDGED or self.is_person else "the worker did not end"
            return self.end(Termination.of(Reason.MAX_DURATION, f"{why} the call in time"), now)
        if self._ring_by is not None and now >= self._ring_by:
            return self.end(Termination.of(Reason.CALLEE_NO_ANSWER, "nobody picked up in time"), now)
        if self.transfer.deadline is not None and now >= self.transfer.deadline:
            if self.transfer.is_announcing:
                return self._join(now)
            return [do.CancelTransfer(), *self.transfer_ended(False, None, now, "the target did not answer in time")]
        if self._deadline is None or now < self._deadline:
            return []
        match self.phase:
            case Phase.WAITING:
                why = f"nobody accepted the call within {self._config.person_timeout_s:g} s"
                return self.end(Termination.of(Reason.NOT_ACCEPTED, why), now)
            case Phase.OFFERING:
                assert self.wk is not None
                if (unread_s := self._search.unread_s(now - self._deadline)) > 0:
                    self._deadline = now + unread_s
                    return []
                self._search.silent(self.wk)
                return self._next_worker(now, "no answer to the offer")
            case Phase.CLAIMED:
                self._search.failed(Termination.of(Reason.NOT_READY, f"{self.wk} was not ready in time"))
                return self._next_worker(now, "not ready in time")
            case Phase.SEEKING:
                return self._offer_next(now, "retry")
            case Phase.RINGING:  # of an inbound call: the delay is over
                return self._answer(now)
            case _:
                return []

    # -- offers (R1) -----------------------------------------------------------------------------------------

    def _offer_next(self, now: float, cause: Cause) -> list[Action]:
        wk = self._search.next(self._is_connected)
        if wk is None:
            return self._nobody(now)
        self._is_ready_early = self.is_person = False
        self._known = self._told_state
        self.epoch += 1
        self.wk = wk
        self.phase = Phase.OFFERING
        timeout_s = self._search.offer_timeout_s
        self._deadline = now + timeout_s
        return [do.SendOffer(wk, self.epoch, cause, timeout_s), do.WriteEntry()]

    def _nobody(self, now: float) -> list[Action]:
        self.wk, self.is_person = None, False
        end = self._search.given_up(self._is_connected, self.transfer.is_pending, now)
        if end is not None:
            return self.end(end, now)
        self.phase = Phase.SEEKING
        self._deadline = now + SEEK_RETRY_S
        return [do.WriteEntry()]

    def _next_worker(self, now: float, why: str) -> list[Action]:
        """The worker that was asked or had accepted does not serve: take the call back, ask the next."""
        assert self.wk is not None
        wk, was_claimed = self.wk, self.phase in OWNED
        self._search.exclude(wk)
        self._owner_leaves(now)
        actions: list[Action] = [do.SendRelease(wk, self.epoch)]
        if was_claimed:
            played = self.played_by_epoch[self.epoch] = self._played()
            actions += [do.StopUplink(), do.Lost(wk, self.epoch, "failed", why, played)]
        return actions + self._offer_again(now)

    def _offer_again(self, now: float) -> list[Action]:
        return self._offer_next(now, "retry" if self.dead is None else "failover")

    def _owner_leaves(self, now: float) -> None:
        """One that was ready is lost, or released: the search for another one has its own time."""
        self._deadline = None
        if self.phase in (Phase.TALKING, Phase.RINGING):
            self._search.limit(now)
            self.transfer.told()

    def offer_answered(self, wk: str, epoch: int, accepted: bool, reason: str, now: float) -> list[Action]:
        """A worker replied. Only the present epoch's acceptance is a claim; a late one is released."""
        if self.phase is not Phase.OFFERING or epoch != self.epoch or wk != self.wk:
            is_owner = self.phase in OWNED and (wk, epoch) == (self.wk, self.epoch)
            return [do.SendRelease(wk, epoch)] if accepted and not is_owner else []
        if not accepted:
            self._search.exclude(wk)
            return self._offer_again(now)
        self.phase = Phase.CLAIMED
        self._claimed_at = now
        self._deadline = now + self._config.ready_timeout_s
        claimed: list[Action] = [do.Claimed(wk, epoch), do.StartMedia(wk, epoch), do.WriteEntry()]
        return claimed + self._ready(now)[1] if self._is_ready_early else claimed

    def offer_failed(self, wk: str, epoch: int, why: str, now: float, *, was_silent: bool = False) -> list[Action]:
        """The request had no responder, or no answer in time (`was_silent`)."""
        if self.phase is not Phase.OFFERING or epoch != self.epoch or wk != self.wk:
            return []
        if was_silent:
            self._search.silent(wk)
        return self._next_worker(now, why)

    # -- the worker is lost (R3, R5), hands over (R9) ----------------------------------------------------------

    def worker_gone(self, gone: Gone, now: float) -> list[Action]:
        """The roster judged a worker dead."""
        if gone.wk != self.wk or self.phase is Phase.ENDED:
            return []
        return self._replace(gone.cause, f"worker {gone.cause}", now)

    def disowned(self, wk: str, now: float) -> list[Action]:
        """The worker lives, and its list of calls does not name this one: its session ended without a word."""
        if wk != self.wk or self.phase not in OWNED:
            return []
        if now - self._claimed_at < DISOWN_AFTER_S:
            return []
        return self._replace("released", "the worker does not list the call", now)

    def _replace(
        self, cause: Literal["gone", "silent", "failed", "released", "drain"], detail: str, now: float
    ) -> list[Action]:
        assert self.wk is not None
        wk, epoch = self.wk, self.epoch
        release = do.SendRelease(wk, epoch)
        self._search.exclude(wk, alone=self._is_connected)
        if self.phase is Phase.OFFERING:
            return [release, *self._offer_again(now)]
        played = self.played_by_epoch[epoch] = self._played()
        actions: list[Action] = [release, do.StopUplink(), do.Lost(wk, epoch, cause, detail, played)]
        self._owner_leaves(now)
        if self.answered_at is not None:
            self.dead = Dead(wk, epoch, "drain" if cause == "drain" else "failover")
            actions.append(do.SetFiller(True))
            if self.transfer.is_pending:
                actions += self._park()
                return actions + self._join(now) if self.transfer.is_announcing else actions
        return actions + self._offer_next(now, "drain" if cause == "drain" else "failover")

    def _park(self) -> list[Action]:
        """R8: the call needs an agent only if its transfer fails."""
        self.phase, self.wk, self.is_person = Phase.SEEKING, None, False
        self._parked = True
        return [do.WriteEntry()]

    # -- commands (R7) -------------------------------------------------------------------------------------------

    def command(self, command: LegCommand, now: float) -> tuple[CommandReply, list[Action]]:
        """Do what is asked, or say in one sentence why not."""
        if (why_not := objection(self, command)) is not None:
            return _refuse(why_not), []
        match command:
            case Ready() | Failed() | HandOver():
                return self._owner_says(command, now)
            case HangUp():
                return _DONE, self.end(Termination.of(command.reason, command.detail), now)
            case Mute():
                return self._mute(command)
            case Accept() | Decline():
                return self._decide(command, now)
            case Transfer() | SendDtmf() | Hold() | Say() | TakeOver():
                return self._in_call(command, now)
            case Describe() | Record() | Listen():  # the shell does these
                return _DONE, []
            case _:
                assert_never(command)

    def _decide(self, command: Accept | Decline, now: float) -> tuple[CommandReply, list[Action]]:
        if isinstance(command, Decline):
            return _DONE, self.end(Termination.of(Reason.OPERATOR_DECLINED, command.detail), now)
        self._search.set_up(now)
        return _DONE, self._offer_next(now, "first")

    def _mute(self, command: Mute) -> tuple[CommandReply, list[Action]]:
        if command.muted == self.muted:
            return _DONE, []
        self.muted = command.muted
        return _DONE, [do.SetMuted(command.muted), do.TellAgent(), do.WriteEntry()]

    def _in_call(self, command: InCall, now: float) -> tuple[CommandReply, list[Action]]:
        match command:
            case SendDtmf():
                return _DONE, [do.SendDigits(command.digits)]
            case Say():
                return _DONE, [do.SayText(command.text)]
            case Hold():
                return self._hold(command)
            case Transfer():
                return _DONE, self.transfer.begin(command, now)
            case TakeOver():
                return self._take_over(command, now)
            case _:
                assert_never(command)

    def _hold(self, command: Hold) -> tuple[CommandReply, list[Action]]:
        if command.held == self.held_by_us:
            return _DONE, []
        self.held_by_us = command.held
        filler = command.held or self.phase is not Phase.TALKING
        held = do.PublishHeld(command.held, "command")
        return _DONE, [do.HoldCaller(command.held), do.SetFiller(filler), do.TellAgent(), held, do.WriteEntry()]

    def _take_over(self, command: TakeOver, now: float) -> tuple[CommandReply, list[Action]]:
        by, previous = command.by, self.wk
        if self.is_person and previous == by:
            return CommandReply(ok=True, details={"epoch": self.epoch}), []  # our first reply was lost
        if not self._roster.is_alive(by):
            return _refuse(f"no heartbeats of {by} are heard: send them, with capacity 0, before taking over"), []
        actions: list[Action] = []
        played = None
        if previous is not None:
            if self.phase in OWNED:
                played = self.played_by_epoch[self.epoch] = self._played()
            actions.append(do.SendRelease(previous, self.epoch))
        self.transfer.told()
        self.phase, self.wk, self.is_person = Phase.TALKING, by, True
        self.epoch += 1
        self._claimed_at = self._talking_since = now
        self._deadline = None
        self._search.begin_anew()
        actions += [do.TakenOver(by, self.epoch, previous, played), do.StartMedia(by, self.epoch, "continuous")]
        if self.muted:  # it was the agent who should not be heard
            self.muted = False
            actions.append(do.SetMuted(False))
        if not self.held_by_us:
            actions.append(do.SetFiller(False))
        return CommandReply(ok=True, details={"epoch": self.epoch}), [*actions, do.WriteEntry()]

    def _owner_says(self, command: Ready | Failed | HandOver, now: float) -> tuple[CommandReply, list[Action]]:
        match command:
            case Ready():
                return self._ready(now)
            case Failed():
                return self._failed(command, now)
            case HandOver():
                return self._hand_over(now)

    def _ready(self, now: float) -> tuple[CommandReply, list[Action]]:
        if self.phase in (Phase.TALKING, Phase.RINGING):
            return _DONE, []  # the worker repeated itself: our first reply was lost
        if self.phase is Phase.OFFERING:  # it overtook the acceptance, which travels another way through the client
            self._is_ready_early = True
            return _DONE, []
        if self.phase is not Phase.CLAIMED:
            return _refuse(f"the call is {self.phase}, not claimed"), []
        self._deadline = None
        self._search.found()
        if self.answered_at is not None:
            return _DONE, self._talk(now)
        answer_at = self.started_at + self._config.answer_delay_s
        if not self._config.outbound and now >= answer_at:
            return _DONE, self._answer(now)
        self.phase = Phase.RINGING
        if not self._config.outbound:
            self._deadline = answer_at
        elif not self._dialled:
            self._dialled = True
            self._ring_by = now + self._config.ring_timeout_s + RING_GUARD_S
            return _DONE, [*self._tell_news(), do.Dial(), do.WriteEntry()]
        return _DONE, [*self._tell_news(), do.WriteEntry()]

    def _talk(self, now: float) -> list[Action]:
        """A ready owner and the other side hear each other (again)."""
        self.phase = Phase.TALKING
        self._talking_since = now
        self._deadline = None
        actions: list[Action] = [] if self.held_by_us else [do.SetFiller(False)]
        return [*actions, *self._tell_news(), do.WriteEntry()]

    def _tell_news(self) -> list[Action]:
        """What changed since the offer: a session that was not ready may not have been there to hear it."""
        if self._known == self._told_state:
            return []
        self._known = self._told_state
        return [do.TellAgent()]

    def _answer(self, now: float) -> list[Action]:
        self.phase = Phase.TALKING
        self.answered_at = self._talking_since = now
        self._deadline = None
        return [do.Answer(), *self._tell_news(), do.WriteEntry()]

    def _failed(self, command: Failed, now: float) -> tuple[CommandReply, list[Action]]:
        if self.phase is not Phase.OFFERING and self.phase not in OWNED:
            return _refuse(f"the call is {self.phase}"), []
        failure = Termination.of(command.reason, command.detail)
        self._search.failed(failure)
        if self.phase is not Phase.TALKING:
            return _DONE, self._next_worker(now, command.detail or command.reason)
        if self._search.is_hopeless(now - self._talking_since) and not self.transfer.is_pending:
            return _DONE, self.end(failure, now)
        return _DONE, self._replace("failed", command.detail or command.reason, now)

    def _hand_over(self, now: float) -> tuple[CommandReply, list[Action]]:
        if self.phase not in (Phase.TALKING, Phase.RINGING) or self.wk is None:
            return _refuse(f"the call is {self.phase}"), []
        if self.transfer.is_pending:
            return _refuse("a transfer is under way: ask again after its end"), []
        if not self._search.has_another(self.wk, self._is_connected):
            return _refuse("no other worker is free"), []
        why = "the person gave the call back" if self.is_person else "the worker drains"
        return _DONE, self._replace("drain", why, now)

    # -- the other side ----------------------------------------------------------------------------------------------

    def ringing(self, status: int, early_media: bool) -> list[Action]:
        """Outbound: the callee is alerted; the same news is told once."""
        if self.phase is Phase.ENDED or not self._dialled or self.answered_at is not None:
            return []
        if (status, early_media) == self._rung:
            return []
        self._rung = (status, early_media)
        return [do.PublishRinging(status, early_media)]

    def answered(self, codec: str, rate_hz: int, now: float) -> list[Action]:
        """Outbound: the callee picked up."""
        if self.phase is Phase.ENDED or not self._dialled or self.answered_at is not None:
            return []
        self.answered_at = now
        self._ring_by = None
        if self.phase is Phase.RINGING:
            return [do.PublishAnswered(codec, rate_hz), *self._talk(now)]
        self._search.limit(now)
        return [do.PublishAnswered(codec, rate_hz), do.SetFiller(True), do.WriteEntry()]

    def remote_held(self, held: bool) -> list[Action]:
        """The other side put the call on hold, or took it back."""
        if self.phase is Phase.ENDED or held == self.held:
            return []
        self.held = held
        return [do.TellAgent(), do.PublishHeld(held, "remote")]

    # -- transfers (R8) ------------------------------------------------------------------------------------------------

    def transfer_began(self, mode: TransferMode) -> list[Action]:
        """The entrance began what `StartTransfer` asked for."""
        requested = self.transfer.began(mode)
        return [*requested, do.TellAgent(), do.WriteEntry()] if requested else []

    def transfer_progress(self, status: int, detail: str = "") -> list[Action]:
        """How the target fares."""
        return self.transfer.progress(status, detail)

    def transfer_reached(self, now: float) -> list[Action]:
        """The target of a bridged transfer has answered, and is joined after the announcement, if there is any."""
        if self.phase is Phase.ENDED or not self.transfer.is_pending or self.transfer.is_announcing:
            return []
        text = self.transfer.announcement
        has_voice = self.phase is Phase.TALKING and not self.is_person and not self.muted
        return self.transfer.announce(text, now) if text and has_voice else self._join(now)

    def announced(self, now: float) -> list[Action]:
        """The target has heard the announcement."""
        return self._join(now) if self.transfer.is_announcing else []

    def _join(self, now: float) -> list[Action]:
        return [do.JoinTarget(), *self.transfer_ended(True, OK, now)]

    def transfer_ended(self, ok: bool, status: int | None, now: float, detail: str = "") -> list[Action]:
        """The other side is with the target, or back with the agent."""
        if self.phase is Phase.ENDED or not self.transfer.is_pending:
            return []
        if ok:
            done = self.transfer.done(status, detail)
            return done + (self._bridge() if self.transfer.mode == "bridge" else self._transferred(now))
        hide: list[Action] = [do.HideRest()] if self.transfer.is_announcing else []
        failed: list[Action] = [*hide, *self.transfer.failed(status, detail), do.TellAgent(), do.WriteEntry()]
        if self.phase is not Phase.TALKING:
            self._search.limit(now)
        if not self._parked:
            return failed
        self._parked = False
        return failed + self._offer_next(now, "failover")

    def _transferred(self, now: float) -> list[Action]:
        return self.end(Termination.of(Reason.TRANSFERRED, f"to {self.transfer.target}"), now)

    def _bridge(self) -> list[Action]:
        release: list[Action] = []
        if self.wk is not None:
            release = [do.SendRelease(self.wk, self.epoch, Reason.TRANSFERRED)]
        if self.phase in OWNED:
            self.played_by_epoch[self.epoch] = self._played()
        self.phase, self.wk, self.is_person = Phase.BRIDGED, None, False
        self._parked = False
        self._deadline = None
        return [*release, do.StopUplink(), do.SetFiller(False), do.WriteEntry()]

    # -- the end ---------------------------------------------------------------------------------------------------

    def caller_gone(self, reason: Reason, now: float, detail: str = "") -> list[Action]:
        """The other side ended the call (CANCEL, BYE, no ACK, silence of RTP)."""
        if self.phase is Phase.BRIDGED and reason in (Reason.CALLER_HUNG_UP, Reason.CALLEE_HUNG_UP):
            reason = Reason.TRANSFERRED
        end, is_waiting = Termination.of(reason, detail), self.phase in SEARCHING and not self._parked
        return self.end(self._search.left(end, now) if is_waiting else end, now, by_caller=True)

    def end(self, termination: Termination, now: float, *, by_caller: bool = False) -> list[Action]:
        """The one end. Releases whoever has the call, tells the other side unless it knows."""
        if self.phase is Phase.ENDED:
            return []
        actions: list[Action] = []
        if self.transfer.is_pending:
            actions += [do.CancelTransfer(), *self.transfer.failed(None, "the call ended")]
        if self.wk is not None:
            actions.append(do.SendRelease(self.wk, self.epoch, termination.reason))
        duration_s = 0.0 if self.phase is Phase.NEW else now - self.started_at
        self.phase = Phase.ENDED
        self.termination = termination
        self._deadline = None
        if not by_caller:
            if self.answered_at is not None or self._config.outbound:
                actions.append(do.HangUpCaller(termination))
            else:
                actions.append(do.Reject(self._config.fallback_status, termination))
        talk_s = 0.0 if self.answered_at is None else now - self.answered_at
        return [*actions, do.EndMedia(), do.PublishEnded(termination, duration_s, talk_s), do.DropEntry()]


_DONE = CommandReply(ok=True)


def _refuse(why: str) -> CommandReply:
    return CommandReply(ok=False, error=why)
