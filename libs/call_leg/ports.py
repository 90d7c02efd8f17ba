"""What a leg needs of its entrance (SIP, Twilio, browser), and what it is told when a call arrives.

The other direction is `LegShell`. An entrance calls

 - outbound: `ringing(status, early_media)`, then `answered(codec, rate_hz)` or `refused(termination)`;
 - `caller_gone(reason, detail)` when the other side ended the call (on outbound calls `Reason.CALLEE_HUNG_UP`),
   `end(termination)` when the entrance itself must end it;
 - `dtmf(digit)`, `set_held(held)`;
 - while a transfer runs `transfer_progress(status, detail)` and once `transfer_ended(ok, status, detail)`; or, where
   the entrance can let the target hear the agent first, `transfer_reached(target)` when it answers. A bridged
   call whose target hangs up is ended with `end(Termination.of(Reason.TRANSFERRED))`.

From acceptance on, before the answer too, the entrance's tick calls `audio.fill` (R2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from libs.call_leg.audio import CallAudio
from libs.contracts.agent import AgentConfig
from libs.contracts.commands import LegCommand, Transfer
from libs.contracts.config import Fallback
from libs.contracts.media import MediaStatistics
from libs.contracts.offer import CallState
from libs.contracts.termination import Termination


class Entrance(Protocol):
    """One call's way to the caller. All verbs return at once; nothing here waits for the network."""

    audio: CallAudio

    def objection(self, command: LegCommand) -> str | None:
        """Why this entrance cannot do what is asked, in one sentence for the one who asks; None when it can.

        Asked before `dial`, `transfer`, `send_dtmf` and `hold` reach it, for these commands only.
        """

    def dial(self) -> None:
        """Outbound: the agent is ready, call the number. `LegShell.ringing`, then `answered` or `refused` follow."""

    def answer(self) -> None:
        """Inbound: the agent is ready, answer the call (SIP: 200 OK)."""

    def reject(self, fallback: Fallback, termination: Termination) -> None:
        """No agent will come: the route's fallback, or a refusal that fits the termination."""

    def hang_up(self, termination: Termination) -> None:
        """End the call: answered (SIP: BYE), or an outbound one that rings (SIP: CANCEL) or was not dialled yet."""

    def transfer(self, command: Transfer) -> Literal["refer", "bridge", "dial"]:
        """Begin a transfer and tell by which means; `LegShell.transfer_progress` and `transfer_ended` follow.

        The target is somebody's text, a model's perhaps: `objection` lets it pass the trunk's `OutboundFence` first.
        """

    def cancel_transfer(self) -> None:
        """The call ends or the agent changed its mind while a transfer runs: give up what was begun for it."""

    def send_dtmf(self, digits: str) -> None:
        """Press these keys towards the other side, one after the other."""

    def hold(self, held: bool) -> None:
        """Put the other side on hold or take it back (SIP: re-INVITE); the leg plays the waiting tone meanwhile."""

    def send_now(self) -> None:
        """A talkspurt begins: send its first frame without waiting for the tick."""

    def statistics(self) -> MediaStatistics:
        """Counters of the call so far."""


class TransferTarget(Protocol):
    """The target of a bridged transfer, which has answered and hears nobody yet."""

    def listen(self) -> None:
        """From now on the target hears the agent; the other side waits, and is not heard."""

    def join(self) -> None:
        """The target and the other side hear each other; the bus hears and says nothing."""


@dataclass(frozen=True, slots=True)
class NewCall:
    """A call as it arrived, its agent and route resolved."""

    call: str
    org: str
    entrance: Literal["sip", "twilio", "browser"]
    direction: Literal["inbound", "outbound"]
    caller: str
    callee: str
    agent: AgentConfig
    route: str | None  # None: we place the call
    fallback: Fallback
    state: CallState
    needs_person: bool = False  # `answer: manual`: rings until `accept`, `decline` or the time-out
    person_timeout_s: float = 60.0
    answer_delay_s: float = 0.0  # the answer comes no sooner after the call's arrival, whoever is ready
    ring_timeout_s: float = 60.0  # outbound; the entrance's own limit, the leg's guard stands a little behind it
