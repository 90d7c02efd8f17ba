"""Admission as an entrance asks for it: the decision, and a place within the organisation's limits."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from libs.call_leg.admission import (
    Admitted,
    Arrival,
    Refused,
    admit,
    at_limit,
    beyond,
    beyond_budget,
    limits_of,
    within_budget,
)
from libs.call_leg.gateway import RefusedAttempt
from libs.call_leg.instruments import BUDGET_USED
from libs.call_leg.slot_document import Verdict
from libs.call_leg.slots import Slots
from libs.contracts.termination import Reason, Termination
from libs.runtime.spending_copy import SpendingCopy

if TYPE_CHECKING:
    from libs.call_leg.gateway import CallLegs
    from libs.runtime.bus import Bus
    from libs.runtime.config_copy import ConfigCopy

REASONS = {Verdict.FULL: Reason.AT_CAPACITY, Verdict.TOO_MANY: Reason.TOO_MANY_ATTEMPTS}


class Admission:
    """One per gateway process, shared by its entrances.

    A call that was admitted is given back with `release` when it ends, whatever became of it meanwhile. One that
    was refused needs nothing but its record.
    """

    def __init__(self, bus: Bus, legs: CallLegs, config: ConfigCopy) -> None:
        self._legs = legs
        self._config = config
        self._slots = Slots(bus, legs.gw, legs.roster.is_sound)
        self._spending = SpendingCopy(bus)
        legs.usd_per_day = self._usd_per_day
        BUDGET_USED.read_from(self._budgets_used)

    async def start(self) -> None:
        """Subscribe; before the first call."""
        await self._slots.start()

    async def run(self) -> None:
        """One task of the gateway's TaskGroup, for as long as calls last: it keeps the places of live calls."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._slots.run())
            tasks.create_task(self._spending.run())

    async def flush(self, timeout_s: float) -> None:
        """After the last call of a gateway that ends: give back its places, waiting at most so long."""
        await self._slots.flush(timeout_s)

    def decide(self, arrival: Arrival) -> Admitted | Refused:
        """The answer without waiting: final when `Refused`, or when `Admitted.limits` is None (microseconds)."""
        decided = admit(arrival, self._config, datetime.now(UTC), self._legs.refusal())
        if isinstance(decided, Refused):
            return decided
        org = self._config.organisation(decided.org)
        return within_budget(decided, org, self._spending.spent_today(decided.org))

    async def secure(self, admitted: Admitted) -> Admitted | Refused:
        """Take a place within the organisation's limits: at most 250 ms, at once when it has none."""
        if admitted.limits is None:
            return admitted
        verdict = await self._slots.take(admitted.org, admitted.call, admitted.limits)
        return admitted if verdict is Verdict.TAKEN else at_limit(admitted, REASONS[verdict])

    async def place(self, org: str, call: str) -> Termination | None:
        """The same for a call that we place: calls count, whoever begins them. None: it has its place, if it needs one.

        Given back with `release`, as for one that was admitted.
        """
        published = self._config.organisation(org)
        spent = beyond_budget(published, self._spending.spent_today(org))
        limits = limits_of(published)
        if spent is not None or limits is None:
            return spent
        verdict = await self._slots.take(org, call, limits)
        return None if verdict is Verdict.TAKEN else beyond(limits, org, REASONS[verdict])

    async def admit(self, arrival: Arrival) -> Admitted | Refused:
        """`decide`, then `secure`. Returns at once for organisations without limits, within 250 ms for others."""
        decided = self.decide(arrival)
        return decided if isinstance(decided, Refused) else await self.secure(decided)

    def _usd_per_day(self, org: str) -> float | None:
        published = self._config.organisation(org)
        return None if published is None else published.max_usd_per_day

    def _budgets_used(self) -> dict[str, float]:
        budgets = {org.name: org.max_usd_per_day for org in self._config.organisations()}
        return {name: self._spending.spent_today(name) / usd for name, usd in budgets.items() if usd}

    def release(self, org: str, call: str) -> None:
        """An admitted call has ended. Never waits and may be called twice; unknown calls are no matter."""
        self._slots.free(org, call)

    def record(self, arrival: Arrival, refused: Refused) -> None:
        """Leave the record of a refused call: `call.offered` and `call.ended`."""
        route = refused.route
        self._legs.record_refused(RefusedAttempt(
            org=refused.org, entrance=arrival.entrance, caller=refused.caller, callee=refused.callee,
            route=route.name if route else None, agent=route.agent if route else None, termination=refused.termination,
            call=refused.call,
        ))  # fmt: skip
