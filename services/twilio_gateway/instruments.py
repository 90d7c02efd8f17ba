"""The metrics that only this gateway has; `libs.call_leg.instruments` has those of calls and their audio."""

from __future__ import annotations

from libs.runtime.metrics import counter, matching

WEB = counter(
    "callbus_twilio_events_total",
    "Webhooks, streams, calls and refusals",
    event=matching("[a-z][a-z_]*", "`webhooks`, `streams`, `inbound`, `outbound`, `unsigned`, `refused` and others"),
)
STREAM = counter(
    "callbus_twilio_stream_events_total",
    "Messages, gaps, marks and clears of the media streams of ended calls",
    event=matching("[a-z][a-z_]*", "`media`, `lost`, `reordered`, `marks`, `clears`, `unsent` and others"),
)
