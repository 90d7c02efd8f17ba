"""One call: what surrounded it. A call has a record of its own; here are the two processes that had it."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana.dashboards.panels import fill, frame, graph, processes, row, words

WHY = """
**No metric has a call's id**: every call would be a time series of its own. What happened *in* a call is in its record:
`callbus show CALL` tells its turns with their latency, tools, troubles and end; `callbus play CALL` lets you hear it,
`callbus tap CALL` while it lasts; `callbus show last --failed` finds the last one that went wrong. Here is what
surrounded it: choose the gateway and the worker that had it (`gw` and `workers` in `callbus show CALL --json`), and the
minutes.
"""


def build() -> Dashboard:
    """The dashboard."""
    gateway, worker = 'instance=~"$gateway_at"', 'instance=~"$worker_at"'
    page = frame("one-call", "one call", "A gateway and a worker, in the minutes of one call.").time("now-15m", "now")
    for variable in (*processes("gateway", "Gateway", ".+_gateway"), *processes("worker", "Worker", "ai_session")):
        page.with_variable(variable)
    return fill(
        page,
        words(WHY.strip()),
        row("Gateway"),
        graph(
            "Calls there",
            "Was it alone?",
            (f'sum by (state) (callbus_calls{{{gateway}, state!="ended"}})', "{{state}}"),
            stacked=True,
        ),
        graph(
            "What went wrong with its frames",
            "Of 20 ms, per second: `underrun` is how often the agent's voice ran dry before its end.",
            (
                f'sum by (direction, event) (rate(callbus_frames_total{{{gateway}, event=~"concealed|filled|dropped|'
                'fenced|stale|malformed|underrun|trimmed|discarded"}[$__rate_interval]))',
                "{{direction}} {{event}}",
            ),
        ),
        graph(
            "Its RTP",
            "Packets per second that were lost, late, twice there, foreign or malformed.",
            (
                f'sum by (event) (rate(callbus_rtp_packets_total{{{gateway}, event!~"received|sent"}}'
                "[$__rate_interval]))",
                "{{event}}",
            ),
        ),
        graph(
            "How late its clock ran (p99)",
            "From 20 ms on it is heard.",
            (f"instance:callbus_ticker_lateness_seconds:p99_5m{{{gateway}}}", "ticker {{instance}}"),
            (f"instance:callbus_event_loop_lag_seconds:p99_5m{{{gateway}}}", "event loop {{instance}}"),
            unit="s",
        ),
        graph(
            "Frames that wait to be played",
            "In all calls, and in the one with most of them. A model is faster than speech: many are usual.",
            (f"sum(callbus_playout_waiting_frames{{{gateway}}})", "all"),
            (f"max(callbus_playout_deepest_frames{{{gateway}}})", "deepest"),
        ),
        graph(
            "Bus, one way (p99)",
            "",
            (f"instance:callbus_bus_one_way_seconds:p99_5m{{{gateway}}}", "{{instance}}"),
            unit="s",
        ),
        row("Worker"),
        graph(
            "Calls there",
            "And what it would serve.",
            (f"sum by (instance) (callbus_worker_sessions{{{worker}}})", "{{instance}}"),
            (f"sum by (instance) (callbus_worker_capacity{{{worker}}})", "places {{instance}}"),
        ),
        graph(
            "Turns there (mean)",
            "By part.",
            (
                f"sum by (stage) (rate(callbus_turn_stage_seconds_sum{{{worker}}}[5m]))"
                f" / (sum by (stage) (rate(callbus_turn_stage_seconds_count{{{worker}}}[5m])) > 0)",
                "{{stage}}",
            ),
            unit="s",
        ),
        graph(
            "Troubles with models",
            "Within five minutes; `fatal` ones ended a call.",
            (
                f"sum by (code, fatal) (increase(callbus_session_troubles_total{{{worker}}}[5m]))",
                "{{code}} fatal={{fatal}}",
            ),
        ),
        graph(
            "Its frames",
            "Per second.",
            (
                f"sum by (direction, event) (rate(callbus_worker_frames_total{{{worker}}}[$__rate_interval]))",
                "{{direction}} {{event}}",
            ),
        ),
        graph(
            "How late it ran (p99)",
            "",
            (f"instance:callbus_event_loop_lag_seconds:p99_5m{{{worker}}}", "event loop {{instance}}"),
            unit="s",
        ),
        graph(
            "Frames that wait for a model",
            "While a connection is being opened.",
            (f"sum(callbus_worker_ring_frames{{{worker}}})", "frames"),
        ),
    )
