"""Metrics of one server; a registry of its own, so that tests can run several.

Defined here, as docs/metrics.md has them. All begin with `rehearsal_`: they tell of a stand-in for what is not ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from services.rehearsal.faults import Endpoint
from services.rehearsal.ground_truth import GroundTruth

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per counter, which nobody asks for


class Defined(NamedTuple):
    """A metric: a counter where its name ends in `_total`. `labels` says what the values of each can be."""

    name: str
    text: str
    labels: Mapping[str, str]

    @property
    def kind(self) -> str:
        """Its type."""
        return "counter" if self.name.endswith("_total") else "gauge"


STATUS = "the HTTP status"
ACTIVE = Defined("rehearsal_sessions_active", "Realtime and Live sessions that are open", {})
SESSIONS = Defined("rehearsal_sessions_total", "Realtime and Live sessions that were opened", {})
REFUSED = Defined("rehearsal_upgrades_refused_total", "Sessions and keys that were refused", {"status": STATUS})
ERRORS = Defined(
    "rehearsal_client_errors_total",
    "Events of a client that were answered with an error",
    {"code": "the API's error code, or `none`"},
)
RESPONSES = Defined(
    "rehearsal_responses_total", "Responses of sessions that ended", {"status": "as the API calls it: `completed` …"}
)
APPENDED = Defined("rehearsal_appended_audio_seconds_total", "Audio that ended sessions had received", {})
REQUESTS = Defined(
    "rehearsal_requests_total",
    "HTTP requests that were answered",
    {"endpoint": ", ".join(f"`{name}`" for name in get_args(Endpoint)), "status": STATUS},
)
DEFINED = (ACTIVE, APPENDED, ERRORS, REFUSED, REQUESTS, RESPONSES, SESSIONS)


class Metrics:
    """What ``GET /metrics`` tells, with the figures of the process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.active = Gauge(ACTIVE.name, ACTIVE.text, registry=self.registry)
        self.sessions, self.refused = self._counter(SESSIONS), self._counter(REFUSED)
        self.client_errors, self.responses = self._counter(ERRORS), self._counter(RESPONSES)
        self.appended, self.requests = self._counter(APPENDED), self._counter(REQUESTS)

    def _counter(self, defined: Defined) -> Counter:
        return Counter(defined.name, defined.text, tuple(defined.labels), registry=self.registry)

    def count(self, truth: GroundTruth) -> None:
        """Add a session that has ended."""
        self.appended.inc(truth.appended_ms / 1000)
        for error in truth.client_errors:
            self.client_errors.labels(error["code"] or "none").inc()
        for response in truth.responses:
            self.responses.labels(response["status"]).inc()
