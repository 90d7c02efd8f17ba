"""The metrics that only this gateway has; `libs.call_leg.instruments` has those of calls and their audio."""

from __future__ import annotations

from typing import get_args

from libs.runtime.metrics import at_most, counter, gauge, matching, one_of
from services.sip_gateway.trunk_states import TrunkStateName

MOST_TRUNKS = 500

SIP = counter(
    "callbus_sip_events_total",
    "Messages, requests and refusals, and what was wrong with what came (libs/sip counts by reason)",
    event=matching("[a-z][a-z_]*|replied_[1-6][0-9]{2}", "`received`, `sent`, `invites`, `replied_STATUS` and others"),
)
TRUNK_STATE = gauge(
    "callbus_trunk_state",
    "1 for the trunk's present state",
    trunk=at_most(MOST_TRUNKS, "names of trunks in the trunks file"),
    state=one_of(*get_args(TrunkStateName)),
)
TRACE = counter(
    "callbus_sip_trace_total",
    "SIP messages of calls that were published for `callbus trace`, and those that were left out",
    outcome=one_of("told", "repeats", "beyond_limit"),
)
