"""One trunk at work: the next server when one is silent, a network that comes back, the metric."""

from services.sip_gateway import trunk as trunk_module
from services.sip_gateway.instruments import TRUNK_STATE
from services.sip_gateway.transport import Local
from tests.unit.sip_gateway.conftest import world
from tests.unit.sip_gateway.far_end import FarEnd, ringing

ACCOUNT = {"sip_server": "127.0.0.1", "sip_username": "100", "sip_password": "geheim"}


class TwoServers:
    """Stands for DNS: the first server is the preferred one."""

    def __init__(self, *ports: int) -> None:
        self.ports = ports

    async def resolve(self, server, transport, port=None):
        from services.sip_gateway.resolve import Destination, Destinations

        return Destinations(Destination("127.0.0.1", port, "udp") for port in self.ports)


async def test_the_next_server_of_a_trunk_is_registered_with_when_one_is_down(server, monkeypatch):
    async with await FarEnd.open(ringing) as down, await FarEnd.open(ringing) as up:
        down.refuses = 503
        monkeypatch.setattr(trunk_module, "Resolver", lambda family: TwoServers(down.port, up.port))
        async with world(server, **ACCOUNT) as here:
            trunk = here.gateway.trunks.named("default")
            await here.until(lambda: trunk.state == "registered")
            assert trunk.status()["address"] == f"127.0.0.1:{up.port}"
            assert trunk.problem == ""
            assert len(down.requests("REGISTER")) == 1


async def test_a_network_that_comes_back_registers_anew_at_once(server):
    async with await FarEnd.open(ringing) as provider, world(server, sip_port=provider.port, **ACCOUNT) as here:
        trunk = here.gateway.trunks.named("default")
        await here.until(lambda: trunk.state == "registered")
        trunk.network_returned()
        await provider.until(lambda: len(provider.requests("REGISTER")) == 2)


async def test_another_address_of_ours_is_another_contact(server, monkeypatch):
    async with await FarEnd.open(ringing) as provider, world(server, sip_port=provider.port, **ACCOUNT) as here:
        trunk = here.gateway.trunks.named("default")
        await here.until(lambda: trunk.state == "registered")
        monkeypatch.setattr(here.gateway.transport, "local", lambda host, transport="udp": Local("127.0.0.2"))
        trunk.network_returned()
        await provider.until(lambda: any("@127.0.0.2:" in contact for contact in provider.registered))
        await here.until(lambda: trunk.state == "registered")
        assert any("@127.0.0.1:" in c and "expires=0" in c for c in provider.registered)


async def test_the_metric_has_one_present_state_for_each_trunk(server):
    async with await FarEnd.open(ringing) as provider, world(server, sip_port=provider.port, **ACCOUNT) as here:
        here.gateway.trunks.export()

        def present():
            return {key for key, value in TRUNK_STATE.values().items() if value == 1}

        assert len(present()) == 1
        await here.until(lambda: present() == {("default", "registered")})
