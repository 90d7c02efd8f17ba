"""Metrics without cost on the hot path: cores count in plain integers, a scrape reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import Histogram
from prometheus_client.core import REGISTRY, CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Values = Mapping[str, float]


class _Reader(Collector):
    def __init__(self, name: str, text: str, label: str | None, read: Callable[[], Values], counter: bool) -> None:
        self._name, self._text, self._label, self._read, self._counter = name, text, label, read, counter

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily if self._counter else GaugeMetricFamily
        metric = family(self._name, self._text, labels=[self._label] if self._label else [])
        for key, value in self._read().items():
            metric.add_metric([key] if self._label else [], value)
        yield metric


def export_counters(name: str, text: str, label: str, read: Callable[[], Values]) -> None:
    """Expose a mapping of ever-growing counts, one sample per key."""
    REGISTRY.register(_Reader(name, text, label, read, counter=True))


def export_gauges(name: str, text: str, label: str, read: Callable[[], Values]) -> None:
    """Expose a mapping of present values, one sample per key."""
    REGISTRY.register(_Reader(name, text, label, read, counter=False))


def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
    """A distribution, observed where something ends; one per name and process. `buckets` are upper bounds."""
    return Histogram(name, text, buckets=buckets)


def export_gauge(name: str, text: str, read: Callable[[], float]) -> None:
    """Expose one present value."""
    REGISTRY.register(_Reader(name, text, None, lambda: {"": read()}, counter=False))
