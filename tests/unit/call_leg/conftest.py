import pytest

from tests.support.nats import nats_server
from tests.unit.call_leg.at_gateway import gateway_at


@pytest.fixture
async def server():
    async with nats_server() as running:
        yield running


@pytest.fixture
async def gateway(server):
    async with gateway_at(server) as made:
        yield made
