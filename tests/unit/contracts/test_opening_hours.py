"""Opening hours on the wall clock of a place: weeks, exceptions, midnight and both nights when clocks change."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from libs.contracts.opening_hours import OpeningHours

BERLIN = ZoneInfo("Europe/Berlin")


def hours(*weekly, timezone="Europe/Berlin", **exceptions):
    dated = {day.removeprefix("d").replace("_", "-"): spans for day, spans in exceptions.items()}
    return OpeningHours(timezone=timezone, weekly=weekly, exceptions=dated)


def at(text, zone=BERLIN, fold=0):
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold)


OFFICE = ("mon-fri 08:00-12:00, 13:00-17:30", "sat 9:00-13:00")


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-11-23T07:59:59", False), ("2026-11-23T08:00:00", True), ("2026-11-23T11:59:59", True),
        ("2026-11-23T12:00:00", False), ("2026-11-23T12:59:00", False), ("2026-11-23T13:00:00", True),
        ("2026-11-23T17:29:59", True), ("2026-11-23T17:30:00", False), ("2026-11-28T09:00:00", True),
        ("2026-11-28T13:00:00", False), ("2026-11-29T10:00:00", False),
    ],
)  # fmt: skip
def test_a_week_of_an_office(moment, is_open):
    assert hours(*OFFICE).is_open(at(moment)) is is_open


def test_the_clock_is_that_of_the_place_not_of_the_gateway():
    assert hours("mon 08:00-09:00", timezone="America/New_York").is_open(datetime(2026, 11, 23, 13, 30, tzinfo=UTC))
    assert not hours("mon 08:00-09:00").is_open(datetime(2026, 11, 23, 13, 30, tzinfo=UTC))


def test_a_date_may_be_closed_or_have_other_hours():
    office = hours(*OFFICE, d2026_12_24="09:00-12:00", d2026_12_25="closed", d2026_12_27="10:00-11:00")
    assert not office.is_open(at("2026-12-24T08:30:00"))
    assert office.is_open(at("2026-12-24T11:59:00"))
    assert not office.is_open(at("2026-12-24T13:30:00"))
    assert not office.is_open(at("2026-12-25T10:00:00"))
    assert office.is_open(at("2026-12-27T10:30:00"))  # a Sunday


def test_a_span_over_midnight_belongs_to_the_day_it_begins():
    night = hours("fri 22:00-02:00", d2026_11_28="closed", d2026_12_04="closed")
    assert not night.is_open(at("2026-11-27T01:00:00"))
    assert night.is_open(at("2026-11-27T23:00:00"))
    assert night.is_open(at("2026-11-28T01:59:00"))  # the closed Saturday does not cut it
    assert not night.is_open(at("2026-11-28T02:00:00"))
    assert not night.is_open(at("2026-12-05T01:00:00"))  # it would have begun on the closed Friday


def test_ranges_of_days_may_go_round_and_be_listed():
    assert hours("fri-mon 00:00-24:00").is_open(at("2026-11-22T12:00:00"))
    assert not hours("fri-mon 00:00-24:00").is_open(at("2026-11-24T12:00:00"))
    listed = hours("mon, wed,fri-sat 08:00-09:00")
    assert [day for day in range(23, 30) if listed.is_open(at(f"2026-11-{day}T08:30:00"))] == [23, 25, 27, 28]


def test_when_clocks_go_back_the_hour_that_comes_twice_is_open_twice():
    night = hours("sun 02:00-03:00")
    assert night.is_open(at("2026-10-25T02:30:00", fold=0))
    assert night.is_open(at("2026-10-25T02:30:00", fold=1))
    assert sum(night.is_open(datetime(2026, 10, 25, 0, tzinfo=UTC) + timedelta(minutes=n)) for n in range(240)) == 120


def test_when_clocks_go_forward_the_hour_that_is_skipped_is_never_open():
    minutes = [datetime(2026, 3, 29, 0, tzinfo=UTC) + timedelta(minutes=n) for n in range(240)]
    assert not any(hours("sun 02:00-03:00").is_open(minute) for minute in minutes)
    assert sum(hours("sun 01:00-04:00").is_open(minute) for minute in minutes) == 120


@given(st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)))
def test_always_open_is_always_open_and_never_is_never(moment):
    assert hours("mon-sun 00:00-24:00").is_open(moment)
    assert not hours().is_open(moment)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"timezone": "Europe/Berlon"}, "there is no time zone 'Europe/Berlon'; they are written like Europe/Berlin"),
        ({"timezone": "../etc/passwd"}, "there is no time zone '../etc/passwd'; they are"),
        ({"timezone": "Europe"}, "there is no time zone 'Europe'"),
        ({"timezone": ""}, "there is no time zone ''"),
        ({"weekly": ("mon-fri",)}, "'mon-fri' is no weekly span; they are written like 'mon-fri 08:00-17:30'"),
        ({"weekly": ("mo 08:00-12:00",)}, "'mo 08:00-12:00' is no weekly span"),
        ({"weekly": ("mon-die 08:00-12:00",)}, "'die' is no day; they are mon, tue, wed, thu, fri, sat, sun"),
        ({"weekly": ("mon 8-12",)}, "'8-12' is no span of time; they are written like 08:00-17:30"),
        ({"weekly": ("mon 08:00-12:60",)}, "'08:00-12:60' has a time that no clock shows; 24:00 may stand at the end"),
        ({"weekly": ("mon 24:00-01:00",)}, "'24:00-01:00' has a time that no clock shows"),
        ({"weekly": ("mon 08:00-24:30",)}, "'08:00-24:30' has a time that no clock shows"),
        ({"weekly": ("mon 08:00-08:00",)}, "'08:00-08:00' is empty; 00:00-24:00 is the whole day"),
        ({"exceptions": {"24.12.2026": "closed"}}, "'24.12.2026' is no date; they are written like 2026-12-24"),
        ({"exceptions": {"20261224": "closed"}}, "'20261224' is no date"),
        ({"exceptions": {"2026-02-30": "closed"}}, "'2026-02-30' is no date"),
        ({"exceptions": {"2026-12-24": "shut"}}, "'shut' is no span of time"),
    ],
)
def test_what_is_no_time_is_told_in_one_sentence(fields, problem):
    with pytest.raises(ValidationError) as told:
        OpeningHours(**({"timezone": "Europe/Berlin", "weekly": ()} | fields))
    (error,) = told.value.errors()
    assert error["msg"].startswith(f"Value error, {problem}")
