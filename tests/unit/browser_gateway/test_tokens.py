"""Tokens: for one use, for one purpose, for a short time, and signed."""

import base64
import json

import pytest
from pydantic import ValidationError

from services.browser_gateway.tokens import CLOCK_SKEW_S, MAX_LIFE_S, Grant, TokenRefused, Tokens

SECRET = b"0123456789abcdef0123456789abcdef"
NOW = 1_000_000.0


def tokens(gw="gw-1", secret=SECRET, ttl_s=60):
    ids = iter(f"token-{number:04d}" for number in range(10_000))
    return Tokens(secret, gw, ttl_s=ttl_s, new_id=lambda: next(ids))


def refusal(ours, token, kind="call", now=NOW):
    with pytest.raises(TokenRefused) as caught:
        ours.redeem(token, kind, now)
    return caught.value.reason


def test_a_token_says_what_it_allows():
    ours = tokens()
    token, minted = ours.mint_call("acme", "bestellung", NOW, caller="console")
    grant = ours.redeem(token, "call", NOW + 59.9)
    assert grant == minted
    assert (grant.org, grant.to, grant.caller) == ("acme", "bestellung", "console")


def test_a_token_counts_once():
    ours = tokens()
    token, _ = ours.mint_call("acme", "bestellung", NOW)
    ours.redeem(token, "call", NOW)
    assert refusal(ours, token) == "not_accepted"
    assert refusal(ours, token, now=NOW + 61) == "not_accepted"


def test_a_token_expires():
    ours = tokens()
    token, _ = ours.mint_call("acme", "bestellung", NOW)
    assert refusal(ours, token, now=NOW + 60) == "expired"


def test_a_token_for_a_call_takes_no_call_over_and_the_other_way_round():
    ours = tokens()
    assert refusal(ours, ours.mint_call("acme", "bestellung", NOW)[0], "take_over") == "not_accepted"
    assert refusal(ours, ours.mint_take_over("acme", "01J0", NOW)[0], "call") == "not_accepted"


def test_a_token_of_another_gateway_is_refused_unless_it_names_none():
    first, second = tokens("gw-1"), tokens("gw-2")
    assert refusal(second, first.mint_call("acme", "bestellung", NOW)[0]) == "not_accepted"
    anywhere = Grant(kind="call", org="acme", to="bestellung", token_id="console-1", expires_at=NOW + 10)
    assert second.redeem(first.sign(anywhere), "call", NOW).to == "bestellung"


def test_no_token_lives_longer_than_an_hour_whoever_minted_it():
    ours = tokens()
    for_ever = Grant(kind="call", to="bestellung", token_id="console-1", expires_at=NOW + MAX_LIFE_S + CLOCK_SKEW_S + 1)
    assert refusal(ours, ours.sign(for_ever)) == "not_accepted"


def test_what_is_not_signed_with_our_secret_is_refused():
    ours = tokens()
    token, _ = ours.mint_call("acme", "bestellung", NOW)
    payload, _, signature = token.partition(".")
    forged = json.loads(base64.urlsafe_b64decode(payload + "=="))
    forged["org"] = "other"
    other = base64.urlsafe_b64encode(json.dumps(forged).encode()).rstrip(b"=").decode()
    stolen = tokens(secret=b"x" * 32).mint_call("acme", "bestellung", NOW)[0]
    for bad in (f"{other}.{signature}", stolen, payload, f"{payload}.", f".{signature}", "", ".", "a.b", "ä.ö",
                token[:-1], token + "A" * 3000):  # fmt: skip
        assert refusal(ours, bad) == "not_accepted", bad
    assert ours.redeem(token, "call", NOW)


def test_used_tokens_are_forgotten_when_they_have_expired():
    ours = tokens()
    for number in range(200):
        token, _ = ours.mint_call("acme", "bestellung", NOW + number)
        ours.redeem(token, "call", NOW + number)
    assert len(ours._used) < 70


def test_nothing_is_minted_that_could_not_stand_in_a_subject():
    with pytest.raises(ValidationError):
        tokens().mint_call("acme.>", "bestellung", NOW)
