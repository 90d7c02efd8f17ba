"""What all sessions of a worker share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from libs.runtime.bus import Bus
from services.ai_session.budget_shell import Budgets
from services.ai_session.journal import Outbox
from services.ai_session.rate_limit import RateLimits
from services.ai_session.tools import ToolDirectory


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The worker's half of every session."""

    bus: Bus
    outbox: Outbox
    tools: ToolDirectory
    counters: Counter[str]
    budgets: Budgets
    limits: RateLimits

    def ping_s(self) -> float | None:
        """How long the bus takes, there and back, as measured last."""
        return self.bus.ping_s
