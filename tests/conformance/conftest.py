"""Which gateway the suite runs against: each of ours, one after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib import import_module
from importlib.util import find_spec

import pytest
import pytest_asyncio

from tests.support.nats import NatsServer, nats_server

DRIVERS = {
    "sip": ("tests.conformance.sip", "SipDriver"),
    "browser": ("tests.conformance.browser", "BrowserDriver"),
    "twilio": ("tests.unit.twilio_gateway.driver", "TwilioDriver"),
}
if find_spec("rfcvoip"):  # GPLv3 and in no set-up of ours: `make test-pyvoip` brings it for one run
    DRIVERS = {"pyvoip": ("tests.conformance.pyvoip", "PyVoipDriver")}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server() -> AsyncIterator[NatsServer]:
    async with nats_server() as running:
        yield running


def made(request):
    """One entrance. What it cannot do has to fail: a test that passes although it is listed is an error."""
    module, name = DRIVERS[request.param]
    driver = getattr(import_module(module), name)()
    reason = driver.cannot.get(request.node.originalname)
    if reason:
        request.node.add_marker(pytest.mark.xfail(reason=reason, strict=True))
    return driver


@pytest.fixture(params=list(DRIVERS))
def driver(request):
    """Each entrance in turn."""
    return made(request)
