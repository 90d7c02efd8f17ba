"""Which numbers may be called, and how often: scripts of (time, number) -> cleared or one sentence."""

from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from libs.call_leg.fences import HOUR_S, NotAllowedError, OutboundFence, OutboundRules
from libs.contracts.termination import Reason


def refusal(to, **rules):
    with pytest.raises(NotAllowedError) as caught:
        OutboundFence(OutboundRules(**rules)).number(to)
    assert str(caught.value) == caught.value.termination.detail
    return caught.value.termination.reason, str(caught.value)


@pytest.mark.parametrize(
    "written", ["+49 30 12345678", "030 12345678", "0049 30 12345678", "+49 (0)30 / 123-456-78", "tel:+493012345678"]
)
def test_a_number_of_the_trunks_own_country_is_called_by_default(written):
    assert OutboundFence(OutboundRules()).number(written) == "+493012345678"


@pytest.mark.parametrize("abroad", ["+431513580", "+12125551234", "+48221234567", "0043 1 51358 0"])
def test_abroad_needs_a_prefix(abroad):
    reason, sentence = refusal(abroad)
    assert reason is Reason.NUMBER_NOT_ALLOWED
    assert "numbers of DE" in sentence
    assert OutboundFence(OutboundRules(allowed_prefixes=("+",))).number(abroad).startswith("+")


def test_a_country_that_shares_its_code_is_abroad():
    assert OutboundFence(OutboundRules(country="US")).number("+12125551234")
    assert refusal("+18765551234", country="US")[0] is Reason.NUMBER_NOT_ALLOWED  # Jamaica


@pytest.mark.parametrize(
    "costly",
    ["0900 1 234567", "+49 900 3 123456", "0137 1234567", "0138 123456", "0180 1 234567", "0180 5 12345", "118 33",
     "+49 11833", "0190 123456", "0700 12345678", "+43 900 123456", "+41 900 123456", "+1 900 555 1234",
     "+44 900 234 5678", "+8816 12345678", "+979 0 1234567", "+882 16 1234567"],
)  # fmt: skip
def test_what_costs_extra_is_never_called_by_default(costly):
    assert refusal(costly, allowed_prefixes=("+",))[0] in (Reason.NUMBER_NOT_ALLOWED, Reason.NUMBER_INVALID)


def test_the_sentence_names_what_is_wrong():
    assert refusal("0900 1234567")[1] == "+499001234567 is a special-rate number; this trunk does not call those"
    assert refusal("+19005551234", allowed_prefixes=("+1",))[1].startswith("+19005551234 is a premium-rate number")


def test_a_trunk_may_be_opened_for_costly_numbers():
    assert OutboundFence(OutboundRules(allow_costly=True)).number("0180 5 12345") == "+49180512345"


@pytest.mark.parametrize("emergency", ["110", "112", "+49110", "+49 112", "1-1-2"])
def test_no_agent_calls_the_police(emergency):
    reason, sentence = refusal(emergency, allowed_prefixes=("+", "1"))
    assert reason is Reason.NUMBER_NOT_ALLOWED
    assert "emergency" in sentence


@pytest.mark.parametrize("nonsense", ["", "hallo", "0900-HOTLINE", "+", "1" * 40, "030 12\r\nX: y", "*100#", "4711"])
def test_what_is_no_number_is_refused_with_advice(nonsense):
    reason, sentence = refusal(nonsense)
    assert reason in (Reason.NUMBER_INVALID, Reason.NUMBER_NOT_ALLOWED)
    assert "\n" not in sentence


def test_denied_prefixes_go_before_allowed_ones():
    rules = OutboundRules(allowed_prefixes=("+49",), denied_prefixes=("+4930",))
    assert OutboundFence(rules).number("+4989 1234567")
    assert refusal("+493012345678", allowed_prefixes=("+49",), denied_prefixes=("+4930",)) == (
        Reason.NUMBER_NOT_ALLOWED,
        "+493012345678 begins with +4930, which this trunk may not call",
    )


def test_extensions_of_a_pbx_are_named_without_plus():
    fence = OutboundFence(OutboundRules(allowed_prefixes=("2",)))
    assert fence.number("201") == "201"
    assert refusal("301", allowed_prefixes=("2",))[0] is not None
    assert refusal("+493012345678", allowed_prefixes=("2",))[0] is Reason.NUMBER_NOT_ALLOWED


def test_a_denied_prefix_without_plus_holds_for_extensions():
    rules = {"allowed_prefixes": ("2",), "denied_prefixes": ("29",)}
    assert OutboundFence(OutboundRules(**rules)).number("289") == "289"
    assert refusal("290", **rules) == (
        Reason.NUMBER_NOT_ALLOWED,
        "290 begins with 29, which this trunk may not call",
    )


@pytest.mark.parametrize(
    "through_a_pbx",
    ["0900 1234567", "0 0900 1234567", "001 900 555 1234", "0 001 900 555 1234", "0110", "0112", "11833", "011833",
     "9 001 900 555 1234", "0137 1234567"],
)  # fmt: skip
def test_an_extension_prefix_opens_no_way_to_emergency_or_costly_numbers(through_a_pbx):
    reason, sentence = refusal(through_a_pbx, allowed_prefixes=("0", "1", "9"))
    assert reason is Reason.NUMBER_NOT_ALLOWED
    assert "emergency" in sentence or "this trunk does not call those" in sentence


@pytest.mark.parametrize("extension", ["22", "1190", "12345", "2110", "9112", "20", "2001234", "0 030 12345678"])
def test_an_extension_that_only_looks_like_one_of_those_goes_through(extension):
    digits = extension.replace(" ", "")
    assert OutboundFence(OutboundRules(allowed_prefixes=("0", "1", "2", "9"))).number(extension) == digits


def test_digits_that_a_network_would_cut_off_hide_no_number_in_a_sip_uri():
    reason, _ = refusal("sip:+499001234567000000000000@example.com", allow_sip_uris=True)
    assert reason is Reason.NUMBER_INVALID


def test_sip_uris_need_permission_and_hide_no_number():
    assert refusal("sip:anna@example.com")[0] is Reason.NUMBER_NOT_ALLOWED
    fence = OutboundFence(OutboundRules(allow_sip_uris=True))
    assert fence.number("sip:anna@example.com:5061") == "sip:anna@example.com:5061"
    assert fence.number("sip:+493012345678@example.com")
    assert refusal("sip:09001234567@example.com", allow_sip_uris=True)[0] is Reason.NUMBER_NOT_ALLOWED
    assert refusal("sip:a@b?Replaces=x", allow_sip_uris=True)[0] is Reason.NUMBER_INVALID


@given(to=st.text(max_size=60))
def test_whatever_is_asked_is_judged(to):
    fence = OutboundFence(OutboundRules())
    with suppress(NotAllowedError):
        assert fence.number(to).startswith("+49")


def test_so_many_calls_in_any_hour():
    fence = OutboundFence(OutboundRules(attempts_per_hour=2))
    fence.attempt(0.0)
    fence.attempt(600.0)
    with pytest.raises(NotAllowedError, match="limit is 2 calls an hour: the next one may go in 46 min") as caught:
        fence.attempt(900.0)
    assert caught.value.termination.reason is Reason.TOO_MANY_ATTEMPTS
    fence.attempt(HOUR_S)
    with pytest.raises(NotAllowedError):
        fence.attempt(HOUR_S + 599)
    fence.attempt(HOUR_S + 600)


def test_a_trunk_may_be_closed():
    with pytest.raises(NotAllowedError, match="none are allowed"):
        OutboundFence(OutboundRules(attempts_per_hour=0)).attempt(0.0)
