"""Settings of the gateway: what is missing or wrong is said in a sentence, before anything listens."""

import pytest
from pydantic import ValidationError

from libs.runtime.service import wrong_settings
from services.twilio_gateway.__main__ import rest_api
from services.twilio_gateway.settings import Settings

GOOD = {"twilio_account_sid": "AC" + "a" * 32, "twilio_auth_token": "t", "public_url": "https://calls.example.com"}
NAMES = ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "PUBLIC_URL", "TWILIO_FROM")


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def made(**changes) -> Settings:
    return Settings(_env_file=None, **{k: v for k, v in (GOOD | changes).items() if v is not None})


def complaint(**changes) -> str:
    with pytest.raises(ValidationError) as caught:
        made(**changes)
    (sentence,) = wrong_settings(caught.value)
    return sentence


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"twilio_auth_token": None}, "TWILIO_AUTH_TOKEN is not set; without it anybody could place calls here"),
        ({"twilio_account_sid": None}, "TWILIO_ACCOUNT_SID is not set"),
        ({"public_url": None}, "PUBLIC_URL is not set"),
        ({"public_url": "calls.example.com"}, "is not a URL such as https://calls.example.com"),
        ({"public_url": "https://calls.example.com/?a=b"}, "is not a URL such as"),
        ({"public_url": "http://calls.example.com"}, "media streams need TLS"),
        ({"twilio_api_key": "SK1"}, "TWILIO_API_KEY and TWILIO_API_SECRET belong together"),
        ({"twilio_allow_unsigned": True, "twilio_listen_host": "0.0.0.0"}, "TWILIO_LISTEN_HOST on loopback"),
    ],
)
def test_what_is_missing_or_wrong_is_said(changes, says):
    assert says in complaint(**changes)


def test_numbers_are_separated_by_commas(monkeypatch):
    monkeypatch.setenv("TWILIO_FROM", "+4930555000, +4930555001")
    assert made().twilio_from == ("+4930555000", "+4930555001")


@pytest.mark.parametrize(
    ("public", "stream"),
    [
        ("https://calls.example.com/", "wss://calls.example.com"),
        ("https://example.com/callbus", "wss://example.com/callbus"),
        ("http://127.0.0.1:8091", "ws://127.0.0.1:8091"),
    ],
)
def test_the_stream_url_follows_the_public_url(public, stream):
    assert made(public_url=public).stream_url == stream


async def test_the_rest_api_takes_the_api_key_where_there_is_one():
    with_key = rest_api(made(twilio_api_key="SK1", twilio_api_secret="s"))
    assert with_key._auth == "Basic U0sxOnM="
    assert rest_api(made())._auth != with_key._auth


def test_the_secret_is_not_shown():
    assert "'t'" not in repr(made())
