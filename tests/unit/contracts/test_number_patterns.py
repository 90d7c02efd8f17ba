"""Patterns of dialled numbers: what fits, which is the more specific, and what is refused before it can hurt."""

import time
from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from libs.contracts.config import RouteConfig, RouteTable
from libs.contracts.number_patterns import PatternError, check, specificity

NUMBER = "+493012345678"


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        (NUMBER, True), ("+4930123456", False), ("+49301234567890", False),
        ("+4930*", True), ("*", True), ("+4940*", False),
        (r"~\+49(30|40)[0-9]{4,8}", True), (r"~^\+49.*$", True), (r"~\+49", False), (r"~\+49(89|40)\d+", False),
        (r"~(?i)BESTELLUNG", False),
    ],
)  # fmt: skip
def test_exact_prefix_and_regular_expression(pattern, fits):
    check(pattern)
    assert (specificity(pattern, NUMBER) is not None) is fits


def test_a_regular_expression_serves_no_endless_number():
    assert specificity("~.*", "1" * 64) is not None
    assert specificity("~.*", "1" * 65) is None


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("", "a pattern is empty; '*' serves every number"),
        ("~(30", "'~(30' is no regular expression: missing ), unterminated subpattern at character 2"),
        ("~+49.*", "'~+49.*' is no regular expression: nothing to repeat at character 2"),
        ("~a{4294967296}", "'~a{4294967296}' is no regular expression that can be taken"),
        ("+49*30", "'+49*30' has a '*' before its end; write a regular expression, which begins with '~'"),
        ("~" + "1" * 128, "the pattern has 129 characters; at most 128 are taken"),
        (r"~(1)\1", r"'~(1)\1' holds what no number needs (groupref)"),
        ("~(?=1)1", "'~(?=1)1' holds what no number needs (assert)"),
    ],
)
def test_a_bad_pattern_is_one_sentence(pattern, problem):
    with pytest.raises(PatternError) as told:
        check(pattern)
    assert str(told.value) == problem


@pytest.mark.parametrize(
    "pattern",
    ["(1+)+2", "(1*)*", "(1|1)*2", "(1|11)+$", "1?" * 40, "(1?){40}1{40}", ".*.*.*1", "(11?)*2", "(1|1)" * 20 + "2"],
)
def test_a_pattern_that_could_run_for_ever_is_refused(pattern):
    with pytest.raises(PatternError, match="could take too long"):
        check("~" + pattern)


@pytest.mark.parametrize("pattern", ["~.*1.*2", "~(1|1)(1|1)(1|1)(1|1)[0-9]+[0-9]{1,9}2", "~[0-9]+[0-9]+x"])
def test_the_worst_pattern_that_is_taken_costs_milliseconds(pattern):
    check(pattern)
    specificity(pattern, "1")
    began = time.thread_time()
    assert specificity(pattern, "1" * 64) is None
    assert time.thread_time() - began < 0.05


@given(st.text(max_size=40), st.text(max_size=80))
def test_any_text_is_a_pattern_or_one_sentence(text, number):
    for pattern in (text, "~" + text):
        with suppress(PatternError):
            check(pattern)
            specificity(pattern, number)


def route(name, *match, **more):
    return RouteConfig(name=name, match=match, agent="a", **more)


@pytest.mark.parametrize(
    ("routes", "winner"),
    [
        ([route("exact", NUMBER), route("regex", r"~\+4930\d+"), route("prefix", "+49301234567*")], "exact"),
        ([route("regex", r"~\+4930\d+"), route("prefix", "+49301234567*")], "regex"),
        ([route("prefix", "+4930*"), route("any", "*")], "prefix"),
        ([route("low", NUMBER), route("high", "*", precedence=1)], "high"),
        ([route("a", NUMBER), route("z", NUMBER, trunk="north")], "z"),
        ([route("a", NUMBER), route("z", NUMBER, entrance="sip")], "z"),
        ([route("a", NUMBER, entrance="sip"), route("z", NUMBER, trunk="north")], "z"),
        ([route("exact", NUMBER), route("trunk", "+49*", trunk="north")], "exact"),
        ([route("b", NUMBER), route("a", NUMBER)], "a"),
        ([route("a", NUMBER, entrance="twilio"), route("b", "*")], "b"),
        ([route("a", NUMBER, trunk="south")], None),
    ],
)
def test_which_route_wins_is_the_documented_order(routes, winner):
    for order in (routes, routes[::-1]):
        found = RouteTable(order).find(NUMBER, "sip", "north")
        assert (found and found.name) == winner


def test_of_two_organisations_with_the_same_route_the_first_by_name_wins():
    routes = [route("r", NUMBER, org="b"), route("r", NUMBER, org="a")]
    for order in (routes, routes[::-1]):
        assert RouteTable(order).find(NUMBER).org == "a"
