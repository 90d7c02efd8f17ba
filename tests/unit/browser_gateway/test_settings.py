"""Settings: origins as browsers send them, secrets long enough."""

import pytest
from pydantic import ValidationError

from services.browser_gateway.settings import Settings


def settings(**given):
    return Settings(_env_file=None, **given)


def test_the_defaults_listen_on_loopback_only():
    assert (settings().browser_listen_host, settings().browser_listen_port) == ("127.0.0.1", 8090)
    assert settings().browser_allowed_origins == ()


def test_origins_are_compared_as_browsers_send_them(monkeypatch):
    monkeypatch.setenv("BROWSER_ALLOWED_ORIGINS", "https://Console.Example.org/, http://10.0.0.1:8080")
    assert settings().browser_allowed_origins == ("https://console.example.org", "http://10.0.0.1:8080")
    assert settings(browser_public_url="https://calls.example.org/").browser_public_url == "https://calls.example.org"


@pytest.mark.parametrize("wrong", ["console.example.org", "https://", "ftp://x", "https://x/path", "*"])
def test_what_is_no_origin_is_refused(wrong):
    with pytest.raises(ValidationError, match="not an origin"):
        settings(browser_allowed_origins=wrong)


def test_a_short_secret_is_refused_and_not_repeated():
    with pytest.raises(ValidationError) as caught:
        settings(browser_token_secret="tiny-secret")
    assert "tiny-secret" not in str(caught.value.errors()[0]["msg"])
