"""AI workers: room, health, and what their models do."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana.dashboards.panels import bars, distribution, fill, frame, graph, row


def build() -> Dashboard:
    """The dashboard."""
    return fill(
        frame("workers", "AI workers and capacity", "Room and health of the workers, their models and tools."),
        row("Capacity"),
        graph(
            "Calls and places",
            "",
            ("sum(callbus_worker_sessions)", "calls"),
            ("sum(callbus_worker_capacity)", "places"),
            ("sum(callbus_worker_capacity * on (job, instance) (1 - callbus_worker_draining))", "not draining"),
        ),
        graph(
            "Calls by worker",
            "Offers go to the worker with most room.",
            ("sum by (instance) (callbus_worker_sessions)", "{{instance}}"),
            stacked=True,
        ),
        graph(
            "Offers",
            "Per minute, by the worker's answer.",
            ("60 * sum by (answer) (rate(callbus_worker_offers_total[$__rate_interval]))", "{{answer}}"),
        ),
        distribution("Time to a worker's answer", "Of gateways' offers.", "callbus_offer_seconds"),
        distribution("From a call to its worker", "All causes: first, failover, drain.", "callbus_claim_seconds"),
        distribution(
            "From a worker's loss until the next one is heard",
            "A failover is to be over within 700 ms.",
            'callbus_reclaim_seconds{cause=~"gone|silent|failed"}',
        ),
        row("Health"),
        graph(
            "Event loop, how late (p99)",
            "From 350 ms on the others judge a worker dead.",
            ('instance:callbus_event_loop_lag_seconds:p99_5m{job="ai_session"}', "{{instance}}"),
            (
                "histogram_quantile(0.99, sum by (instance, le)"
                " (rate(callbus_worker_ticker_lateness_seconds_bucket[5m])))",
                "ticker {{instance}}",
            ),
            unit="s",
        ),
        graph(
            "CPU",
            "Cores in use; a worker has one thread.",
            ('rate(process_cpu_seconds_total{job="ai_session"}[$__rate_interval])', "{{instance}}"),
        ),
        graph("Memory", "", ('process_resident_memory_bytes{job="ai_session"}', "{{instance}}"), unit="bytes"),
        graph(
            "Stood still for garbage",
            "Of every service, as a share of time. Full collections wait until nobody is in a call.",
            ("sum by (job) (rate(callbus_garbage_collection_seconds_sum[$__rate_interval]))", "{{job}}"),
            unit="percentunit",
        ),
        row("Models"),
        graph(
            "Connections",
            "To models, and those kept open for emergencies.",
            ("sum by (backend) (callbus_model_connections)", "{{backend}}"),
            ("sum(callbus_model_spare_connections)", "spare"),
        ),
        graph(
            "Sockets",
            "In use at providers, by stage.",
            ("sum by (provider, stage) (callbus_provider_sockets)", "{{provider}} {{stage}}"),
        ),
        graph(
            "What sessions went through",
            "Within five minutes: reconnects, rotations at the provider's time limit, troubles.",
            (
                'sum by (event) (increase(callbus_worker_session_events_total{event=~"reconnected|rotated|trouble|'
                'truncated|local"}[5m]))',
                "{{event}}",
            ),
        ),
        distribution("Opening a connection", "", 'callbus_model_open_seconds{outcome="opened"}'),
        graph(
            "Errors of providers",
            "Within five minutes, by stage and code.",
            (
                "sum by (provider, stage, code) (increase(callbus_provider_errors_total[5m]))",
                "{{provider}} {{stage}} {{code}}",
            ),
        ),
        graph(
            "Rate limits",
            "Within five minutes.",
            ("sum by (event) (increase(callbus_rate_limit_total[5m]))", "{{event}}"),
        ),
        graph(
            "Stages of the pipeline (p95)",
            "Words of an utterance, first text of the answer, first sound of it.",
            ("stage:callbus_provider_stage_seconds:p95_5m", "{{stage}}"),
            unit="s",
        ),
        bars(
            "Models in use are shut down in",
            "By the provider's list and models.toml.",
            ("min by (model) (callbus_model_shutdown_timestamp_seconds) - time()", "{{model}}"),
            unit="s",
        ),
        row("Tools and voices"),
        graph("Tools (p95)", "", ("tool:callbus_tool_call_seconds:p95_5m", "{{tool}}"), unit="s"),
        graph(
            "Tool calls",
            "Per minute.",
            (
                "60 * sum by (tool, outcome) (rate(callbus_tool_call_seconds_count[$__rate_interval]))",
                "{{tool}} {{outcome}}",
            ),
        ),
        graph(
            "Tools, what went wrong",
            "Within five minutes, as those who run them see it: not what they answered, but that they did not.",
            (
                'sum by (end) (increase(callbus_catalog_requests_total{end=~"too_late|unavailable|defect"}[5m]))',
                "catalogue {{end}}",
            ),
            (
                'sum by (end) (increase(callbus_declared_tool_calls_total{end!~".*_answered|malformed"}[5m]))',
                "declared {{end}}",
            ),
            (
                'sum by (end) (increase(callbus_plugin_calls_total{end!~"answered|refused|repeated|malformed"}[5m]))',
                "plug-in {{end}}",
            ),
        ),
        graph(
            "Rendered speech",
            "Per minute, by where the audio came from.",
            ("60 * sum by (outcome) (rate(callbus_speech_cache_requests_total[$__rate_interval]))", "{{outcome}}"),
        ),
    )
