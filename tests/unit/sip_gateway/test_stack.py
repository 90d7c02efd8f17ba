"""SIP_STACK=pyvoip: what is told when it cannot start."""

import importlib.util

import pytest
from pydantic import ValidationError

from services.sip_gateway.settings import Settings

ACCOUNT = {"sip_server": "127.0.0.1", "sip_username": "100", "sip_password": "geheim"}


def test_it_needs_an_account():
    with pytest.raises(ValidationError, match="SIP_STACK=pyvoip needs SIP_SERVER, SIP_USERNAME and SIP_PASSWORD"):
        Settings(_env_file=None, sip_stack="pyvoip")


@pytest.mark.skipif(importlib.util.find_spec("rfcvoip") is not None, reason="the package is installed")
def test_without_the_package_the_sentence_says_what_to_install():
    with pytest.raises(ValidationError, match=r"install requirements/pyvoip\.lock"):
        Settings(_env_file=None, sip_stack="pyvoip", **ACCOUNT)
