"""Where a call stands. `libs.call_leg.leg` draws the way from one phase to the next."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """One at a time; `NEW` before the call's set-up, `ENDED` for good."""

    NEW = "new"
    WAITING = "waiting"
    OFFERING = "offering"
    CLAIMED = "claimed"
    RINGING = "ringing"
    TALKING = "talking"
    SEEKING = "seeking"
    BRIDGED = "bridged"
    ENDED = "ended"


OWNED = (Phase.CLAIMED, Phase.RINGING, Phase.TALKING)  # a worker has accepted, or a person has the call
SEARCHING = (Phase.SEEKING, Phase.OFFERING, Phase.CLAIMED)  # no worker is ready for the call
