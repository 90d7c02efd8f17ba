"""What all legs of a gateway process share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from libs.call_leg.kv_copy import CallsCopy
from libs.call_leg.roster import Roster
from libs.runtime.bus import Bus
from libs.runtime.outbox import EventOutbox


@dataclass(frozen=True, slots=True)
class LegContext:
    """The process's own: its id, its links, its view of the workers."""

    gw: str
    bus: Bus
    outbox: EventOutbox
    copy: CallsCopy
    roster: Roster
    usd_per_day: Callable[[str], float | None]  # an organisation's budget, as it is published now
