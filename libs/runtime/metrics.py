"""Metrics without cost on the hot path: what happens is counted in plain numbers, a scrape reads them.

A metric is defined once, at the top of an `instruments` module, with its meaning and with what its labels can be;
docs/metrics.md is written from these definitions. Label values are bounded by construction: a value outside its bounds
is shown as `other`, so that no call id, number or text of anybody's can become a time series.

    OFFERS = counter("callbus_offers_total", "Offers to workers by their answer", answer=one_of("accepted", "refused"))
    OFFERS.add("accepted")
    OFFERS.read_from(lambda: core.counters)  # or at scrape time, from whoever counts

All of it belongs to the event loop's thread: `/metrics` is served there.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, product
from math import prod
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import (
    REGISTRY,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric as Family,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Key = tuple[str, ...]
Values = Mapping[Any, float] | float  # by label value, or by all of them; of a metric without labels the value
OTHER = "other"
MOST_ZEROS = 80  # samples of a metric that are shown before anything was counted


@dataclass(frozen=True, slots=True)
class Label:
    """What a label's values can be: one of `values`, what fits `pattern`, or the first `most` that come."""

    values: tuple[str, ...] = ()
    pattern: str = ""
    most: int = 0
    text: str = ""
    _seen: set[str] = field(default_factory=set, compare=False)

    def bounded(self, value: str) -> str:
        """The value, or `other`."""
        if self.values:
            return value if value in self.values else OTHER
        if self.pattern:
            return value if re.fullmatch(self.pattern, value) else OTHER
        if value not in self._seen:
            if len(self._seen) >= self.most or not value:
                return OTHER
            self._seen.add(value)
        return value

    def allows(self, value: str) -> bool:
        """Whether the page may show it."""
        if value == OTHER:
            return True
        return value in self.values if self.values else re.fullmatch(self.pattern or ".+", value) is not None


def one_of(*values: str) -> Label:
    """A closed set."""
    return Label(values=values)


def matching(pattern: str, text: str) -> Label:
    """Names that the code makes, of a regular shape; `text` says which."""
    return Label(pattern=pattern, text=text)


def at_most(most: int, text: str) -> Label:
    """Names that people choose (tools, models, trunks): the first `most` of a process, later ones are `other`."""
    return Label(most=most, text=text)


class Metric(ABC):
    """One metric of this process. It is on the page from its definition on."""

    kind: str
    samples = 1  # of a series

    def __init__(self, name: str, text: str, labels: Mapping[str, Label]) -> None:
        self.name, self.text, self.labels = name, text, dict(labels)
        _DEFINED[name] = self

    def bounded(self, key: Key) -> Key:
        """The label values as the page may show them."""
        return tuple(label.bounded(value) for label, value in zip(self.labels.values(), key, strict=True))

    def zeros(self) -> Iterator[Key]:
        """The series that are there before anything was counted, where they are few and known: a rate begins at 0."""
        sets = [label.values for label in self.labels.values()]
        if all(sets) and prod(map(len, sets)) * self.samples <= MOST_ZEROS:
            yield from product(*sets)

    @abstractmethod
    def family(self) -> Family:
        """All samples, now."""


class _Read(Metric):
    """What is read at a scrape, from counters that somebody else keeps."""

    def __init__(self, name: str, text: str, labels: Mapping[str, Label]) -> None:
        super().__init__(name, text, labels)
        self._read: Callable[[], Values] | None = None

    def read_from(self, read: Callable[[], Values]) -> None:
        """Take the values from here at each scrape; the last one named counts."""
        self._read = read

    def values(self) -> dict[Key, float]:
        """All series, now."""
        found = dict.fromkeys(self.zeros(), 0.0)
        read: Values = self._read() if self._read is not None else {}
        entries = read.items() if isinstance(read, Mapping) else [((), read)]
        for name, value in entries:
            key = self.bounded((name,) if isinstance(name, str) else name)
            found[key] = found.get(key, 0.0) + value
        return found


class Count(_Read):
    """Only grows."""

    kind = "counter"

    def __init__(self, name: str, text: str, labels: Mapping[str, Label]) -> None:
        if not name.endswith("_total"):
            raise ValueError(f"{name}: a counter's name ends in _total")
        super().__init__(name, text, labels)
        self._counted: dict[Key, float] = {}

    def add(self, *key: str, by: float = 1) -> None:
        """Count; per call, turn or second, not per frame."""
        self._counted[key] = self._counted.get(key, 0.0) + by

    def values(self) -> dict[Key, float]:
        found = super().values()
        for key, value in self._counted.items():
            shown = self.bounded(key)
            found[shown] = found.get(shown, 0.0) + value
        return found

    def family(self) -> Family:
        family = CounterMetricFamily(self.name, self.text, labels=list(self.labels))
        for key, value in self.values().items():
            family.add_metric(key, value)
        return family


class Gauge(_Read):
    """A present value."""

    kind = "gauge"

    def family(self) -> Family:
        family = GaugeMetricFamily(self.name, self.text, labels=list(self.labels))
        for key, value in self.values().items():
            family.add_metric(key, value)
        return family


class _Series:
    """One distribution, in plain integers."""

    __slots__ = ("counts", "total")

    def __init__(self, size: int) -> None:
        self.counts = [0] * size
        self.total = 0.0


class Histogram(Metric):
    """A distribution. `buckets` are upper bounds, in the name's unit."""

    kind = "histogram"

    def __init__(self, name: str, text: str, buckets: Iterable[float], labels: Mapping[str, Label]) -> None:
        super().__init__(name, text, labels)
        self.buckets = tuple(sorted(buckets))
        self._bounds = [*map(floatToGoString, self.buckets), "+Inf"]
        self._series: dict[Key, _Series] = {}
        self.samples = len(self._bounds)
        for key in self.zeros():
            self.series(key)

    def series(self, key: Key) -> _Series:
        """The distribution of these label values."""
        found = self._series.get(key)
        if found is None:
            shown = self.bounded(key)
            found = self._series.get(shown)
            if found is None:
                found = self._series[shown] = _Series(len(self._bounds))
        return found

    def observe(self, value: float, *key: str) -> None:
        """Count a value."""
        series = self._series.get(key) or self.series(key)
        series.counts[bisect_left(self.buckets, value)] += 1
        series.total += value

    def family(self) -> Family:
        family = HistogramMetricFamily(self.name, self.text, labels=list(self.labels))
        for key, series in self._series.items():
            family.add_metric(key, list(zip(self._bounds, accumulate(series.counts), strict=True)), series.total)
        return family


def counter(name: str, text: str, /, **labels: Label) -> Count:
    """Define what only grows."""
    return Count(name, text, labels)


def gauge(name: str, text: str, /, **labels: Label) -> Gauge:
    """Define a present value."""
    return Gauge(name, text, labels)


def histogram(name: str, text: str, buckets: Iterable[float], /, **labels: Label) -> Histogram:
    """Define a distribution."""
    return Histogram(name, text, buckets, labels)


_DEFINED: dict[str, Metric] = {}
_LOOKS: dict[str, Callable[[], None]] = {}


def at_scrape(name: str, look: Callable[[], None]) -> None:
    """Have this run before the metrics are read, for what several of them are read from; the last one of a name."""
    _LOOKS[name] = look


class _Page(Collector):
    """All metrics that are defined in this process."""

    def describe(self) -> Iterable[Family]:
        return []

    def collect(self) -> Iterable[Family]:
        for look in _LOOKS.values():
            look()
        return (metric.family() for _, metric in sorted(_DEFINED.items()))


REGISTRY.register(_Page())


@dataclass(frozen=True, slots=True)
class _One:
    """As much of a registry as `generate_latest` asks for."""

    family: Family

    def collect(self) -> Iterable[Family]:
        return [self.family]


def page() -> Iterator[bytes]:
    """The page of this process, metric by metric, so that a caller can let others run in between: a page takes some
    milliseconds, and audio waits for none."""
    for family in REGISTRY.collect():
        yield generate_latest(_One(family))
