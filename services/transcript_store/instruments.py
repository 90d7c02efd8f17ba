"""The metrics of the transcript store: how far it is behind the stream, and what it ends."""

from __future__ import annotations

from libs.runtime.metrics import counter, gauge, histogram, matching, one_of

BEHIND_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0)
WRITE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

EVENTS = counter(
    "callbus_store_events_total",
    "Events by what became of them",
    end=one_of("stored", "repeated", "not_understood", "mismatched", "refused", "given_up"),
)
TROUBLES = counter(
    "callbus_store_troubles_total",
    "Batches that the database did not take, and bindings to the stream that were lost",
    kind=one_of("database_failed", "rebound"),
)
REDELIVERIES = counter("callbus_store_redeliveries_total", "Events that came again because they were not acknowledged")
PENDING = gauge("callbus_store_pending_events", "Events in the stream that have not been delivered to the store")
UNACKNOWLEDGED = gauge("callbus_store_unacknowledged_events", "Events that were delivered and are not in the store yet")
BEHIND = histogram(
    "callbus_store_lag_seconds", "From an event's arrival in the stream until it is in the database", BEHIND_S
)
WRITE = histogram("callbus_store_write_seconds", "What a batch of events takes in the database", WRITE_S)
OPEN = gauge("callbus_store_open_calls", "Conversations without an end")
JANITOR = counter(
    "callbus_janitor_calls_total",
    "Calls that were ended because nobody owned them (`superseded`: they had ended already)",
    outcome=one_of("gateway_lost", "lost", "superseded", "malformed_heartbeat"),
)
QUERIES = counter(
    "callbus_store_queries_total", "Queries by verb", verb=matching("[a-z_]+", "the verbs in docs/bus.md")
)
