"""Admission as an entrance asks for it: the decision, and a place within the organisation's limits."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from libs.call_leg.admission import Admitted, Arrival, Refused, admit
from libs.call_leg.gateway import RefusedAttempt

if TYPE_CHECKING:
    from libs.call_leg.gateway import CallLegs
    from libs.call_leg.slots import Slots
    from libs.runtime.config_copy import ConfigCopy


class Admission:
    """One per gateway process, shared by its entrances.

    A call that was admitted is given back with `release` when it ends, whatever became of it meanwhile. One that
    was refused needs nothing but its record.
    """

    def __init__(self, legs: CallLegs, config: ConfigCopy, slots: Slots) -> None:
        self._legs = legs
        self._config = config
        self._slots = slots
        self.counters: Counter[str] = Counter()

    def decide(self, arrival: Arrival) -> Admitted | Refused:
        """The answer without waiting: final when `Refused`, or when `Admitted.limits` is None (microseconds)."""
        return admit(arrival, self._config, datetime.now(UTC), self._legs.refusal())

    async def secure(self, admitted: Admitted) -> Admitted | Refused:
        """Take a place within the organisation's limits: at most 250 ms, at once when it has none."""
        return admitted

    async def admit(self, arrival: Arrival) -> Admitted | Refused:
        """`decide`, then `secure`. Returns at once for organisations without limits, within 250 ms for others."""
        decided = self.decide(arrival)
        return decided if isinstance(decided, Refused) else await self.secure(decided)

    def release(self, org: str, call: str) -> None:
        """An admitted call has ended. Never waits and may be called twice; unknown calls are no matter."""

    def record(self, arrival: Arrival, refused: Refused) -> None:
        """Leave the record of a refused call: `call.offered` and `call.ended`."""
        route = refused.route
        self._legs.record_refused(RefusedAttempt(
            org=refused.org, entrance=arrival.entrance, caller=refused.caller, callee=refused.callee,
            route=route.name if route else None, agent=route.agent if route else None, termination=refused.termination,
        ))  # fmt: skip
