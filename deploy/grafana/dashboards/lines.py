"""SIP trunks and audio quality."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana.dashboards.panels import distribution, fill, frame, graph, number, row


def build() -> Dashboard:
    """The dashboard."""
    return fill(
        frame(
            "lines",
            "SIP trunks and audio quality",
            "Registrations, signalling, and what the callers' audio goes through.",
        ),
        number(
            "Trunks that work",
            "Registered, or in need of no registration.",
            'sum(callbus_trunk_state{state=~"registered|ready"})',
            steps=[(0, "red"), (1, "green")],
        ),
        number(
            "Trunks in trouble",
            "",
            'sum(callbus_trunk_state{state!~"registered|ready"}) or vector(0)',
            steps=[(1, "red")],
        ),
        number(
            "RTP lost",
            "Of what callers sent, five minutes, the worst gateway.",
            "max(instance:callbus_rtp_lost:ratio_5m)",
            unit="percentunit",
            steps=[(0.005, "orange"), (0.02, "red")],
        ),
        number(
            "Concealed",
            "Share of the frames to the workers that had to be made up.",
            'sum(rate(callbus_frames_total{direction="up", event="concealed"}[5m]))'
            ' / (sum(rate(callbus_frames_total{direction="up", event="published"}[5m])) > 0)',
            unit="percentunit",
            steps=[(0.005, "orange"), (0.02, "red")],
        ),
        number(
            "Round trip (p95)",
            "To the peer by RTCP, an hour. Beyond 300 ms people talk at once.",
            "histogram_quantile(0.95, sum by (le) (increase(callbus_rtcp_round_trip_seconds_bucket[1h])))",
            unit="s",
            steps=[(0.15, "orange"), (0.3, "red")],
        ),
        number(
            "Jitter (p95)",
            "Of what came, an hour. The buffer is for 60 ms.",
            "histogram_quantile(0.95, sum by (le) (increase(callbus_rtp_jitter_seconds_bucket[1h])))",
            unit="s",
            steps=[(0.03, "orange"), (0.06, "red")],
        ),
        row("SIP"),
        graph(
            "Trunks by state",
            "",
            ("sum by (trunk, state) (callbus_trunk_state > 0)", "{{trunk}} {{state}}"),
            stacked=True,
        ),
        graph(
            "Messages",
            "Per second.",
            ('sum by (event) (rate(callbus_sip_events_total{event=~"received|sent"}[$__rate_interval]))', "{{event}}"),
        ),
        graph(
            "Refusals by us",
            "Within five minutes, by reason, or by status where SIP itself was wrong.",
            (
                'sum by (event) (increase(callbus_sip_events_total{event=~"refused_.+|replied_[3-6].+|'
                'invites_over_limit|source_not_allowed"}[5m]))',
                "{{event}}",
            ),
        ),
        row("Audio from the caller"),
        graph(
            "RTP packets",
            "Per second.",
            ('sum by (event) (rate(callbus_rtp_packets_total{event=~"received|sent"}[$__rate_interval]))', "{{event}}"),
        ),
        graph(
            "RTP, what went wrong",
            "Per second.",
            (
                'sum by (event) (rate(callbus_rtp_packets_total{event!~"received|sent"}[$__rate_interval]))',
                "{{event}}",
            ),
        ),
        graph(
            "Loss by gateway",
            "",
            ("instance:callbus_rtp_lost:ratio_5m", "{{job}} {{instance}}"),
            unit="percentunit",
        ),
        distribution("Jitter by call", "Of ended calls.", "callbus_rtp_jitter_seconds"),
        distribution("Loss by call", "Of ended calls.", "callbus_rtp_loss_ratio", unit="percentunit"),
        distribution(
            "Round trip by call", "Of ended calls whose peer reports by RTCP.", "callbus_rtcp_round_trip_seconds"
        ),
        row("Audio to the caller"),
        distribution("Jitter at the peer", "As it reports.", "callbus_rtcp_remote_jitter_seconds"),
        distribution("Loss at the peer", "As it reports.", "callbus_rtcp_remote_loss_ratio", unit="percentunit"),
        graph(
            "Frames, what went wrong",
            "Of 20 ms, per second, from and to the caller. `fenced` came from a worker that no longer had the call.",
            (
                'sum by (direction, event) (rate(callbus_frames_total{event=~"concealed|filled|dropped|fenced|stale|'
                'underrun|malformed"}[$__rate_interval]))',
                "{{direction}} {{event}}",
            ),
        ),
        graph(
            "Ticker, how late (p99)",
            "Its slots are 5 ms.",
            ("instance:callbus_ticker_lateness_seconds:p99_5m", "{{job}} {{instance}}"),
            unit="s",
        ),
        graph(
            "Frames that wait to be played",
            "",
            ("sum by (instance) (callbus_playout_waiting_frames)", "{{instance}}"),
        ),
        graph(
            "RTCP packets",
            "Per minute.",
            ("60 * sum by (event) (rate(callbus_rtcp_packets_total[$__rate_interval]))", "{{event}}"),
        ),
    )
