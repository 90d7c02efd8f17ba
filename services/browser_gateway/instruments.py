"""The metrics that only this gateway has; `libs.call_leg.instruments` has those of calls and their audio."""

from __future__ import annotations

from libs.runtime.metrics import counter, gauge, matching

WEB = counter(
    "callbus_browser_events_total",
    "Pages, calls, take-overs, tokens and refusals",
    event=matching("[a-z][a-z_]*", "`calls`, `minted`, `redeemed`, `taken_over`, `refused_REASON` and others"),
)
TAKEN = gauge("callbus_calls_taken_over", "Calls that persons at pages of this gateway have taken over")
