"""What a leg needs of its entrance (SIP, Twilio, browser): four verbs and its counters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from libs.call_leg.audio import CallAudio
from libs.contracts.config import AgentConfig, Fallback
from libs.contracts.events import MediaStatistics
from libs.contracts.offer import CallState
from libs.contracts.termination import Termination


class Entrance(Protocol):
    """One call's way to the caller. All verbs return at once; nothing here waits for the network."""

    audio: CallAudio

    def answer(self) -> None:
        """The agent is ready: answer the call (SIP: 200 OK)."""

    def reject(self, fallback: Fallback, termination: Termination) -> None:
        """No agent will come: the route's fallback, or a refusal that fits the termination."""

    def hang_up(self, termination: Termination) -> None:
        """End the answered call (SIP: BYE)."""

    def send_now(self) -> None:
        """A talkspurt begins: send its first frame without waiting for the tick."""

    def statistics(self) -> MediaStatistics:
        """Counters of the call so far."""


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
    route: str
    fallback: Fallback
    state: CallState
