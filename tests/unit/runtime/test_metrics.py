"""Metrics: defined once, counted in plain numbers, read at a scrape, with labels that cannot grow without bounds."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from libs.runtime import metrics
from libs.runtime.metrics import at_most, at_scrape, counter, gauge, histogram, matching, one_of


@pytest.fixture(autouse=True)
def defined(monkeypatch):
    """Definitions of a test are gone after it."""
    monkeypatch.setattr(metrics, "_DEFINED", {})
    monkeypatch.setattr(metrics, "_LOOKS", {})


def page() -> dict[tuple[str, ...], float]:
    """Every sample by name and label values, as Prometheus' own parser reads them."""
    registry = CollectorRegistry()
    registry.register(metrics._Page())
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def test_a_counter_counts_and_reads_what_others_count():
    offers = counter("offers_total", "Offers", answer=one_of("accepted", "refused"))
    offers.add("accepted")
    offers.add("accepted", by=2)
    offers.read_from(lambda: {"refused": 4, "accepted": 1})
    assert page() == {("offers_total", "accepted"): 4, ("offers_total", "refused"): 4}


def test_series_that_are_known_are_there_before_anything_was_counted():
    counter("offers_total", "Offers", answer=one_of("accepted", "refused"))
    counter("retries_total", "Retries")
    gauge("held", "Held")
    histogram("offer_seconds", "Offers", (0.1, 1.0), answer=one_of("accepted"))
    shown = page()
    assert shown["offers_total", "refused"] == shown["retries_total",] == shown["held",] == 0
    assert shown["offer_seconds_count", "accepted"] == 0


def test_a_closed_set_shows_what_is_not_in_it_as_other():
    ends = counter("ends_total", "Ends", end=one_of("answered"))
    ends.read_from(lambda: {"answered": 1, "surprising": 2, "odd": 3})
    assert page() == {("ends_total", "answered"): 1, ("ends_total", "other"): 5}


def test_names_of_a_shape_are_shown_and_others_are_not():
    sip = counter("sip_total", "SIP", event=matching(r"replied_\d{3}", "replies"))
    sip.read_from(lambda: {"replied_486": 1, "+4989123456": 2, "": 3})
    assert page() == {("sip_total", "replied_486"): 1, ("sip_total", "other"): 5}


def test_names_that_people_choose_are_shown_up_to_a_number():
    tools = histogram("tool_seconds", "Tools", (1.0,), tool=at_most(2, "tools"))
    for name in ("search", "order", "third", "fourth", "search", ""):
        tools.observe(0.5, name)
    counts = {key[1]: value for key, value in page().items() if key[0] == "tool_seconds_count"}
    assert counts == {"search": 2, "order": 1, "other": 3}


def test_values_outside_their_bounds_never_become_series_of_their_own_inside():
    tools = histogram("tool_seconds", "Tools", (1.0,), tool=at_most(1, "tools"))
    for number in range(1000):
        tools.observe(0.5, f"tool-{number}")
    assert len(tools._series) == 2


def test_a_histogram_has_cumulative_buckets_a_sum_and_a_count():
    lag = histogram("lag_seconds", "Lag", (0.1, 0.01, 1.0))
    for value in (0.005, 0.01, 0.05, 0.5, 3.0):
        lag.observe(value)
    assert page() == {
        ("lag_seconds_bucket", "0.01"): 2,
        ("lag_seconds_bucket", "0.1"): 3,
        ("lag_seconds_bucket", "1.0"): 4,
        ("lag_seconds_bucket", "+Inf"): 5,
        ("lag_seconds_count",): 5,
        ("lag_seconds_sum",): pytest.approx(3.565),
    }


def test_a_gauge_reads_one_value_or_one_by_label():
    calls = gauge("calls", "Calls", entrance=one_of("sip", "browser"), state=one_of("talking"))
    calls.read_from(lambda: {("sip", "talking"): 2})
    gauge("workers", "Workers").read_from(lambda: 3)
    assert page() == {("calls", "sip", "talking"): 2, ("calls", "browser", "talking"): 0, ("workers",): 3}


def test_a_second_source_takes_the_place_of_the_first():
    workers = gauge("workers", "Workers")
    workers.read_from(lambda: 3)
    workers.read_from(lambda: 4)
    assert page() == {("workers",): 4}


def test_what_several_metrics_are_read_from_is_looked_at_once_a_scrape():
    looks = []
    at_scrape("media", lambda: looks.append(1))
    gauge("deepest", "Deepest").read_from(lambda: len(looks))
    gauge("waiting", "Waiting").read_from(lambda: len(looks))
    assert page() == {("deepest",): 1, ("waiting",): 1}


def test_a_counter_is_called_total():
    with pytest.raises(ValueError, match="ends in _total"):
        counter("offers", "Offers")
