"""Cost: what the providers of models will charge, by models.toml."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana.dashboards.panels import bars, fill, frame, graph, number, row


def build() -> Dashboard:
    """The dashboard."""
    return fill(
        frame("cost", "cost", "Money and tokens by model and source. An estimate: the provider's bill counts."),
        number("Last hour", "In USD.", "sum(increase(callbus_cost_usd_total[1h]))", unit="currencyUSD", span=6),
        number("Last 24 hours", "In USD.", "sum(increase(callbus_cost_usd_total[24h]))", unit="currencyUSD", span=6),
        number(
            "Per ended call",
            "Of the last hour, in USD.",
            "sum(increase(callbus_cost_usd_total[1h])) / (sum(increase(callbus_call_talk_seconds_count[1h])) > 0)",
            unit="currencyUSD",
            span=6,
        ),
        number(
            "Tokens, last hour",
            "Of all kinds; cached ones count once.",
            'sum(increase(callbus_tokens_total{kind!~".*_cached"}[1h]))',
            span=6,
        ),
        graph(
            "USD per hour by model",
            "At the rate of the last five minutes.",
            ("3600 * sum by (model) (rate(callbus_cost_usd_total[5m]))", "{{model}}"),
            unit="currencyUSD",
            stacked=True,
        ),
        graph(
            "USD per hour by source",
            "`response`: the model's answers; `transcription`, `speech`: the pipeline's ears and voice.",
            ("3600 * sum by (source) (rate(callbus_cost_usd_total[5m]))", "{{source}}"),
            unit="currencyUSD",
            stacked=True,
        ),
        bars(
            "USD by model and source, last hour",
            "",
            ("sort_desc(model:callbus_cost_usd:increase1h > 0)", "{{model}} {{source}}"),
            unit="currencyUSD",
        ),
        row("What it is made of"),
        graph(
            "Tokens by kind",
            "Per minute. Audio costs most.",
            ("60 * sum by (kind) (rate(callbus_tokens_total[5m]))", "{{kind}}"),
        ),
        graph(
            "Served from the provider's cache",
            "Share of the tokens that went in.",
            (
                'sum by (model) (rate(callbus_tokens_total{kind=~".*_cached"}[5m]))'
                ' / (sum by (model) (rate(callbus_tokens_total{kind=~".*_in"}[5m])) > 0)',
                "{{model}}",
            ),
            unit="percentunit",
        ),
        graph(
            "Time that is billed",
            "Minutes per hour.",
            ("60 * sum by (model, source) (rate(callbus_billed_seconds_total[5m]))", "{{model}} {{source}}"),
        ),
        row("Limits"),
        bars(
            "Budgets of this day (UTC)",
            "What organisations have spent of what they may (`max_usd_per_day`); at 100 % no more calls begin.",
            ("max by (org) (callbus_budget_used_ratio)", "{{org}}"),
            unit="percentunit",
        ),
        graph(
            "Calls that ended for it",
            "Per minute: `budget_spent`.",
            (
                '60 * sum by (direction) (rate(callbus_calls_ended_total{reason="budget_spent"}[$__rate_interval]))',
                "{{direction}}",
            ),
        ),
        graph(
            "Speech that cost nothing",
            "Share of texts whose audio was there already.",
            ("callbus_speech_cache_hit_ratio", "{{instance}}"),
            unit="percentunit",
        ),
    )
