"""Which backend serves an agent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from libs.contracts.offer import Offer
from services.ai_session.backends.port import Capabilities, Emit, SpeechBackend
from services.ai_session.backends.scripted import EchoBackend, TalkBackend


class UnsupportedAgentError(ValueError):
    """The agent asks for a backend, or a mode of one, that this worker does not have."""


@dataclass(frozen=True, slots=True)
class BackendPlan:
    """Decided when an offer arrives; `make` builds a fresh backend for each connection."""

    capabilities: Capabilities
    make: Callable[[Emit], SpeechBackend]
    session_max_s: float | None = None  # how long one connection may last; None: as long as the call
    limit: str = ""  # whose rate limit its responses meet: all calls of the same name share it


PlanBackend = Callable[[Offer], BackendPlan]


def plan_scripted(offer: Offer) -> BackendPlan:
    """The deterministic backend.

    Raises:
        UnsupportedAgentError: `backend_options.mode` is neither echo nor talk.
    """
    options = offer.agent.backend_options
    rate_hz = offer.state.rate_hz
    match options.get("mode", "talk"):
        case "echo":
            return BackendPlan(EchoBackend.capabilities, EchoBackend)
        case "talk":
            return BackendPlan(TalkBackend.capabilities, lambda emit: TalkBackend(options, rate_hz, emit))
        case other:
            raise UnsupportedAgentError(f"backend_options.mode {other!r} is not known: use echo or talk")
