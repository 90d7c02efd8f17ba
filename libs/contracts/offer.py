"""A call offered to one worker by name, and taken from it: the claim of R1, with the state of R8."""

from __future__ import annotations

from typing import Literal

from libs.contracts.agent import AgentConfig
from libs.contracts.model import Message
from libs.contracts.termination import Reason


class CallState(Message):
    """What a worker must know of the leg to serve it, first or after a failover (R8)."""

    codec: Literal["PCMU", "PCMA", "G722", "L16"] = "PCMU"
    rate_hz: int = 8000
    answered: bool = True  # an outbound call rings first; until this is true nobody hears the agent, nor it them
    held: bool = False
    muted: bool = False
    recording: bool = False
    watched: bool = False  # somebody follows the call live: partial transcripts are wanted
    transfer: Literal["none", "pending", "done", "failed"] = "none"


class Resume(Message):
    """Set on every offer after a first one that was answered: whom the worker replaces, and how far it got."""

    cause: Literal["failover", "drain"]
    previous_wk: str
    previous_epoch: int
    played: dict[int, int] = {}  # samples that RTP carried, by epoch; what began below was heard
    talk_ms: float = 0


class Offer(Message):
    """Take this call. The agent's document travels along: no worker can hold an older version than the offer's."""

    call: str
    org: str
    gw: str
    epoch: int
    direction: Literal["inbound", "outbound"] = "inbound"
    caller: str
    callee: str
    agent: AgentConfig
    state: CallState = CallState()
    resume: Resume | None = None
    org_usd_per_day: float | None = None  # the organisation's budget


class OfferReply(Message):
    """`accepted` is the claim, for this epoch alone. A refusal names its reason."""

    accepted: bool
    wk: str
    epoch: int
    pacing: Literal["paced", "continuous"] = "paced"  # paced: the worker leads by up to 200 ms
    reason: str = ""


class Release(Message):
    """The call is not this worker's any more; sessions of `epoch` or an older one end silently."""

    call: str
    epoch: int
    reason: Reason | None = None
    played: int | None = None  # samples of this epoch that RTP has carried in the end: what was heard is known exactly
