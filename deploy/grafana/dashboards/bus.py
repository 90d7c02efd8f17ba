"""The bus and who keeps records: NATS as the services see it, the store, the recorder."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana.dashboards.panels import distribution, fill, frame, graph, number, row


def build() -> Dashboard:
    """The dashboard."""
    return fill(
        frame("bus", "bus", "NATS as the services see it, and those who keep what happened."),
        number(
            "Links that are down",
            "Of all processes, two each.",
            "sum(1 - callbus_bus_link_up)",
            steps=[(1, "red")],
            span=6,
        ),
        number(
            "One way (p99)",
            "From process to process, five minutes, the slowest.",
            "max(instance:callbus_bus_one_way_seconds:p99_5m)",
            unit="s",
            steps=[(0.01, "orange"), (0.05, "red")],
            span=6,
        ),
        number(
            "Events not in the stream yet",
            "JetStream has not acknowledged them.",
            "sum(callbus_events_waiting)",
            steps=[(20, "orange"), (100, "red")],
            span=6,
        ),
        number(
            "Events not in the store yet",
            "Waiting in the stream, or delivered and not written.",
            "max(callbus_store_pending_events) + sum(callbus_store_unacknowledged_events)",
            steps=[(100, "orange"), (500, "red")],
            span=6,
        ),
        row("NATS"),
        distribution("One way", "Of heartbeats that come back, ten a second.", "callbus_bus_one_way_seconds"),
        graph(
            "To the server and back (p99)",
            "",
            ("job_link:callbus_bus_ping_seconds:p99_5m", "{{job}} {{link}}"),
            unit="s",
        ),
        graph(
            "Reconnects",
            "Within five minutes.",
            ("sum by (job, link) (increase(callbus_bus_reconnects_total[5m]))", "{{job}} {{link}}"),
        ),
        graph(
            "Messages",
            "Per second.",
            ("sum by (link, direction) (rate(callbus_bus_messages_total[$__rate_interval]))", "{{link}} {{direction}}"),
        ),
        graph(
            "Bytes",
            "Per second. A call is about 50 messages of 180 bytes each way.",
            ("sum by (link, direction) (rate(callbus_bus_bytes_total[$__rate_interval]))", "{{link}} {{direction}}"),
            unit="Bps",
        ),
        graph(
            "Not yet taken by the system",
            "Bytes; if it stays, the server or the network is too slow.",
            ("sum by (job, link) (callbus_bus_pending_bytes)", "{{job}} {{link}}"),
            unit="bytes",
        ),
        row("Dropped and refused"),
        graph(
            "Frames",
            "Of 20 ms, per second: for nobody, of an earlier owner, for calls that are over.",
            (
                "sum by (kind) (rate(callbus_leg_rejected_total[$__rate_interval]))",
                "gateway {{kind}}",
            ),
            (
                'sum by (event) (rate(callbus_frames_total{event=~"fenced|stale|dropped"}[$__rate_interval]))',
                "gateway {{event}}",
            ),
            (
                'sum by (event) (rate(callbus_worker_frames_total{event!~"received|sent"}[$__rate_interval]))',
                "worker {{event}}",
            ),
        ),
        graph(
            "Roster",
            "Within five minutes: workers that came and went, as gateways see it; their own stalls.",
            ("sum by (event) (increase(callbus_roster_events_total[5m]))", "{{event}}"),
        ),
        graph(
            "Errors of the clients",
            "Within five minutes. `SlowConsumerError`: NATS was faster than the process, and messages were dropped.",
            ("sum by (job, error) (increase(callbus_bus_errors_total[5m]))", "{{job}} {{error}}"),
            ("sum by (job) (increase(callbus_event_retries_total[5m]))", "{{job}} event not acknowledged"),
        ),
        row("JetStream"),
        graph(
            "Events published",
            "Per second, by what became of them.",
            ("sum by (end) (rate(callbus_events_total[$__rate_interval]))", "{{end}}"),
        ),
        graph(
            "Behind",
            "Events that wait for the store, and those that it has and did not write yet.",
            ("callbus_store_pending_events", "waiting"),
            ("callbus_store_unacknowledged_events", "not written"),
        ),
        graph(
            "Delivered again",
            "Within five minutes.",
            ("sum(increase(callbus_store_redeliveries_total[5m]))", "events"),
        ),
        row("Store and recorder"),
        distribution("From the stream to the database", "", "callbus_store_lag_seconds"),
        distribution("What a batch takes in the database", "", "callbus_store_write_seconds"),
        graph(
            "Events in the store",
            "Per second, by what became of them.",
            ("sum by (end) (rate(callbus_store_events_total[$__rate_interval]))", "{{end}}"),
        ),
        graph(
            "Recordings",
            "Within an hour; `not_stored` ones wait in the spool.",
            ("sum by (outcome) (increase(callbus_recorder_recordings_total[1h]))", "{{outcome}}"),
        ),
        graph(
            "Object store",
            "Requests per minute, of recordings and rendered speech.",
            (
                "60 * sum by (job, outcome) (rate(callbus_object_store_requests_total[$__rate_interval]))",
                "{{job}} {{outcome}}",
            ),
        ),
    )
