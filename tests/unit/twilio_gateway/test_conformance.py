"""The conformance suite of the gateways, over Twilio."""

import pytest

from tests.conformance.test_calls import *  # noqa: F403  the suite's tests run here with our driver
from tests.unit.twilio_gateway.driver import TwilioDriver


@pytest.fixture
def driver():
    return TwilioDriver()
