"""The four transactions of SIP (RFC 3261 §17, RFC 6026), one table each.

Theory of operation. A transaction hides loss: it repeats what it sent until the other side has plainly seen it, and
answers repeats of what it received without troubling the layer above. Each machine below is a table of
(state, input) -> next state; an input that is not in the table raises `SipStateError` and changes nothing. Entering a
state sets its two timers: `repeat` (A, E, G: the last message again, the interval doubling) and `give_up` (B, D, F, H,
I, J, K, L, M: the state ends). `deadline` is the earlier one; `expire(now)` runs what is due. Time only comes in as
`now`. A 2xx to INVITE and its ACK are outside: they belong to the dialog (§13.3.1.4), so ACCEPTED only absorbs.

Over TCP and TLS nothing is lost on the way: A, E and G do not run, and D, I, J and K are zero, so that a state which
only waits for repeats is left at once.

    server INVITE       PROCEEDING -1xx-> PROCEEDING -2xx-> ACCEPTED -L-> TERMINATED
                        PROCEEDING -3xx..6xx-> COMPLETED(G) -ACK-> CONFIRMED -I-> TERMINATED;  COMPLETED -H-> TERMINATED
    server non-INVITE   TRYING -final-> COMPLETED -J-> TERMINATED
    client INVITE       CALLING(A) -1xx-> PROCEEDING -2xx-> ACCEPTED -M-> TERMINATED
                        CALLING, PROCEEDING -3xx..6xx-> COMPLETED -D-> TERMINATED;  CALLING -B-> TERMINATED
    client non-INVITE   TRYING(E) -1xx-> PROCEEDING(E=T2) -final-> COMPLETED -K-> TERMINATED;  -F-> TERMINATED
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from libs.sip.dialog import SentRequest
from libs.sip.errors import SipStateError
from libs.sip.message import serialize
from libs.sip.sdp import SessionDescription


class State(Enum):
    CALLING = "calling"
    TRYING = "trying"
    PROCEEDING = "proceeding"
    ACCEPTED = "accepted"
    COMPLETED = "completed"
    CONFIRMED = "confirmed"
    TERMINATED = "terminated"


class Input(Enum):
    REQUEST = "request received again"
    ACK = "ACK"
    PROVISIONAL = "1xx"
    SUCCESS = "2xx"
    FAILURE = "3xx to 6xx"
    GIVE_UP = "give-up timer"


Table = Mapping[tuple[State, Input], State]

SERVER_INVITE: Table = {
    (State.PROCEEDING, Input.REQUEST): State.PROCEEDING,
    (State.PROCEEDING, Input.PROVISIONAL): State.PROCEEDING,
    (State.PROCEEDING, Input.SUCCESS): State.ACCEPTED,
    (State.PROCEEDING, Input.FAILURE): State.COMPLETED,
    (State.COMPLETED, Input.REQUEST): State.COMPLETED,
    (State.COMPLETED, Input.ACK): State.CONFIRMED,
    (State.COMPLETED, Input.GIVE_UP): State.TERMINATED,
    (State.CONFIRMED, Input.REQUEST): State.CONFIRMED,
    (State.CONFIRMED, Input.ACK): State.CONFIRMED,
    (State.CONFIRMED, Input.GIVE_UP): State.TERMINATED,
    (State.ACCEPTED, Input.REQUEST): State.ACCEPTED,
    (State.ACCEPTED, Input.ACK): State.ACCEPTED,
    (State.ACCEPTED, Input.GIVE_UP): State.TERMINATED,
}

SERVER_NON_INVITE: Table = {
    (State.TRYING, Input.REQUEST): State.TRYING,
    (State.TRYING, Input.SUCCESS): State.COMPLETED,
    (State.TRYING, Input.FAILURE): State.COMPLETED,
    (State.COMPLETED, Input.REQUEST): State.COMPLETED,
    (State.COMPLETED, Input.GIVE_UP): State.TERMINATED,
}

CLIENT_INVITE: Table = {
    (State.CALLING, Input.PROVISIONAL): State.PROCEEDING,
    (State.CALLING, Input.SUCCESS): State.ACCEPTED,
    (State.CALLING, Input.FAILURE): State.COMPLETED,
    (State.CALLING, Input.GIVE_UP): State.TERMINATED,
    (State.PROCEEDING, Input.PROVISIONAL): State.PROCEEDING,
    (State.PROCEEDING, Input.SUCCESS): State.ACCEPTED,
    (State.PROCEEDING, Input.FAILURE): State.COMPLETED,
    # RFC 3261 §9.1: 64*T1 after a CANCEL the client considers the INVITE cancelled
    (State.PROCEEDING, Input.GIVE_UP): State.TERMINATED,
    (State.ACCEPTED, Input.SUCCESS): State.ACCEPTED,
    (State.ACCEPTED, Input.GIVE_UP): State.TERMINATED,
    (State.COMPLETED, Input.FAILURE): State.COMPLETED,
    (State.COMPLETED, Input.GIVE_UP): State.TERMINATED,
}

CLIENT_NON_INVITE: Table = {
    (State.TRYING, Input.PROVISIONAL): State.PROCEEDING,
    (State.TRYING, Input.SUCCESS): State.COMPLETED,
    (State.TRYING, Input.FAILURE): State.COMPLETED,
    (State.TRYING, Input.GIVE_UP): State.TERMINATED,
    (State.PROCEEDING, Input.PROVISIONAL): State.PROCEEDING,
    (State.PROCEEDING, Input.SUCCESS): State.COMPLETED,
    (State.PROCEEDING, Input.FAILURE): State.COMPLETED,
    (State.PROCEEDING, Input.GIVE_UP): State.TERMINATED,
    (State.COMPLETED, Input.GIVE_UP): State.TERMINATED,
}


@dataclass(frozen=True, slots=True)
class TimerValues:
    """T1, T2, T4 of RFC 3261 table 4, in seconds, and whether the transport repeats what is lost by itself."""

    t1_s: float = 0.5
    t2_s: float = 4.0
    t4_s: float = 5.0
    is_reliable: bool = False

    @property
    def patience_s(self) -> float:
        """64*T1: timers B, F, H, J, L, M."""
        return 64 * self.t1_s


@dataclass(frozen=True, slots=True)
class Expiry:
    """What `expire` found: bytes to send again, and whether the other side never answered."""

    resend: bytes | None = None
    timed_out: bool = False


def input_of(status: int) -> Input:
    """The table input that a response status stands for."""
    if status < 200:
        return Input.PROVISIONAL
    return Input.SUCCESS if status < 300 else Input.FAILURE


@dataclass(frozen=True, slots=True)
class InviteHead:
    """What an INVITE has in common with its CANCEL and with the ACK to a 3xx..6xx (RFC 3261 §9.1, §17.1.1.3)."""

    request_uri: str
    routes: Sequence[str]
    via: str
    from_: str
    to: str
    call_id: str
    cseq: int

    def follow_up(self, method: str, to: str) -> bytes:
        """CANCEL or ACK on the branch of the INVITE."""
        lines = [("Via", self.via), ("Max-Forwards", "70"), *(("Route", route) for route in self.routes)]
        lines += [("From", self.from_), ("To", to), ("Call-ID", self.call_id), ("CSeq", f"{self.cseq} {method}")]
        return serialize(f"{method} {self.request_uri} SIP/2.0", lines)


class Transaction:
    """State, two timers and the last message of one transaction; the four kinds differ by table and timer setting."""

    table: Table

    def __init__(self, state: State, timers: TimerValues, destination: tuple[str, int]) -> None:
        self.state = state
        self.destination = destination
        self.dialog = ""
        self.registration = ""
        self.sent: SentRequest | None = None
        self.merge_key: tuple[str, ...] = ()
        # where responses go when the connection of the request is gone (§18.2.2); None for requests of ours
        self.return_address: tuple[str, int] | None = None
        self._timers = timers
        self._message: bytes | None = None
        self._interval_s = 0.0
        self._repeat_at: float | None = None
        self._give_up_at: float | None = None

    def accepts(self, status: int) -> bool:
        """True when a response with this status is legal in this state; others are late or repeated."""
        return (self.state, input_of(status)) in self.table

    @property
    def message(self) -> bytes | None:
        """What was sent last: the request, or our latest response."""
        return self._message

    def deadline(self) -> float | None:
        """The earlier of the two timers."""
        if self._repeat_at is None:
            return self._give_up_at
        if self._give_up_at is None:
            return self._repeat_at
        return min(self._repeat_at, self._give_up_at)

    def expire(self, now: float) -> Expiry:
        """Run the timers that are due."""
        if self._give_up_at is not None and self._give_up_at <= now:
            unanswered = self.state in (State.CALLING, State.TRYING, State.PROCEEDING) or (
                self.state is State.COMPLETED and self.table is SERVER_INVITE
            )
            self._enter(Input.GIVE_UP, now)
            return Expiry(timed_out=unanswered)
        if self._repeat_at is not None and self._repeat_at <= now:
            self._interval_s = self._next_interval_s()
            self._repeat_at = now + self._interval_s
            return Expiry(resend=self._message)
        return Expiry()

    def _enter(self, received: Input, now: float) -> bool:
        """Follow the table; True when the state changed, in which case both timers are stopped."""
        following = self.table.get((self.state, received))
        if following is None:
            raise SipStateError(f"{type(self).__name__} in state {self.state.value} cannot take {received.value}")
        changed = following is not self.state
        if changed:
            self.state = following
            self._repeat_at = self._give_up_at = None
        return changed

    def _repeat(self, now: float, interval_s: float) -> None:
        """Timers A, E, G: not over a reliable transport."""
        if not self._timers.is_reliable:
            self._interval_s = interval_s
            self._repeat_at = now + interval_s

    def _absorb(self, now: float, seconds: float) -> None:
        """Timers D, I, J, K, which only wait for repeats: zero over a reliable transport."""
        if self._timers.is_reliable:
            self._enter(Input.GIVE_UP, now)
        else:
            self._give_up_at = now + seconds

    def _next_interval_s(self) -> float:
        return min(2 * self._interval_s, self._timers.t2_s)


class ServerInvite(Transaction):
    """RFC 3261 §17.2.1 with the ACCEPTED state of RFC 6026 §7.1."""

    table = SERVER_INVITE

    def __init__(self, timers: TimerValues, destination: tuple[str, int]) -> None:
        super().__init__(State.PROCEEDING, timers, destination)

    def respond(self, status: int, message: bytes, now: float) -> bytes:
        """Take a response from above; gives the bytes to send now."""
        self._enter(input_of(status), now)
        self._message = message
        if self.state is State.COMPLETED:
            self._repeat(now, self._timers.t1_s)  # timer G
            self._give_up_at = now + self._timers.patience_s  # timer H
        elif self.state is State.ACCEPTED:
            self._give_up_at = now + self._timers.patience_s  # timer L
        return message

    def repeated(self, now: float) -> bytes | None:
        """The INVITE came again: the last response again, but none after the ACK.

        RFC 6026 §7.1 stays silent in ACCEPTED and leaves the 2xx to its own timer. We replay it: the peer repeats its
        INVITE because it has not seen the 2xx, and waiting for the timer only delays the call.
        """
        self._enter(Input.REQUEST, now)
        return self._message if self.state is not State.CONFIRMED else None

    def acknowledged(self, now: float) -> None:
        """ACK to a 3xx..6xx."""
        if self._enter(Input.ACK, now):
            self._absorb(now, self._timers.t4_s)  # timer I

    def forget_response(self) -> None:
        """The ACK to our 2xx arrived: a stray repeat of the INVITE gets no answer any more."""
        self._message = None


class ServerNonInvite(Transaction):
    """RFC 3261 §17.2.2; we answer at once, so TRYING lasts for one call of the user agent."""

    table = SERVER_NON_INVITE

    def __init__(self, timers: TimerValues, destination: tuple[str, int]) -> None:
        super().__init__(State.TRYING, timers, destination)

    def respond(self, status: int, message: bytes, now: float) -> bytes:
        """Take the final response from above; gives the bytes to send now."""
        self._enter(input_of(status), now)
        self._message = message
        self._absorb(now, self._timers.patience_s)  # timer J
        return message

    def repeated(self, now: float) -> bytes | None:
        """The request came again: the same response again."""
        self._enter(Input.REQUEST, now)
        return self._message


class ClientInvite(Transaction):
    """RFC 3261 §17.1.1 with the ACCEPTED state of RFC 6026 §7.2."""

    table = CLIENT_INVITE

    def __init__(
        self, timers: TimerValues, destination: tuple[str, int], request: bytes, now: float,
        head: InviteHead, offer: SessionDescription | None = None,
    ) -> None:  # fmt: skip
        super().__init__(State.CALLING, timers, destination)
        self.head = head
        self.offer = offer
        # by To tag: the ACK that every repeat of that 2xx gets again (§13.2.2.4), and where it goes
        self.success_acks: dict[str, tuple[bytes, tuple[str, int]]] = {}
        self._message = request
        self._repeat(now, timers.t1_s)  # timer A
        self._give_up_at = now + timers.patience_s  # timer B

    def received(self, status: int, now: float) -> bool:
        """Take a response; True when its state is new to the layer above (a repeat of a 3xx..6xx is not)."""
        changed = self._enter(input_of(status), now)
        if changed and self.state is State.ACCEPTED:
            self._give_up_at = now + self._timers.patience_s  # timer M
        elif changed and self.state is State.COMPLETED:
            self._absorb(now, max(32.0, self._timers.patience_s))  # timer D: at least 32 s over UDP
        return changed or self.state in (State.PROCEEDING, State.ACCEPTED)

    def cancelled(self, now: float) -> None:
        """A CANCEL was sent: wait 64*T1 for the final response, not for ever (§9.1)."""
        self._give_up_at = now + self._timers.patience_s

    def _next_interval_s(self) -> float:
        return 2 * self._interval_s  # timer A doubles without the bound T2


class ClientNonInvite(Transaction):
    """RFC 3261 §17.1.2."""

    table = CLIENT_NON_INVITE

    def __init__(self, timers: TimerValues, destination: tuple[str, int], request: bytes, now: float) -> None:
        super().__init__(State.TRYING, timers, destination)
        self._message = request
        self._repeat(now, timers.t1_s)  # timer E
        self._give_up_at = now + timers.patience_s  # timer F

    def received(self, status: int, now: float) -> bool:
        """Take a response; True when it is the first final one."""
        give_up_at = self._give_up_at
        changed = self._enter(input_of(status), now)
        if changed and self.state is State.PROCEEDING:
            self._give_up_at = give_up_at  # timer F runs on
            self._repeat(now, self._timers.t2_s)
        elif changed:
            self._absorb(now, self._timers.t4_s)  # timer K
        return changed and self.state is not State.PROCEEDING
