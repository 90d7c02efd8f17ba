"""Counters of one server; a registry of its own, so that tests can run several."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from services.rehearsal.ground_truth import GroundTruth


class Metrics:
    """What ``GET /metrics`` tells."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.active = Gauge("rehearsal_sessions_active", "Sessions open now", registry=self.registry)
        self.sessions = Counter("rehearsal_sessions", "Sessions opened", registry=self.registry)
        self.refused = Counter("rehearsal_upgrades_refused", "Upgrades refused", ["status"], registry=self.registry)
        self.client_errors = Counter(
            "rehearsal_client_errors", "Events answered with an error", ["code"], registry=self.registry
        )
        self.responses = Counter("rehearsal_responses", "Responses by status", ["status"], registry=self.registry)
        self.appended = Counter("rehearsal_appended_audio_seconds", "Audio received", registry=self.registry)
        self.requests = Counter(
            "rehearsal_requests", "HTTP requests answered", ["endpoint", "status"], registry=self.registry
        )

    def count(self, truth: GroundTruth) -> None:
        self.appended.inc(truth.appended_ms / 1000)
        for error in truth.client_errors:
            self.client_errors.labels(error["code"] or "none").inc()
        for response in truth.responses:
            self.responses.labels(response["status"]).inc()
