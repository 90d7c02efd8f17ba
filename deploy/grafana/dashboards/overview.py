"""Overview: is everybody served, and how well."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana.dashboards.panels import bars, distribution, fill, frame, graph, number, row


def build() -> Dashboard:
    """The dashboard."""
    return fill(
        frame("overview", "overview", "Calls, how they end, how quickly the agents answer, and what room is left."),
        number("Calls now", "Calls that gateways have.", 'sum(callbus_calls{state!="ended"})'),
        number(
            "Proper ends",
            "Of five minutes, without those that the caller's side ended before there was a conversation.",
            "callbus_calls_ended:success_ratio_5m",
            unit="percentunit",
            steps=[(0, "red"), (0.9, "orange"), (0.97, "green")],
        ),
        number(
            "Answer begins after (p95)",
            "From the end of the caller's turn until the answer is heard, over all backends, five minutes.",
            "max(backend:callbus_turn_latency_seconds:p95_5m)",
            unit="s",
            steps=[(1.2, "orange"), (2, "red")],
        ),
        number(
            "Places taken",
            "Calls on the workers, of what those would serve that are not draining.",
            "callbus_worker_capacity:used_ratio",
            unit="percentunit",
            steps=[(0.6, "orange"), (0.8, "red")],
        ),
        number(
            "Workers",
            "That a gateway believes alive; the lowest number of all gateways.",
            "min(callbus_workers)",
            steps=[(0, "red"), (1, "orange"), (2, "green")],
        ),
        number(
            "Alerts",
            "Firing now, without the watchdog.",
            'count(ALERTS{alertstate="firing", alertname!="CallbusWatchdog"}) or vector(0)',
            steps=[(1, "red")],
        ),
        row("Calls"),
        graph(
            "Calls by state",
            "`seeking`: lost their worker, and look for another.",
            ('sum by (state) (callbus_calls{state!="ended"})', "{{state}}"),
            stacked=True,
        ),
        graph(
            "Calls by direction and entrance",
            "",
            ('sum by (direction, entrance) (callbus_calls{state!="ended"})', "{{direction}} {{entrance}}"),
            stacked=True,
        ),
        graph(
            "Calls begun",
            "Per minute.",
            (
                "60 * sum by (direction, entrance) (rate(callbus_calls_started_total[$__rate_interval]))",
                "{{direction}} {{entrance}}",
            ),
        ),
        graph(
            "How calls end",
            "Per minute, by whose doing it was: `server` is ours, `upstream` the provider's of a model or a line.",
            ("60 * sum by (result) (rate(callbus_calls_ended_total[$__rate_interval]))", "{{result}}"),
            stacked=True,
        ),
        bars(
            "Reasons, last hour",
            "The words are those of `callbus show`.",
            ("sort_desc(sum by (reason) (increase(callbus_calls_ended_total[1h])) > 0)", "{{reason}}"),
        ),
        graph(
            "Answered after (p95)",
            "From a call's beginning to its answer.",
            ("direction:callbus_call_setup_seconds:p95_5m", "{{direction}}"),
            unit="s",
        ),
        row("Turns"),
        graph(
            "Latency of turns",
            "From the end of the caller's turn until the first of the answer is heard.",
            ("backend:callbus_turn_latency_seconds:p50_5m", "p50 {{backend}}"),
            ("backend:callbus_turn_latency_seconds:p95_5m", "p95 {{backend}}"),
            unit="s",
        ),
        graph(
            "Where it goes (p50)",
            "Quantiles do not add up: the stages of one turn are in its call's record.",
            ("stage:callbus_turn_stage_seconds:p50_5m", "{{stage}}"),
            unit="s",
            stacked=True,
        ),
        graph("Where it goes (p95)", "", ("stage:callbus_turn_stage_seconds:p95_5m", "{{stage}}"), unit="s"),
        distribution("Turns by latency", "", "callbus_turn_latency_seconds"),
        graph(
            "Interruptions",
            "Per minute. `confirmed` cut the agent off; after a `false` one it went on.",
            ("60 * sum by (verdict) (rate(callbus_barge_ins_total[$__rate_interval]))", "{{verdict}}"),
        ),
        graph(
            "Failover: calls that lost their worker",
            "Per minute, by how; the caller hears the next one within 700 ms.",
            ("60 * sum by (cause) (rate(callbus_worker_losses_total[$__rate_interval]))", "{{cause}}"),
        ),
    )
