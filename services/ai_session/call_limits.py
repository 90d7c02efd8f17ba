"""How long a call may last and what it may cost. Pure."""

from __future__ import annotations

from services.ai_session.actions import Why


class CallLimits:
    """One call's limits. `begin` starts the clock, once."""

    def __init__(self, *, max_duration_s: float, budget_usd: float | None) -> None:
        self._max_duration_s = max_duration_s
        self._budget_usd = budget_usd
        self._spent_usd = 0.0
        self._end_at: float | None = None

    def begin(self, talked_s: float, now: float) -> None:
        """The call is answered, or was taken over after `talked_s` seconds of talk."""
        if self._end_at is None:
            self._end_at = now + max(0.0, self._max_duration_s - talked_s)

    def spent(self, usd: float) -> Why | None:
        """The call cost this much more; why it has to end, if so."""
        self._spent_usd += usd
        return Why.BUDGET if self._budget_usd is not None and self._spent_usd >= self._budget_usd else None

    def tick(self, now: float) -> Why | None:
        """Time passes; why the call has to end, if so."""
        return Why.MAX_DURATION if self._end_at is not None and now >= self._end_at else None
